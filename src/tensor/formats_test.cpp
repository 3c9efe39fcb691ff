// The number formats over all codes, against tables made from the formats' definitions (sign, exponent, mantissa
// fields) in double precision, and rounding against a search for the nearest code.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "tensor/bf16.h"
#include "tensor/fp8.h"
#include "tensor/fp8_row.h"
#include "tensor/mxfp4.h"

namespace weir {
namespace {

// The value of the code with the given fields, straight from the definition; no infinity or NaN rules.
double field_value(uint32_t code, int exponent_bits, int mantissa_bits, int bias) {
  const uint32_t mantissa = code & ((1u << mantissa_bits) - 1u);
  const uint32_t exponent = (code >> mantissa_bits) & ((1u << exponent_bits) - 1u);
  const double sign = ((code >> (exponent_bits + mantissa_bits)) & 1u) != 0 ? -1.0 : 1.0;
  const double fraction = std::ldexp(static_cast<double>(mantissa), -mantissa_bits);
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias);
  return sign * std::ldexp(1.0 + fraction, static_cast<int>(exponent) - bias);
}

// Calls `check(value, expected code)` on all that matters between each two neighbours of the ascending magnitudes
// `values` (index = code): the values, the midpoints, and the floats next to both. Ties go to the even code.
void for_rounding_cases(const std::vector<double>& values, const std::function<void(float, uint32_t)>& check) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (uint32_t code = 0; code + 1 < values.size(); ++code) {
    const auto low = static_cast<float>(values[code]);
    const auto high = static_cast<float>(values[code + 1]);
    const auto middle = static_cast<float>((values[code] + values[code + 1]) / 2);
    check(low, code);
    check(std::nextafter(low, infinity), code);
    check(std::nextafter(middle, 0.0f), code);
    check(middle, code % 2 == 0 ? code : code + 1);
    check(std::nextafter(middle, infinity), code + 1);
    check(std::nextafter(high, 0.0f), code + 1);
  }
}

TEST(Bf16, EveryFiniteCodeHasTheValueOfItsFields) {
  for (uint32_t code = 0; code < 65536; ++code) {
    if (((code >> 7) & 0xffu) == 0xffu) continue;
    ASSERT_EQ(static_cast<double>(bf16_to_float(static_cast<uint16_t>(code))), field_value(code, 8, 7, 127)) << code;
  }
}

TEST(Bf16, EveryCodeSurvivesTheRoundTrip) {
  for (uint32_t code = 0; code < 65536; ++code) {
    const float value = bf16_to_float(static_cast<uint16_t>(code));
    const uint32_t expected = std::isnan(value) ? code | 0x40u : code;
    ASSERT_EQ(float_to_bf16(value), expected);
  }
}

TEST(Bf16, RoundsToTheNearestCodeAndTiesToEven) {
  std::vector<double> values;
  for (uint32_t code = 0; code < 0x7f80u; ++code) values.push_back(field_value(code, 8, 7, 127));
  for_rounding_cases(values, [](float value, uint32_t code) {
    ASSERT_EQ(float_to_bf16(value), code) << value;
    ASSERT_EQ(float_to_bf16(-value), code | 0x8000u) << value;
  });
}

TEST(Bf16, OverflowIsInfinityAndNanStaysNan) {
  EXPECT_EQ(float_to_bf16(std::numeric_limits<float>::max()), 0x7f80u);
  EXPECT_EQ(float_to_bf16(-std::numeric_limits<float>::infinity()), 0xff80u);
  EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(std::bit_cast<float>(0x7f800001u)))));
}

TEST(Fp8E4M3, EveryCodeHasTheValueOfItsFieldsAndTwoAreNan) {
  for (uint32_t code = 0; code < 256; ++code) {
    const float value = fp8_e4m3_to_float(static_cast<uint8_t>(code));
    if ((code & 0x7fu) == 0x7fu) {
      EXPECT_TRUE(std::isnan(value));
    } else {
      EXPECT_EQ(static_cast<double>(value), field_value(code, 4, 3, 7)) << code;
      EXPECT_EQ(std::signbit(value), code >= 128) << code;
    }
  }
  EXPECT_EQ(fp8_e4m3_to_float(0x7e), kFp8E4M3Max);
}

TEST(Fp8E4M3, RoundsToTheNearestCodeAndTiesToEven) {
  std::vector<double> values;
  for (uint32_t code = 0; code < 0x7fu; ++code) values.push_back(field_value(code, 4, 3, 7));
  for_rounding_cases(values, [](float value, uint32_t code) {
    ASSERT_EQ(float_to_fp8_e4m3(value), code) << value;
    ASSERT_EQ(float_to_fp8_e4m3(-value), code | 0x80u) << value;
  });
}

