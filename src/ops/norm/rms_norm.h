// y = w * (x / sqrt(mean(x^2) + eps)), per row, in float32. The squares are summed in 16 interleaved lanes, then the
// lanes pairwise: the order depends on `size` alone.
#pragma once

#include <cstdint>

#include "ops/cpu/cpu.h"

namespace weir {

struct RmsNormArgs {
  const float* x = nullptr;  // [rows, size]
  int64_t x_stride = 0;
  const int32_t* x_rows = nullptr;  // row r reads row x_rows[r] of x; null: row r
  int64_t rows = 0;
  int64_t size = 0;
  const float* weight = nullptr;  // [size]
  bool zero_centred = true;       // multiply by (1 + weight) instead of weight
  float eps = 1e-6F;
  float* y = nullptr;  // [rows, size]; may be x
  int64_t y_stride = 0;
};

void rms_norm(Cpu& cpu, const RmsNormArgs& args);

}  // namespace weir
