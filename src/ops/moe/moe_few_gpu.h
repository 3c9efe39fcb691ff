// The sparse experts over at most eight rows with packed FP8 weights on a GPU.
#pragma once

#include "ops/gpu/gpu.h"
#include "ops/moe/moe_few_args.h"

namespace weir {

// Whether experts_few() takes these shapes. Its bits are those of experts_packed().
bool few_experts_takes(const Gpu& gpu, const GpuFewExpertsArgs& args);

// Two kernels for one row and one for several, as experts_packed() and with its conditions. The shared expert's hidden
// values are there before, behind the rows' of the others: at hidden + rows * top_k * F.
void experts_few(Gpu& gpu, GpuFewExpertsArgs args);

// The same for up to kPackedMoeRows rows, that share a read of an expert; `routes`: kSomeRoutesBytes. Three kernels.
inline constexpr int64_t kSomeRoutesBytes = 32 * 1024;
bool some_experts_takes(const Gpu& gpu, const GpuFewExpertsArgs& args);
void experts_some(Gpu& gpu, GpuFewExpertsArgs args);

}  // namespace weir
