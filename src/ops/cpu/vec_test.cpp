#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>

#include "ops/cases.h"
#include "ops/cpu/isa.h"
#include "ops/cpu/vec_test_kernels.h"
#include "ops/linear/linear.h"
#include "tensor/fp8.h"
#include "tensor/mxfp4.h"

namespace weir {
namespace {

using cases::Floats;

Floats apply(Isa isa, MathFunction function, const Floats& x) {
  Floats y(x.size());
  const MathWork work{function, x.data(), y.data(), static_cast<int64_t>(x.size())};
#if defined(__x86_64__)
  if (isa == Isa::kAvx512) avx512::math_function(work);
  if (isa == Isa::kAvx2) avx2::math_function(work);
#endif
  if (isa == Isa::kScalar) scalar::math_function(work);
  return y;
}

void decode(Isa isa, const DecodeWork& work) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512) avx512::decode_codes(work);
  if (isa == Isa::kAvx2) avx2::decode_codes(work);
#endif
  if (isa == Isa::kScalar) scalar::decode_codes(work);
}

// Evenly spaced over [low, high], a multiple of 16 of them.
Floats spaced(float low, float high) {
  constexpr int kCount = 1 << 18;
  Floats x;
  for (int i = 0; i < kCount; ++i) x.push_back(low + (high - low) * static_cast<float>(i) / static_cast<float>(kCount));
  return x;
}

struct Function {
  MathFunction function;
  double (*exact)(double);
  float low;
  float high;
  double relative;  // bound on the error, in units of 2^-24 of the value
  double absolute;
};

const Function kFunctions[] = {
    {MathFunction::kExp, [](double x) { return std::exp(x); }, -87.0F, 88.0F, 3.0, 0},
    {MathFunction::kLog, [](double x) { return std::log(x); }, 1e-6F, 1e6F, 3.0, 1e-8},
    {MathFunction::kSoftplus, [](double x) { return std::log1p(std::exp(x)); }, -80.0F, 100.0F, 6.0, 0},
    {MathFunction::kSigmoid, [](double x) { return 1 / (1 + std::exp(-x)); }, -80.0F, 100.0F, 5.0, 0},
    {MathFunction::kSilu, [](double x) { return x / (1 + std::exp(-x)); }, -80.0F, 100.0F, 5.0, 0},
};

TEST(VecMath, FunctionsAreAccurateAndEqualOnEveryInstructionSet) {
  for (const Function& f : kFunctions) {
    const Floats x = spaced(f.low, f.high);
    const Floats first = apply(Isa::kScalar, f.function, x);
    double worst = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const double exact = f.exact(static_cast<double>(x[i]));
      const double error = std::abs(static_cast<double>(first[i]) - exact) - f.absolute;
      worst = std::max(worst, error / std::abs(exact) * 0x1p24);
    }
    EXPECT_LE(worst, f.relative) << "function " << static_cast<int>(f.function);
    for (const Isa isa : supported_isas()) {
      EXPECT_TRUE(cases::same_bits(apply(isa, f.function, x), first)) << isa_name(isa);
    }
  }
}

TEST(VecMath, EndsOfTheRangeAreWhatTheCallersNeed) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const Isa isa : supported_isas()) {
    Floats x(16, 0.0F);
    x[0] = -kInfinity;
    x[1] = -1000.0F;
    x[2] = 0.0F;
    x[3] = nan;
    const Floats e = apply(isa, MathFunction::kExp, x);
    EXPECT_EQ(e[0], 0.0F);  // masked scores
    EXPECT_EQ(e[1], 0.0F);
    EXPECT_EQ(e[2], 1.0F);  // the largest score itself
    EXPECT_TRUE(std::isnan(e[3]));
    EXPECT_TRUE(std::isnan(apply(isa, MathFunction::kSilu, x)[3]));
    EXPECT_TRUE(std::isnan(apply(isa, MathFunction::kSoftplus, x)[3]));
  }
}

TEST(VecDecode, EveryCodeOfEveryFormatOnEveryInstructionSet) {
  std::array<std::byte, 256> codes{};
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::byte>(i);
  for (const Isa isa : supported_isas()) {
    Floats fp8(256);
    Floats low(256);
    Floats high(256);
    Floats scale(256);
    decode(isa, {codes.data(), fp8.data(), low.data(), high.data(), scale.data()});
    for (int64_t group = 0; group < 256; group += 64) {
      for (int64_t k = 0; k < 4; ++k) {
        for (int64_t column = 0; column < 16; ++column) {
          const auto code = static_cast<uint8_t>(group + fp8_offset(k, column));
          const float value = fp8[static_cast<size_t>(group + k * 16 + column)] * 256.0F;
          if ((code & 127U) == 127U) {
            EXPECT_EQ(std::abs(value), 480.0F);
          } else {
            EXPECT_EQ(value, fp8_e4m3_to_float(code)) << isa_name(isa) << " code " << int{code};
          }
        }
      }
    }
    for (size_t i = 0; i < 256; ++i) {
      const auto code = static_cast<uint8_t>(i);
      EXPECT_EQ(low[i], e2m1_to_float(code & 15U)) << isa_name(isa) << " code " << i;
      EXPECT_EQ(high[i], e2m1_to_float(static_cast<uint8_t>(code >> 4U))) << isa_name(isa) << " code " << i;
      if (code != 255) {
        EXPECT_EQ(scale[i], e8m0_to_float(code)) << isa_name(isa) << " code " << i;
      }
    }
  }
}

}  // namespace
}  // namespace weir