TEST(Fp8E4M3, SaturatesAtTheLargestFiniteValue) {
  for (const float value : {448.0f, 449.0f, 464.0f, 480.0f, 1e30f, std::numeric_limits<float>::infinity()}) {
    EXPECT_EQ(float_to_fp8_e4m3(value), 0x7e) << value;
    EXPECT_EQ(float_to_fp8_e4m3(-value), 0xfe) << value;
  }
  EXPECT_EQ(float_to_fp8_e4m3(std::numeric_limits<float>::quiet_NaN()), 0x7f);
}

// For every power of two that a row's largest number may have.
TEST(Fp8Row, TheScaleBringsTheLargestNumberTo128AndRoundsNothing) {
  for (int power = -126; power <= 127; ++power) {
    for (const float mantissa : {1.0f, 1.5f, 1.9999999f}) {
      const float largest = std::ldexp(mantissa, power);
      const uint8_t scale = fp8_row_scale(std::bit_cast<uint32_t>(largest));
      ASSERT_GE(scale, kFp8RowScaleMin);
      ASSERT_LE(scale, kFp8RowScaleMax);
      const float step = fp8_row_step(scale);
      EXPECT_EQ(static_cast<double>(step), std::ldexp(1.0, scale - 247));
      EXPECT_EQ(step * fp8_row_shrink(scale), 1.0f);
      const float value = fp8_e4m3_to_float(fp8_row_code(largest, scale)) * step;
      if (scale == kFp8RowScaleMin) {
        EXPECT_LE(largest, std::ldexp(1.0f, -109));
      } else if (largest > std::ldexp(448.0f, 7)) {
        EXPECT_EQ(value, std::ldexp(448.0f, 7)) << "the largest there is";
      } else if (largest < std::ldexp(1.0f, 15)) {
        EXPECT_GE(largest * fp8_row_shrink(scale), 128.0f);
        EXPECT_LT(largest * fp8_row_shrink(scale), 256.0f);
        EXPECT_NEAR(value / largest, 1.0f, 1.0f / 16);
      }
    }
  }
}

// What a kernel does: a code's bits in a bf16's place times the bf16 of which the scale is the exponent field.
TEST(Fp8Row, ACodeInABf16sPlaceTimesTheScalesBf16IsTheValue) {
  for (int scale = kFp8RowScaleMin; scale <= kFp8RowScaleMax; ++scale) {
    const float multiplier = bf16_to_float(static_cast<uint16_t>(scale << 7));
    for (uint32_t code = 0; code < 256; ++code) {
      if ((code & 0x7fu) == 0x7fu) continue;
      const auto placed = static_cast<uint16_t>((code & 0x80u) << 8 | (code & 0x7fu) << 4);
      const float value = fp8_e4m3_to_float(static_cast<uint8_t>(code)) * fp8_row_step(static_cast<uint8_t>(scale));
      ASSERT_EQ(bf16_to_float(placed) * multiplier, value) << scale << " " << code;
      ASSERT_EQ(bf16_to_float(float_to_bf16(value)), value) << scale << " " << code;
    }
  }
}

TEST(Fp8Row, OfANumberThatIsNotFiniteIsNan) {
  for (const float largest : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    const uint8_t scale = fp8_row_scale(std::bit_cast<uint32_t>(largest));
    EXPECT_EQ(scale, kFp8RowNan);
    EXPECT_TRUE(std::isnan(fp8_row_step(scale)));
  }
  EXPECT_EQ(fp8_row_step(kFp8RowZero), 0.0f);
}

TEST(E2M1, EveryCodeHasTheValueOfItsFields) {
  for (uint32_t code = 0; code < 16; ++code) {
    EXPECT_EQ(static_cast<double>(e2m1_to_float(static_cast<uint8_t>(code))), field_value(code, 2, 1, 1)) << code;
  }
  EXPECT_EQ(e2m1_to_float(0xf3), e2m1_to_float(0x3)) << "the high nibble is not part of the code";
}

TEST(E2M1, RoundsToTheNearestCodeTiesToEvenAndSaturates) {
  std::vector<double> values;
  for (uint32_t code = 0; code < 8; ++code) values.push_back(field_value(code, 2, 1, 1));
  for_rounding_cases(values, [](float value, uint32_t code) {
    ASSERT_EQ(float_to_e2m1(value), code) << value;
    ASSERT_EQ(float_to_e2m1(-value), code | 8u) << value;
  });
  EXPECT_EQ(float_to_e2m1(1e30f), 7);
  EXPECT_EQ(float_to_e2m1(-std::numeric_limits<float>::infinity()), 15);
}

TEST(E8M0, EveryCodeIsItsPowerOfTwo) {
  for (int code = 0; code < 255; ++code) {
    EXPECT_EQ(static_cast<double>(e8m0_to_float(static_cast<uint8_t>(code))), std::ldexp(1.0, code - 127)) << code;
  }
  EXPECT_TRUE(std::isnan(e8m0_to_float(255)));
}

}  // namespace
}  // namespace weir
