#pragma once

#include <cstdint>

namespace weir {

inline constexpr int kNormRowsThreads = 128;  // of a block of the kernels of many rows: a warp a row

// Row r of x (x_rows[r] where given), normed, (1 + w) * (x / sqrt(mean(x^2) + eps)), in the types that are asked for
// (null: not). Without `weight` the row as it is. Squares are summed in eighths of the row, the eighths added in
// ascending order: the bits that linear_packed() gives when it norms.
struct GpuNormRowsArgs {
  const float* x = nullptr;
  const int32_t* x_rows = nullptr;
  const float* weight = nullptr;
  uint16_t* bf16 = nullptr;  // [rows][size]
  uint16_t* f16 = nullptr;   // [rows][size]
  float* y = nullptr;        // [rows][y_stride]
  int64_t x_stride = 0;
  int64_t y_stride = 0;
  int32_t size = 0;  // a multiple of 32
  float eps = 1e-6F;
  int32_t rows = 0;  // filled in
  int32_t reserved = 0;
  // The same quantised, for sizes that are multiples of 128: ops/quantize/quantize_rows_args.h.
  uint8_t* e4m3 = nullptr;  // [rows][size]
  float* scales = nullptr;  // [size / 128][scale_stride]; with `e4m3`
  int64_t scale_stride = 0;
};

}  // namespace weir
