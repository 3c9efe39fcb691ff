// What a sampler on the CPU and one on a GPU must compute alike. Position-keyed noise: Gumbel(seed, position, id), the
// same bits wherever it is computed. Only additions, multiplications, divisions, fused multiply-adds and integer
// operations are used, and no product whose sum a compiler could fuse.
#pragma once

#include <cmath>
#include <cstdint>

// Kernel files include device/kernel.h first: there these are the device's.
#ifdef WEIR_DEVICE
#define WEIR_PORTABLE WEIR_DEVICE
#else
#define WEIR_PORTABLE inline
#endif

namespace weir {

// Logits times more than this may be infinite, and infinities tie. Distinct logits are then so far apart that noise
// cannot change their order: as good as greedy.
inline constexpr float kSampleScaleMax = 1e30F;

// Natural logarithm of a positive normal float, within 2 ulp. log(m 2^e) = e ln 2 + 2 atanh((m - 1) / (m + 1)) with m
// in [sqrt(1/2), sqrt(2)); the series ends where its next term is under 1e-10.
WEIR_PORTABLE float portable_log(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  // 0x3f3504f3 is sqrt(1/2): subtracting it rounds the exponent so that m lands in [sqrt(1/2), sqrt(2)).
  const int32_t exponent = static_cast<int32_t>(bits - 0x3f3504f3U) >> 23;
  const float m = __builtin_bit_cast(float, bits - (static_cast<uint32_t>(exponent) << 23));
  const float s = (m - 1.0F) / (m + 1.0F);
  const float z = s * s;
  float series = 1.0F / 11.0F;
  series = fmaf(series, z, 1.0F / 9.0F);
  series = fmaf(series, z, 1.0F / 7.0F);
  series = fmaf(series, z, 1.0F / 5.0F);
  series = fmaf(series, z, 1.0F / 3.0F);
  series = fmaf(series, z, 1.0F);
  const float e = static_cast<float>(exponent);
  constexpr float kLn2High = 0.693145751953125F;         // 16 bits of ln 2: e * kLn2High is exact
  constexpr float kLn2Low = 1.42860682030941723212e-6F;  // the rest
  return fmaf(e, kLn2High, fmaf(2.0F * s, series, e * kLn2Low));
}

// exp(x) for x <= 0, within 2 ulp; 0 below -87 (where float32 ends to be normal).
WEIR_PORTABLE float portable_exp(float x) {
  if (!(x > -87.0F)) return 0.0F;
  constexpr float kLog2E = 1.44269504088896341F;
  const float n = floorf(fmaf(x, kLog2E, 0.5F));
  float r = fmaf(n, -0.693145751953125F, x);
  r = fmaf(n, -1.42860682030941723212e-6F, r);
  float p = 1.0F / 5040.0F;
  p = fmaf(p, r, 1.0F / 720.0F);
  p = fmaf(p, r, 1.0F / 120.0F);
  p = fmaf(p, r, 1.0F / 24.0F);
  p = fmaf(p, r, 1.0F / 6.0F);
  p = fmaf(p, r, 0.5F);
  p = fmaf(p, r, 1.0F);
  p = fmaf(p, r, 1.0F);
  const auto scale = static_cast<uint32_t>(static_cast<int32_t>(n) + 127) << 23;
  return p * __builtin_bit_cast(float, scale);
}

// 32 random bits of (seed, position, id): Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
// SC 2011) with the seed as key and (position, id / 4) as counter; the id picks the word. All four words of one
// counter:
WEIR_PORTABLE void noise_words(uint64_t seed, int64_t position, uint32_t counter, uint32_t* words) {
  auto key0 = static_cast<uint32_t>(seed);
  auto key1 = static_cast<uint32_t>(seed >> 32);
  uint32_t c0 = static_cast<uint32_t>(position);
  uint32_t c1 = static_cast<uint32_t>(static_cast<uint64_t>(position) >> 32);
  uint32_t c2 = counter;
  uint32_t c3 = 0;
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53U} * c0;
    const uint64_t product1 = uint64_t{0xCD9E8D57U} * c2;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ key0;
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ key1;
    c1 = static_cast<uint32_t>(product1);
    c3 = static_cast<uint32_t>(product0);
    key0 += 0x9E3779B9U;
    key1 += 0xBB67AE85U;
  }
  words[0] = c0;
  words[1] = c1;
  words[2] = c2;
  words[3] = c3;
}

WEIR_PORTABLE uint32_t noise_bits(uint64_t seed, int64_t position, int32_t id) {
  uint32_t words[4];
  noise_words(seed, position, static_cast<uint32_t>(id) >> 2, words);
  const uint32_t low = (id & 1) != 0 ? words[1] : words[0];
  const uint32_t high = (id & 1) != 0 ? words[3] : words[2];
  return (id & 2) != 0 ? high : low;
}

// A standard Gumbel variate, -log(E) with E exponential. E = -log(1 - w), w = (bits + 1/2) 2^-32; small w, the tail
// that decides an argmax, is kept to full precision by its own series.
WEIR_PORTABLE float gumbel_of_bits(uint32_t bits) {
  constexpr float kScale = 1.0F / 4294967296.0F;
  float exponential;
  if (bits < (1U << 28)) {  // w < 1/16: seven terms leave an error under 5e-10 of w
    const float w = (static_cast<float>(bits) + 0.5F) * kScale;
    float series = 1.0F / 7.0F;
    series = fmaf(series, w, 1.0F / 6.0F);
    series = fmaf(series, w, 1.0F / 5.0F);
    series = fmaf(series, w, 1.0F / 4.0F);
    series = fmaf(series, w, 1.0F / 3.0F);
    series = fmaf(series, w, 1.0F / 2.0F);
    series = fmaf(series, w, 1.0F);
    exponential = w * series;
  } else {
    exponential = -portable_log((static_cast<float>(~bits) + 0.5F) * kScale);
  }
  return -portable_log(exponential);
}

WEIR_PORTABLE float gumbel_noise(uint64_t seed, int64_t position, int32_t id) {
  return gumbel_of_bits(noise_bits(seed, position, id));
}

// exp(logit - top) as 40-bit fixed point: integer sums do not depend on the order of summation, so every implementation
// of top_p keeps the same ids.
WEIR_PORTABLE int64_t fixed_probability(float logit, float top) {
  constexpr float kOne = 1099511627776.0F;
  return static_cast<int64_t>(portable_exp(logit - top) * kOne);
}

}  // namespace weir
