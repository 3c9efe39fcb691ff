// For tests of prompts: rows of x that bf16 and f16 both hold, and their bits.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

#include "ops/gpu/gpu_test.h"
#include "ops/linear/packed.h"

namespace weir {

// Rounded to bf16; what f16 would hold as a subnormal number becomes zero.
inline std::vector<float> operand_rounded(std::vector<float> x) {
  x = float_values(bf16_values(x));
  for (float& v : x) v = std::abs(v) < 0x1p-14F ? 0.0F : v;
  return x;
}

// The bits of such values, below 65,536.
inline std::vector<uint16_t> operand_bits(const std::vector<float>& x, int32_t format) {
  if (operand_type(format) == kOperandBf16) return bf16_values(x);
  std::vector<uint16_t> out(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const auto bits = std::bit_cast<uint32_t>(x[i]);
    const uint32_t size = (bits & 0x7fffffffU) == 0 ? 0 : ((bits & 0x7fffffffU) - (112U << 23)) >> 13;
    out[i] = static_cast<uint16_t>((bits >> 16 & 0x8000U) | size);
  }
  return out;
}

}  // namespace weir
