#include "tensor/fp8_blocks.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "tensor/dtype.h"
#include "tensor/fp8.h"

namespace weir {

void quantise_fp8_band(const float* rows, int64_t n, int64_t k, uint8_t* codes, float* scales) {
  WEIR_CHECK(n >= 1 && n <= kFp8Block, "a band of {} rows", n);
  for (int64_t first = 0; first < k; first += kFp8Block) {
    const int64_t end = std::min(k, first + kFp8Block);
    float largest = 0.0F;
    for (int64_t r = 0; r < n; ++r) {
      for (int64_t c = first; c < end; ++c) largest = std::max(largest, std::abs(rows[r * k + c]));
    }
    const float scale = std::max(largest / kFp8E4M3Max, std::numeric_limits<float>::min());
    scales[first / kFp8Block] = scale;
    for (int64_t r = 0; r < n; ++r) {
      for (int64_t c = first; c < end; ++c) codes[r * k + c] = float_to_fp8_e4m3(rows[r * k + c] / scale);
    }
  }
}

}  // namespace weir
