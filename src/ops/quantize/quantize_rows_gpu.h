// Rows quantised for the products of prompts, on a GPU.
#pragma once

#include "ops/gpu/gpu.h"
#include "ops/quantize/quantize_rows_args.h"

namespace weir {

// Overlaps with the kernel before it. Bound by reading x and writing half of its bytes.
void quantize_rows(Gpu& gpu, const GpuQuantizeRowsArgs& args);

}  // namespace weir
