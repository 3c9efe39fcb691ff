// Elementary functions on sixteen lanes, built from the operations of vec.h alone so that every instruction set gives
// the same bits. Relative errors are a few units of 2^-24; the tests state and check them.
#pragma once

#include "ops/cpu/vec.h"

namespace weir::WEIR_ISA {

// e^x. 0 below -87 (where the result would leave the normal range), e^88 above 88 (the last whole exponent below
// overflow). x = n ln 2 + r with |r| <= ln 2 / 2; e^r by its Taylor series to r^7, whose rest is below 6e-9.
WEIR_VEC Vec exp(Vec x) {
  const Vec bounded = minimum(splat(88.0F), maximum(splat(-87.0F), x));
  const Vec magic = splat(12582912.0F);  // 1.5 * 2^23: adding it rounds to an integer and leaves that in the low bits
  const Vec shifted = fma(bounded, splat(1.44269504088896341F), magic);
  const Vec n = sub(shifted, magic);
  // ln 2 in two parts, the first with enough zero bits that n times it is exact.
  const Vec r = fma(n, splat(-0x1.7f7d1cp-20F), fma(n, splat(-0x1.62e4p-1F), bounded));
  Vec p = splat(1.0F / 5040.0F);
  p = fma(p, r, splat(1.0F / 720.0F));
  p = fma(p, r, splat(1.0F / 120.0F));
  p = fma(p, r, splat(1.0F / 24.0F));
  p = fma(p, r, splat(1.0F / 6.0F));
  p = fma(p, r, splat(0.5F));
  p = fma(p, r, splat(1.0F));
  p = fma(p, r, splat(1.0F));
  const VecI exponent = add(sub(bits(shifted), bits(magic)), splat_i(127));
  const Vec result = mul(p, from_bits(shift_left<23>(exponent)));
  return select_less(x, splat(-87.0F), zero(), result);
}

// Natural logarithm of a normal positive number: x = 2^k m with m in [sqrt(1/2), sqrt(2)), and
// log m = 2 atanh(s), s = (m - 1) / (m + 1), |s| < 0.172, by the series to s^9.
WEIR_VEC Vec log(Vec x) {
  // Subtracting the bits of sqrt(1/2) makes the exponent field's borrow pick m's range.
  const VecI offset = sub(bits(x), splat_i(0x3f3504f3));
  const VecI k = shift_right<23>(offset);
  const Vec m = from_bits(add(bit_and(offset, splat_i(0x007fffff)), splat_i(0x3f3504f3)));
  const Vec f = sub(m, splat(1.0F));
  const Vec s = div(f, add(m, splat(1.0F)));
  const Vec s2 = mul(s, s);
  Vec p = splat(2.0F / 9.0F);
  p = fma(p, s2, splat(2.0F / 7.0F));
  p = fma(p, s2, splat(2.0F / 5.0F));
  p = fma(p, s2, splat(2.0F / 3.0F));
  p = fma(p, s2, splat(2.0F));
  const Vec kf = to_float(k);
  // The large part of k ln 2 is added last.
  return fma(kf, splat(0x1.62e4p-1F), fma(kf, splat(0x1.7f7d1cp-20F), mul(p, s)));
}

// log(1 + e^x); x itself above 20, where the difference is below one unit in the last place.
WEIR_VEC Vec softplus(Vec x) {
  const Vec y = exp(minimum(splat(20.0F), x));
  const Vec u = add(splat(1.0F), y);
  // u has lost the low bits of y; the logarithm's slope 1 / u gives them back.
  const Vec lost = sub(y, sub(u, splat(1.0F)));
  return select_less(splat(20.0F), x, x, add(log(u), div(lost, u)));
}

WEIR_VEC Vec sigmoid(Vec x) {
  return div(splat(1.0F), add(splat(1.0F), exp(sub(zero(), x))));
}
WEIR_VEC Vec silu(Vec x) {
  return div(x, add(splat(1.0F), exp(sub(zero(), x))));
}

// The sum of squares of x[0, n) in 16 interleaved lanes, then pairwise.
WEIR_VEC float sum_squares(const float* x, int64_t n) {
  Vec sum = zero();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Vec v = load(x + i);
    sum = fma(v, v, sum);
  }
  if (i < n) {
    const Vec v = load_n(x + i, n - i);
    sum = fma(v, v, sum);
  }
  return sum_lanes(sum);
}

// Lanes [i, i + 16) of x[0, n), zeros behind the end.
WEIR_VEC Vec load_tail(const float* x, int64_t i, int64_t n) {
  return i + kLanes <= n ? load(x + i) : load_n(x + i, n - i);
}
WEIR_VEC void store_tail(float* x, Vec v, int64_t i, int64_t n) {
  if (i + kLanes <= n) {
    store(x + i, v);
  } else {
    store_n(x + i, v, n - i);
  }
}

}  // namespace weir::WEIR_ISA
