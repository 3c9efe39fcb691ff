// Feed-forward blocks on a GPU.
#pragma once

#include "ops/gpu/gpu.h"
#include "ops/moe/gpu_args.h"

namespace weir {

void route(Gpu& gpu, const GpuRouteArgs& args, int64_t rows);
void feed_forward(Gpu& gpu, const GpuFeedForwardArgs& args, int64_t rows);

}  // namespace weir
