#pragma once

#include <cstdint>

namespace weir {

struct RmsNormRows {
  const float* x = nullptr;
  int64_t x_stride = 0;
  const int32_t* x_rows = nullptr;  // as RmsNormArgs; indexed by row
  int64_t row_begin = 0;
  int64_t row_end = 0;
  int64_t size = 0;
  const float* weight = nullptr;
  float shift = 0;  // y = x / rms * (shift + weight)
  float eps = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
};

}  // namespace weir
