// From logits to tokens on a GPU: equal, id for id, to the CPU's sampler given equal logits.
#pragma once

#include <cstdint>

#include "ops/gpu/gpu.h"
#include "ops/sample/sample_args.h"

namespace weir {

// One launch, whatever the rows' parameters: a recorded call serves every later step of R rows. `args.rows` is read
// by the kernel alone, before it waits for the kernel before it. Takes V up to kGpuSampleWidthMax. Cost: one read of
// the logits; rows with top_k, top_p or min_p are read once too, by eight blocks each, which keep them in shared
// memory.
void sample(Gpu gpu, GpuSampleArgs args, int64_t rows);

inline constexpr int64_t kGpuSampleWidthMax = 380'000;

}  // namespace weir
