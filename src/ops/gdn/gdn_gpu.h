// The Gated DeltaNet mixer on a GPU, on slots of the layout of ops/gdn/gdn.h.
#pragma once

#include "ops/gdn/gdn.h"
#include "ops/gdn/gpu_args.h"
#include "ops/gpu/gpu.h"

namespace weir {

// Fills in the sizes and the offsets of the slot's parts.
void set_shape(const GdnShape& shape, GpuGdnArgs* args);
// Shared memory that a block takes.
int64_t gdn_shared_bytes(const GpuGdnArgs& args);
void gdn(Gpu& gpu, const GpuGdnArgs& args, int64_t sequences);

}  // namespace weir
