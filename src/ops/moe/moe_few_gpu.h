// The sparse experts over at most eight rows, and over at most 64, with packed FP8 or MXFP4 weights on a GPU; beside
// MXFP4 ones a shared expert may be BF16.
#pragma once

#include "ops/gpu/gpu.h"
#include "ops/moe/moe_few_args.h"

namespace weir {

// Whether experts_few() takes these shapes, on a device and on one of this kind. Its bits are those of
// experts_packed().
bool few_experts_fit(const device::DeviceInfo& info, const GpuFewExpertsArgs& args);
inline bool few_experts_takes(const Gpu& gpu, const GpuFewExpertsArgs& args) {
  return few_experts_fit(gpu.device->info(), args);
}

// Two kernels for one row and one for several, as experts_packed() and with its conditions. The shared expert's hidden
// values are there before, behind the rows' of the others: at hidden + rows * top_k * F.
void experts_few(Gpu& gpu, GpuFewExpertsArgs args);

// The same for up to kPackedMoeRows rows, that share a read of an expert; `routes`: kSomeRoutesBytes. Three kernels,
// which work out the shared expert's hidden values, too.
inline constexpr int64_t kSomeRoutesBytes = 32 * 1024;
bool some_experts_fit(const device::DeviceInfo& info, const GpuFewExpertsArgs& args);
inline bool some_experts_takes(const Gpu& gpu, const GpuFewExpertsArgs& args) {
  return some_experts_fit(gpu.device->info(), args);
}
void experts_some(Gpu& gpu, GpuFewExpertsArgs args);

}  // namespace weir
