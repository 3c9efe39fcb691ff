// For kernel files: FP8 pages (attention_paged_args.h) as pairs of bf16. A code moved to its place in a bf16 number is
// its value times 2^-120; the row's scale, which is an exponent field, makes it the value: exact.
#pragma once

#include "device/mma.h"
#include "ops/attention/attention_paged_args.h"

namespace weir {

// The multiplier of both halves of a pair.
WEIR_DEVICE uint32_t fp8_scale(uint32_t scale) {
  return (scale << 7) * 0x10001U;
}
// Those of a pair from rows `token` and the next, zeros for rows from `tokens` on.
WEIR_DEVICE uint32_t fp8_scales(const uint8_t* scales, int token, int tokens) {
  const uint32_t low = token < tokens ? scales[token] : 0U;
  const uint32_t high = token + 1 < tokens ? scales[token + 1] : 0U;
  return low << 7 | high << 23;
}

// Bytes 0 and 2 of a word of codes, and bytes 1 and 3.
WEIR_DEVICE uint32_t fp8_even(uint32_t codes, uint32_t scales) {
  return device::multiply_bf16x2(((codes << 8) & 0x80008000U) | ((codes << 4) & 0x07f007f0U), scales);
}
WEIR_DEVICE uint32_t fp8_odd(uint32_t codes, uint32_t scales) {
  return device::multiply_bf16x2((codes & 0x80008000U) | ((codes >> 4) & 0x07f007f0U), scales);
}

}  // namespace weir
