// Rows of the embedding table on a GPU.
#pragma once

#include "ops/embed/gpu_args.h"
#include "ops/gpu/gpu.h"

namespace weir {

void embed(Gpu& gpu, const GpuEmbedArgs& args, int64_t tokens);

}  // namespace weir
