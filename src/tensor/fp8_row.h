// Rows of FP8 E4M3 codes that have one scale each, a power of two of their own: value = code * 2^(scale - 247). The
// row's largest magnitude m, 2^k <= m < 2^(k + 1), has a code from 128 to 256, so scale = k + 240; being a power of two
// the scale rounds nothing, and every value is a bfloat16 number. The scale is the exponent field of a bfloat16 number
// that makes the value of a code moved to a bfloat16's place (sign to the sign, the others to bits 4 to 10, which is
// code * 2^-120), so reading a row takes one multiplication.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

#include "tensor/fp8.h"

namespace weir {

// Smaller rows than the first scale would need have subnormal codes or zeros; every value is a normal bfloat16 number.
inline constexpr int32_t kFp8RowScaleMin = 130;
// Magnitudes over 448 * 2^7 = 57,344 become that.
inline constexpr int32_t kFp8RowScaleMax = 254;
// Of a row with a number that is not finite: its codes are zeros and all its values NaN.
inline constexpr uint8_t kFp8RowNan = 255;
// Of a row that is all zeros whatever its codes are.
inline constexpr uint8_t kFp8RowZero = 0;

// `largest`: the largest of the row's numbers as bits without their sign.
constexpr uint8_t fp8_row_scale(uint32_t largest) {
  if (largest >= 0x7f800000u) return kFp8RowNan;
  const auto scale = static_cast<int32_t>(largest >> 23) + 113;
  if (scale < kFp8RowScaleMin) return kFp8RowScaleMin;
  return static_cast<uint8_t>(scale > kFp8RowScaleMax ? kFp8RowScaleMax : scale);
}

// What the row's numbers are multiplied by before they are rounded to codes; 0 of a row that is not finite.
constexpr float fp8_row_shrink(uint8_t scale) {
  return scale == kFp8RowNan ? 0.0f : std::bit_cast<float>((374u - scale) << 23);
}

// Of a finite row.
constexpr uint8_t fp8_row_code(float value, uint8_t scale) {
  return float_to_fp8_e4m3(value * fp8_row_shrink(scale));
}

// What codes are multiplied by.
constexpr float fp8_row_step(uint8_t scale) {
  if (scale == kFp8RowNan) return std::numeric_limits<float>::quiet_NaN();
  return scale < kFp8RowScaleMin ? 0.0f : std::bit_cast<float>((scale - 120u) << 23);
}

}  // namespace weir
