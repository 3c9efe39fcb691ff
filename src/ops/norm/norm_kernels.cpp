// Bound by memory: two passes over a row, the second from the first-level cache.
#include "ops/norm/norm_kernels.h"

#include "ops/cpu/kernel_table.h"
#include "ops/cpu/vec_math.h"

namespace weir::WEIR_ISA {

void rms_norm_rows(const RmsNormRows& rows) {
  const Vec shift = splat(rows.shift);
  for (int64_t row = rows.row_begin; row < rows.row_end; ++row) {
    const float* x = rows.x + (rows.x_rows == nullptr ? row : rows.x_rows[row]) * rows.x_stride;
    float* y = rows.y + row * rows.y_stride;
    const float mean = sum_squares(x, rows.size) / static_cast<float>(rows.size);
    const Vec scale = splat(1.0F / __builtin_sqrtf(mean + rows.eps));
    for (int64_t i = 0; i < rows.size; i += kLanes) {
      const Vec w = add(shift, load_tail(rows.weight, i, rows.size));
      store_tail(y, mul(mul(load_tail(x, i, rows.size), scale), w), i, rows.size);
    }
  }
}

}  // namespace weir::WEIR_ISA
