#include "ops/sample/noise.h"

#include <gtest/gtest.h>

#include <cmath>

namespace weir {
namespace {

TEST(Noise, PortableLogIsWithinTwoUlp) {
  for (double x = 1e-30; x < 1e30; x *= 1.00917) {
    const auto value = static_cast<float>(x);
    const double exact = std::log(static_cast<double>(value));
    EXPECT_NEAR(portable_log(value), exact, 2.5e-7 * std::max(1e-3, std::abs(exact))) << value;
  }
}

TEST(Noise, PortableExpIsWithinTwoUlp) {
  for (float x = -86.9F; x <= 0.0F; x += 0.00713F) {
    const double exact = std::exp(static_cast<double>(x));
    EXPECT_NEAR(portable_exp(x), exact, 3e-7 * exact) << x;
  }
  EXPECT_EQ(portable_exp(0.0F), 1.0F);
  EXPECT_EQ(portable_exp(-INFINITY), 0.0F);
}

// Known answer of Philox4x32-10 from the generator's published test vectors: counter and key all zero.
TEST(Noise, BitsArePhilox) {
  EXPECT_EQ(noise_bits(0, 0, 0), 0x6627e8d5U);
  EXPECT_EQ(noise_bits(0, 0, 1), 0xe169c58dU);
  EXPECT_EQ(noise_bits(0, 0, 2), 0xbc57ac4cU);
  EXPECT_EQ(noise_bits(0, 0, 3), 0x9b00dbd8U);
}

TEST(Noise, GumbelHasItsMeanAndVariance) {
  double sum = 0.0;
  double squares = 0.0;
  constexpr int kCount = 1'000'000;
  for (int i = 0; i < kCount; ++i) {
    const double g = gumbel_noise(42, i / 1000, i % 1000);
    sum += g;
    squares += g * g;
  }
  const double mean = sum / kCount;
  const double variance = squares / kCount - mean * mean;
  EXPECT_NEAR(mean, 0.5772156649, 0.005);  // 4 standard errors of the mean of 1e6 variates
  EXPECT_NEAR(variance, 1.6449340668, 0.02);
}

}  // namespace
}  // namespace weir
