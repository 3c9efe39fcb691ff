// Position-keyed sampling noise: Gumbel(seed, position, id), the same bits wherever it is computed. Only additions,
// multiplications, divisions, fused multiply-adds and integer operations are used, so a GPU gives the same values.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "plan/ids.h"

namespace weir {

// Natural logarithm of a positive normal float, within 2 ulp. log(m 2^e) = e ln 2 + 2 atanh((m - 1) / (m + 1)) with m
// in [sqrt(1/2), sqrt(2)); the series ends where its next term is under 1e-10.
inline float portable_log(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  // 0x3f3504f3 is sqrt(1/2): subtracting it rounds the exponent so that m lands in [sqrt(1/2), sqrt(2)).
  const int32_t exponent = static_cast<int32_t>(bits - 0x3f3504f3U) >> 23;
  const float m = std::bit_cast<float>(bits - (static_cast<uint32_t>(exponent) << 23));
  const float s = (m - 1.0F) / (m + 1.0F);
  const float z = s * s;
  float series = 1.0F / 11.0F;
  series = std::fma(series, z, 1.0F / 9.0F);
  series = std::fma(series, z, 1.0F / 7.0F);
  series = std::fma(series, z, 1.0F / 5.0F);
  series = std::fma(series, z, 1.0F / 3.0F);
  series = std::fma(series, z, 1.0F);
  const float e = static_cast<float>(exponent);
  constexpr float kLn2High = 0.693145751953125F;         // 16 bits of ln 2: e * kLn2High is exact
  constexpr float kLn2Low = 1.42860682030941723212e-6F;  // the rest
  return std::fma(e, kLn2High, std::fma(2.0F * s, series, e * kLn2Low));
}

// exp(x) for x <= 0, within 2 ulp; 0 below -87 (where float32 ends to be normal).
inline float portable_exp(float x) {
  if (!(x > -87.0F)) return 0.0F;
  constexpr float kLog2E = 1.44269504088896341F;
  const float n = std::floor(std::fma(x, kLog2E, 0.5F));
  float r = std::fma(n, -0.693145751953125F, x);
  r = std::fma(n, -1.42860682030941723212e-6F, r);
  float p = 1.0F / 5040.0F;
  p = std::fma(p, r, 1.0F / 720.0F);
  p = std::fma(p, r, 1.0F / 120.0F);
  p = std::fma(p, r, 1.0F / 24.0F);
  p = std::fma(p, r, 1.0F / 6.0F);
  p = std::fma(p, r, 0.5F);
  p = std::fma(p, r, 1.0F);
  p = std::fma(p, r, 1.0F);
  const auto scale = static_cast<uint32_t>(static_cast<int32_t>(n) + 127) << 23;
  return p * std::bit_cast<float>(scale);
}

// 32 random bits of (seed, position, id): Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
// SC 2011) with the seed as key and (position, id / 4) as counter; the id picks the word.
inline uint32_t noise_bits(uint64_t seed, int64_t position, TokenId id) {
  auto key0 = static_cast<uint32_t>(seed);
  auto key1 = static_cast<uint32_t>(seed >> 32);
  uint32_t c[4] = {static_cast<uint32_t>(position), static_cast<uint32_t>(static_cast<uint64_t>(position) >> 32),
                   static_cast<uint32_t>(id) >> 2, 0};
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53U} * c[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57U} * c[2];
    const uint32_t next0 = static_cast<uint32_t>(product1 >> 32) ^ c[1] ^ key0;
    const uint32_t next2 = static_cast<uint32_t>(product0 >> 32) ^ c[3] ^ key1;
    c[1] = static_cast<uint32_t>(product1);
    c[3] = static_cast<uint32_t>(product0);
    c[0] = next0;
    c[2] = next2;
    key0 += 0x9E3779B9U;
    key1 += 0xBB67AE85U;
  }
  return c[static_cast<uint32_t>(id) & 3U];
}

// A standard Gumbel variate, -log(E) with E exponential. E = -log(1 - w), w = (bits + 1/2) 2^-32; small w, the tail
// that decides an argmax, is kept to full precision by its own series.
inline float gumbel_noise(uint64_t seed, int64_t position, TokenId id) {
  const uint32_t bits = noise_bits(seed, position, id);
  constexpr float kScale = 1.0F / 4294967296.0F;
  float exponential;
  if (bits < (1U << 28)) {  // w < 1/16: seven terms leave an error under 5e-10 of w
    const float w = (static_cast<float>(bits) + 0.5F) * kScale;
    float series = 1.0F / 7.0F;
    series = std::fma(series, w, 1.0F / 6.0F);
    series = std::fma(series, w, 1.0F / 5.0F);
    series = std::fma(series, w, 1.0F / 4.0F);
    series = std::fma(series, w, 1.0F / 3.0F);
    series = std::fma(series, w, 1.0F / 2.0F);
    series = std::fma(series, w, 1.0F);
    exponential = w * series;
  } else {
    exponential = -portable_log((static_cast<float>(~bits) + 0.5F) * kScale);
  }
  return -portable_log(exponential);
}

}  // namespace weir
