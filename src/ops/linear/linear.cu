// A warp per output column and group of rows: every weight is read and decoded once for the rows of a group. Bound by
// reading the weights for few rows; many rows read them again for each group of eight.
#include "ops/linear/dot.h"

namespace weir {

template <int kRows>
WEIR_DEVICE void linear_rows(const GpuLinearArgs& args, int64_t first) {
  const int block = static_cast<int>(blockIdx.x);
  int index = 0;
  while (block >= args.outputs[index].block_end) ++index;
  const GpuLinearArgs::Output& out = args.outputs[index];
  const int64_t local = block - (index == 0 ? 0 : args.outputs[index - 1].block_end);
  const int64_t n = local * (blockDim.x / device::kWarp) + device::warp();
  if (n >= out.weight.n) return;
  const float* x[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int64_t row = first + r < args.rows ? first + r : args.rows - 1;
    x[r] = args.x + row * args.x_stride;
  }
  float sums[kRows];
  dot_rows<kRows>(out.weight, n, x, sums);
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (device::lane() != r || first + r >= args.rows) continue;
    float* y = out.y + (first + r) * out.y_stride + n;
    *y = out.add != 0 ? *y + sums[r] : sums[r];
  }
}

// One row: two columns a warp.
WEIR_KERNEL_BOUNDED(weir_linear_1, GpuLinearArgs, 256, 3) {
  const int block = static_cast<int>(blockIdx.x);
  int index = 0;
  while (block >= args.outputs[index].block_end) ++index;
  const GpuLinearArgs::Output& out = args.outputs[index];
  const int64_t local = block - (index == 0 ? 0 : args.outputs[index - 1].block_end);
  const int64_t n = (local * (blockDim.x / device::kWarp) + device::warp()) * 2;
  if (n >= out.weight.n) return;
  const GpuMatrix* const w[2] = {&out.weight, &out.weight};
  const int64_t columns[2] = {n, n + 1 < out.weight.n ? n + 1 : n};
  float sums[2];
  dot_columns<2>(w, columns, args.x, sums);
  const int lane = device::lane();
  if (lane > 1 || n + lane >= out.weight.n) return;
  float* y = out.y + n + lane;
  const float sum = lane == 0 ? sums[0] : sums[1];
  *y = out.add != 0 ? *y + sum : sum;
}
WEIR_KERNEL(weir_linear_4, GpuLinearArgs) {
  linear_rows<4>(args, 0);
}
WEIR_KERNEL(weir_linear_8, GpuLinearArgs) {
  linear_rows<8>(args, static_cast<int64_t>(blockIdx.y) * 8);
}

}  // namespace weir
