// Routing of many rows on a GPU: the experts and weights that experts_packed() works out for itself.
#pragma once

#include "ops/gpu/gpu.h"
#include "ops/moe/routes_args.h"

namespace weir {

// Overlaps with the kernel before it.
void routes(Gpu& gpu, const GpuRoutesArgs& args);

}  // namespace weir
