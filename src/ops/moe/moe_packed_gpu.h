// The sparse experts over few rows with packed weights on a GPU.
#pragma once

#include "ops/gpu/gpu.h"
#include "ops/moe/moe_packed_args.h"

namespace weir {

// Two kernels that overlap with what comes before them: hidden values of the chosen experts, then their outputs. The
// kernel before this call must be the one that wrote router, x and the shared expert's hidden values. At most
// kPackedMoeRows rows.
void experts_packed(Gpu& gpu, const GpuExpertsArgs& args);

}  // namespace weir
