// MXFP4 of the OCP Microscaling Formats specification: groups of 32 E2M1 codes that share one E8M0 scale.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <limits>

namespace weir {

inline constexpr float kE2M1Max = 6.0f;

// Exact for all 16 codes (the low four bits of `code`): bit 3 is the sign, bits 2..0 an index into the magnitudes.
constexpr float e2m1_to_float(uint8_t code) {
  constexpr std::array<float, 8> kMagnitudes = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
  const float magnitude = kMagnitudes[code & 7u];
  return (code & 8u) != 0 ? -magnitude : magnitude;
}

// Rounds to nearest, ties to the even code; magnitudes over 6 become 6; NaN becomes 6 (the format has none).
constexpr uint8_t float_to_e2m1(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint8_t>((bits >> 28) & 8u);
  const float size = std::bit_cast<float>(bits & 0x7fffffffu);
  // Midpoints between neighbours; the one below an even code belongs to that code.
  uint8_t code = 7;
  if (size <= 0.25f) {
    code = 0;
  } else if (size < 0.75f) {
    code = 1;
  } else if (size <= 1.25f) {
    code = 2;
  } else if (size < 1.75f) {
    code = 3;
  } else if (size <= 2.5f) {
    code = 4;
  } else if (size < 3.5f) {
    code = 5;
  } else if (size <= 5.0f) {
    code = 6;
  }
  return static_cast<uint8_t>(code | sign);
}

// 2^(code - 127), exact; 255 is NaN. Code 0 is 2^-127, a subnormal float.
constexpr float e8m0_to_float(uint8_t code) {
  if (code == 255) return std::numeric_limits<float>::quiet_NaN();
  if (code == 0) return 0x1p-127f;
  return std::bit_cast<float>(static_cast<uint32_t>(code) << 23);
}

}  // namespace weir
