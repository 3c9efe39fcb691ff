// FP8 E4M3 of the OCP 8-bit floating point specification ("e4m3fn"): 1 sign, 4 exponent (bias 7) and 3 mantissa bits,
// no infinities, one NaN per sign (0x7f, 0xff), largest finite value 448.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

namespace weir {

inline constexpr float kFp8E4M3Max = 448.0f;  // 0x7e

// Exact for all 256 codes.
constexpr float fp8_e4m3_to_float(uint8_t code) {
  const uint32_t magnitude = code & 0x7fu;
  const uint32_t sign = static_cast<uint32_t>(code & 0x80u) << 24;
  if (magnitude == 0x7fu) return std::numeric_limits<float>::quiet_NaN();
  if (magnitude < 8u) {
    // Subnormals and zero: mantissa * 2^-9.
    const uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(magnitude) * 0x1p-9f);
    return std::bit_cast<float>(bits | sign);
  }
  // Exponent bias 7 to bias 127 is + 120 in the exponent field, which the three mantissa bits follow.
  return std::bit_cast<float>(((magnitude << 20) + (120u << 23)) | sign);
}

// Rounds to nearest, ties to even. Magnitudes over 448, infinities among them, become 448 of their sign; NaN becomes
// 0x7f.
constexpr uint8_t float_to_fp8_e4m3(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7fffffffu;
  const auto sign = static_cast<uint8_t>((bits >> 24) & 0x80u);
  if (magnitude > 0x7f800000u) return 0x7f;
  const float size = std::bit_cast<float>(magnitude);
  if (size >= kFp8E4M3Max) return static_cast<uint8_t>(0x7eu | sign);
  if (size < 0x1p-6f) {
    // Units of 2^-9 (the subnormal step). Adding 2^23 leaves the rounded integer in the low mantissa bits; 8 is the
    // code of the smallest normal number, so a carry out of the subnormals is right as well.
    const uint32_t units = std::bit_cast<uint32_t>(size * 0x1p9f + 0x1p23f) & 0xfu;
    return static_cast<uint8_t>(units | sign);
  }
  const uint32_t rounded = magnitude + 0x7ffffu + ((magnitude >> 20) & 1u);
  return static_cast<uint8_t>(((rounded - (120u << 23)) >> 20) | sign);
}

}  // namespace weir
