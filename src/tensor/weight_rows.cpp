#include "tensor/weight_rows.h"

#include <cstring>

#include "base/check.h"
#include "tensor/bf16.h"
#include "tensor/fp8.h"
#include "tensor/mxfp4.h"
#include "tensor/weight_scales.h"

namespace weir {

void read_row(const WeightMatrix& w, int64_t row, float* values) {
  WEIR_CHECK(row >= 0 && row < w.n, "row {} of {}", row, w.n);
  const std::byte* data = w.data + row * w.row_bytes;
  const auto* codes = reinterpret_cast<const uint8_t*>(data);
  switch (w.format) {
    case WeightFormat::kF32:
      std::memcpy(values, data, static_cast<size_t>(w.k) * sizeof(float));
      return;
    case WeightFormat::kBf16:
      for (int64_t k = 0; k < w.k; ++k) {
        uint16_t bits = 0;
        std::memcpy(&bits, data + k * 2, sizeof(bits));
        values[k] = bf16_to_float(bits);
      }
      return;
    case WeightFormat::kFp8Block:
      for (int64_t first = 0; first < w.k; first += kFp8Block) {
        const float scale = scale_at(w, row / kFp8Block * w.scale_stride + first / kFp8Block);
        for (int64_t k = first; k < w.k && k < first + kFp8Block; ++k) values[k] = fp8_e4m3_to_float(codes[k]) * scale;
      }
      return;
    case WeightFormat::kFp8Row: {
      const float scale = scale_at(w, row * w.scale_stride);
      for (int64_t k = 0; k < w.k; ++k) values[k] = fp8_e4m3_to_float(codes[k]) * scale;
      return;
    }
    case WeightFormat::kMxfp4: {
      const auto* scales = reinterpret_cast<const uint8_t*>(w.scales) + row * w.scale_stride;
      for (int64_t k = 0; k < w.k; ++k) {
        const uint8_t pair = codes[k / 2];
        const auto code = static_cast<uint8_t>(k % 2 == 0 ? pair & 15 : pair >> 4);
        values[k] = e2m1_to_float(code) * e8m0_to_float(scales[k / kMxfp4Group]);
      }
      return;
    }
  }
}

}  // namespace weir
