#pragma once

#include <cstdint>

namespace weir {

// y = (1 + w) * (x / sqrt(mean(x^2) + eps)), per row. Row r reads row x_rows[r] of x where that is given. Each of 256
// threads sums the squares of its columns in ascending order; the order of the rest depends on nothing.
struct GpuRmsNormArgs {
  const float* x = nullptr;
  float* y = nullptr;  // may be x where x_rows is null
  const int32_t* x_rows = nullptr;
  const float* weight = nullptr;
  int64_t x_stride = 0;
  int64_t y_stride = 0;
  int32_t size = 0;
  float eps = 1e-6F;
};

}  // namespace weir
