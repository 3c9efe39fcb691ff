// The words of packed MXFP4 weights (ops/linear/packed.h) and how they become bf16; shared by host code and kernels.
//
// A bf16 with e2m1's sign in bit 15, its exponent in bits 8 and 7 and its mantissa in bit 6 is the code's value times
// 2^-126, the subnormal code among them, so a product with 2^126 times the scale is the weight. The codes' bits stand
// in a word so that few operations bring them there; the logic and shift units are what kernels run out of:
//   element     sign  exponent  mantissa
//   of a[0]       15     16, 7         6
//   of a[1]       11      4, 3         2
//   of a[2]       21    14, 13        12
//   of a[3]       17     10, 9         8
// are the bits of the lower element; those of the upper one are 16 further, 32 being 0.
#pragma once

#include <cstdint>

namespace weir {

// A code's bits in a word, as the lower element of register i.
constexpr uint32_t mxfp4_lower_bits(uint32_t code, int i) {
  constexpr int kSign[4] = {15, 11, 21, 17};
  constexpr int kHigh[4] = {16, 4, 14, 10};
  constexpr int kLow[4] = {7, 3, 13, 9};
  constexpr int kMantissa[4] = {6, 2, 12, 8};
  return (code >> 3 & 1U) << kSign[i] | (code >> 2 & 1U) << kHigh[i] | (code >> 1 & 1U) << kLow[i] |
         (code & 1U) << kMantissa[i];
}
// The bits of both elements of register i.
constexpr uint32_t mxfp4_bits(uint32_t lower, uint32_t upper, int i) {
  const uint32_t exchanged = mxfp4_lower_bits(upper, i);
  return mxfp4_lower_bits(lower, i) | exchanged << 16 | exchanged >> 16;
}

// Registers a[0..3] of a word, bf16, 2^-126 times the codes' values.
constexpr void mxfp4_unpack(uint32_t word, uint32_t (&a)[4]) {
  constexpr uint32_t kPlaces = 0x81c081c0U;
  const uint32_t turned = word >> 8 | word << 24;
  a[0] = (word & 0x80c080c0U) | (turned & 0x01000100U);
  a[1] = (word << 4) & kPlaces;
  a[2] = (turned << 2) & kPlaces;
  a[3] = (turned << 6) & kPlaces;
}

// What registers are multiplied by, as bf16, of row g in the lower half and of row g + 8 in the upper one; `half`: of
// the tile's k. `scales`: the tile's word of scale codes of these rows. 2^126 times the scale where the code is less
// than 128, else that of the code less 128, and then two factors of 2^64 are missing.
constexpr uint32_t mxfp4_factors(uint32_t scales, int half) {
  return ((half == 0 ? scales << 7 : scales >> 1) & 0x3f803f80U) + 0x3f003f00U;
}
constexpr bool mxfp4_has_large(uint32_t scales) {
  return (scales & 0x80808080U) != 0;
}
// One of the two: 2^64 or, for smaller codes, 1; NaN for 255.
constexpr uint32_t mxfp4_large_factors(uint32_t scales, int half) {
  uint32_t pair = 0;
  for (int shift = 0; shift < 32; shift += 16) {
    const uint32_t code = scales >> (8 * half + shift) & 0xffU;
    pair |= (code < 128 ? 0x3f80U : code < 255 ? 0x5f80U : 0x7fc0U) << shift;
  }
  return pair;
}

}  // namespace weir
