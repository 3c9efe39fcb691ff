// Products of a prompt's rows with packed weights on a GPU.
#pragma once

#include "ops/gpu/gpu.h"
#include "ops/linear/linear_prompt_args.h"

namespace weir {

// Rows of one call.
inline constexpr int64_t kPromptRowsMax = 65'536;

// y_i (+)= x W_i^T for up to four matrices of one K. Filled in by the caller: outputs (without tile_end), x_bf16 and
// x_f16 (those that the formats take), x_stride, rows, count. x: 16-byte aligned, x_stride and K multiples of 8. A
// row's bits do not depend on the rows beside it. Overlaps with the kernel before it. Bound by 2 N K floating-point
// operations a row; below about 300 rows by one read of the weights.
//
// With x_e4m3, x_scales and scale_stride instead of x_bf16 and x_f16 the rows are quantised: another numeric family
// (ops/linear/packed.h), for groups whose matrices all take them (takes_e4m3()); x_stride is then of codes and a
// multiple of 16.
void linear_prompt(Gpu& gpu, GpuPromptArgs args);

// What a block works on at a time: so many strips times so many rows of x, a warpgroup's products `columns` wide.
struct PromptShape {
  int32_t strips = 8;
  int32_t columns = 128;
  int32_t rows = 128;
};
// The shape that ends first by the count of rounds over the multiprocessors. `e4m3`: of quantised rows.
PromptShape prompt_shape(int64_t rows, int64_t strips, int64_t multiprocessors, bool e4m3 = false);

// The grid of a kernel that works through units of the format with `tile_bytes`.
device::Grid prompt_grid(const Gpu& gpu, int64_t units, const PromptStages& stages);

}  // namespace weir
