// Gated attention over paged keys and values on a GPU.
#pragma once

#include "ops/attention/gpu_args.h"
#include "ops/gpu/gpu.h"

namespace weir {

// Writes keys and values of all rows into their pages, then attends. Two launches, three when spread over segments.
void attention(Gpu& gpu, const GpuAttentionArgs& args, int64_t rows);

}  // namespace weir
