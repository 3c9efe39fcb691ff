// bfloat16: the upper half of an IEEE binary32. Every bfloat16 value is exact in float.
#pragma once

#include <bit>
#include <cstdint>

namespace weir {

constexpr float bf16_to_float(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

// Rounds to nearest, ties to even; overflow becomes infinity; every NaN becomes a quiet NaN of the same sign.
constexpr uint16_t float_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  // A NaN whose payload sits in the low half would round to infinity, so the quiet bit is set instead.
  if (is_nan) return static_cast<uint16_t>((bits >> 16) | 0x0040u);
  // Half of the dropped unit, less one bit when the kept unit is even: a carry moves into the exponent as it should.
  const uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  return static_cast<uint16_t>(rounded >> 16);
}

}  // namespace weir
