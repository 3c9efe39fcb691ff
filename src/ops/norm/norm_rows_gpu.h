// Normed rows in the types of the products with packed weights, on a GPU.
#pragma once

#include "ops/gpu/gpu.h"
#include "ops/norm/norm_rows_args.h"

namespace weir {

// Overlaps with the kernel before it.
void norm_rows(Gpu& gpu, GpuNormRowsArgs args, int64_t rows);

}  // namespace weir
