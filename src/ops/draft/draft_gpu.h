// Around the draft head's passes on a GPU: see ops/draft/draft_args.h.
#pragma once

#include "ops/draft/draft_args.h"
#include "ops/gpu/gpu.h"

namespace weir {

// Which drafts of the step held: fills clean, chosen, chain_rows and pass_sample. Once the step's tokens are sampled.
void draft_accept(Gpu& gpu, const GpuDraftArgs& args);
// Fills hidden for `rows` rows of the first pass.
void draft_gather(Gpu& gpu, const GpuDraftArgs& args, int64_t rows);
// Keeps the step's last hidden rows in the rings; behind draft_gather(), which reads them.
void draft_keep(Gpu& gpu, const GpuDraftArgs& args);

}  // namespace weir
