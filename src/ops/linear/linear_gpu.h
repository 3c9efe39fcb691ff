// y = x W^T on a GPU, float32 activations, weights in their stored format. Contract of sums: ops/linear/dot.h.
#pragma once

#include "ops/gpu/gpu.h"
#include "ops/linear/gpu_args.h"

namespace weir {

void linear(Gpu& gpu, GpuLinearArgs args);

}  // namespace weir
