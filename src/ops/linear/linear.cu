// A warp per output column and group of rows: every weight is read and decoded once for the rows of a group. Bound by
// reading the weights for few rows; many rows read them again for each group of eight.
#include "ops/linear/dot.h"

namespace weir {

template <int kRows>
WEIR_DEVICE void linear_rows(const GpuLinearArgs& args, int64_t first) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * (blockDim.x / device::kWarp) + device::warp();
  if (n >= args.weight.n) return;
  const float* x[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int64_t row = first + r < args.rows ? first + r : args.rows - 1;
    x[r] = args.x + row * args.x_stride;
  }
  float sums[kRows];
  dot_rows<kRows>(args.weight, n, x, sums);
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (device::lane() != r || first + r >= args.rows) continue;
    float* y = args.y + (first + r) * args.y_stride + n;
    *y = args.add != 0 ? *y + sums[r] : sums[r];
  }
}

WEIR_KERNEL(weir_linear_1, GpuLinearArgs) {
  linear_rows<1>(args, 0);
}
WEIR_KERNEL(weir_linear_4, GpuLinearArgs) {
  linear_rows<4>(args, 0);
}
WEIR_KERNEL(weir_linear_8, GpuLinearArgs) {
  linear_rows<8>(args, static_cast<int64_t>(blockIdx.y) * 8);
}

}  // namespace weir
