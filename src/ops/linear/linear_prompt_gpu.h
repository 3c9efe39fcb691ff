// Products of a prompt's rows with packed weights on a GPU.
#pragma once

#include "ops/gpu/gpu.h"
#include "ops/linear/linear_prompt_args.h"

namespace weir {

// Rows of one call.
inline constexpr int64_t kPromptRowsMax = 65'536;

// y_i (+)= x W_i^T for up to four matrices of one K. Filled in by the caller: outputs (without tile_end), x, x_stride,
// rows, count. x: 16-byte aligned, x_stride and K multiples of 8. A row's bits do not depend on the rows beside it.
// Overlaps with the kernel before it. Bound by 2 N K floating-point operations a row; below about 300 rows by one read
// of the weights.
void linear_prompt(Gpu& gpu, GpuPromptArgs args);

// Rows of x that a unit takes: the size that ends first by the count of rounds over the multiprocessors.
int32_t prompt_unit_rows(int64_t rows, int64_t row_tiles, int64_t multiprocessors);

// The grid of a kernel that works through units of the format with `tile_bytes`.
device::Grid prompt_grid(const Gpu& gpu, int64_t units, const PromptStages& stages);

}  // namespace weir
