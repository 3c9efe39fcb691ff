// RMSNorm on a GPU.
#pragma once

#include "ops/gpu/gpu.h"
#include "ops/norm/gpu_args.h"

namespace weir {

void rms_norm(Gpu& gpu, const GpuRmsNormArgs& args, int64_t rows);

}  // namespace weir
