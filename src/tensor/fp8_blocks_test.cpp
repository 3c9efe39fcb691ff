#include "tensor/fp8_blocks.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "tensor/dtype.h"
#include "tensor/fp8.h"
#include "tensor/weight_rows.h"

namespace weir {
namespace {

struct Quantised {
  std::vector<uint8_t> codes;
  std::vector<float> scales;
};

Quantised quantise(const std::vector<float>& rows, int64_t n, int64_t k) {
  Quantised out;
  out.codes.resize(rows.size());
  out.scales.resize(static_cast<size_t>((k + kFp8Block - 1) / kFp8Block));
  quantise_fp8_band(rows.data(), n, k, out.codes.data(), out.scales.data());
  return out;
}

// The finite code whose value is nearest, by looking at all of them; of two as near, the even one. A zero keeps its
// sign.
uint8_t nearest(float value) {
  const int sign = std::signbit(value) ? 0x80 : 0;
  int best = sign;
  for (int code = sign; code < sign + 0x7f; ++code) {
    const double distance = std::abs(static_cast<double>(fp8_e4m3_to_float(static_cast<uint8_t>(code))) - value);
    const double least = std::abs(static_cast<double>(fp8_e4m3_to_float(static_cast<uint8_t>(best))) - value);
    if (distance < least || (distance == least && code % 2 == 0)) best = code;
  }
  return static_cast<uint8_t>(best);
}

// Every size of the last band and column block, values over many magnitudes in one block.
TEST(Fp8Blocks, EveryCodeIsTheNearestUnderTheScaleOfItsBlock) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  for (const int64_t n : {1, 7, 127, 128}) {
    for (const int64_t k : {1, 64, 128, 129, 300}) {
      std::vector<float> rows(static_cast<size_t>(n * k));
      for (float& value : rows) value = normal(random) * std::exp2(static_cast<float>(random() % 24) - 18.0F);
      const Quantised got = quantise(rows, n, k);
      for (int64_t block = 0; block < static_cast<int64_t>(got.scales.size()); ++block) {
        float largest = 0;
        for (int64_t i = 0; i < n * k; ++i) {
          if (i % k / kFp8Block == block) largest = std::max(largest, std::abs(rows[static_cast<size_t>(i)]));
        }
        EXPECT_EQ(got.scales[static_cast<size_t>(block)], largest / 448.0F);
      }
      for (int64_t i = 0; i < n * k; ++i) {
        const float scale = got.scales[static_cast<size_t>(i % k / kFp8Block)];
        const float value = rows[static_cast<size_t>(i)];
        const uint8_t code = got.codes[static_cast<size_t>(i)];
        ASSERT_EQ(code, nearest(value / scale)) << value << " at scale " << scale;
        // Half a step of the format: 2^-4 of a normal number, half of 2^-9 below.
        ASSERT_LE(std::abs(fp8_e4m3_to_float(code) * scale - value),
                  1.0001F * std::max(std::abs(value) / 16.0F, scale * 0x1p-10F));
      }
    }
  }
}

// The scale is 1 where the largest is 448: codes are then those of the values themselves.
TEST(Fp8Blocks, TiesGoToTheEvenCodeAndNothingIsBeyond448) {
  const std::vector<float> rows = {448.0F,  -448.0F,  17.0F,    19.0F,      -17.0F,    1.0625F,
                                   1.1875F, 0x1p-10F, 0x3p-10F, 0x1.8p-10F, -0x1p-12F, 440.0F};
  const Quantised got = quantise(rows, 1, static_cast<int64_t>(rows.size()));
  ASSERT_EQ(got.scales[0], 1.0F);
  const std::vector<float> expected = {448.0F, -448.0F, 16.0F,   20.0F,   -16.0F, 1.0F,
                                       1.25F,  0.0F,    0x1p-8F, 0x1p-9F, -0.0F,  448.0F};
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(fp8_e4m3_to_float(got.codes[i]), expected[i]) << rows[i];
  }
  // The division that finds the scale may round down, so that the largest is a little over 448 of it.
  std::mt19937 random(6);
  for (int i = 0; i < 100'000; ++i) {
    const float largest = std::exp2(static_cast<float>(random() % 200'000) / 1000.0F - 100.0F);
    EXPECT_EQ(quantise({largest}, 1, 1).codes[0], 0x7e);
    EXPECT_EQ(quantise({-largest}, 1, 1).codes[0], 0xfe);
  }
}

TEST(Fp8Blocks, ZerosAndValuesTooSmallToScaleHaveAScaleAndNoNan) {
  for (const float value : {0.0F, -0.0F, 1e-45F, 1e-40F, 0x1p-126F}) {
    const Quantised got = quantise(std::vector<float>(300, value), 1, 300);
    for (const float scale : got.scales) EXPECT_EQ(scale, 0x1p-126F);
    for (const uint8_t code : got.codes) EXPECT_EQ(code, nearest(value / 0x1p-126F));
  }
  // A block of zeros takes nothing from its neighbours.
  std::vector<float> rows(256, 0.0F);
  rows[255] = 7.0F;
  const Quantised got = quantise(rows, 1, 256);
  EXPECT_EQ(got.scales[0], 0x1p-126F);
  EXPECT_EQ(got.scales[1], 7.0F / 448.0F);
}

TEST(Fp8Blocks, ReadAsAWeightMatrixTheyAreCodesTimesScales) {
  std::vector<float> rows(128 * 200);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = std::sin(static_cast<float>(i));
  const Quantised got = quantise(rows, 128, 200);
  WeightMatrix matrix;
  matrix.format = WeightFormat::kFp8Block;
  matrix.n = 128;
  matrix.k = 200;
  matrix.data = reinterpret_cast<const std::byte*>(got.codes.data());
  matrix.row_bytes = 200;
  matrix.scales = reinterpret_cast<const std::byte*>(got.scales.data());
  matrix.scale_stride = 2;
  std::vector<float> values(200);
  for (int64_t row = 0; row < 128; ++row) {
    read_row(matrix, row, values.data());
    for (int64_t k = 0; k < 200; ++k) {
      const auto at = static_cast<size_t>(row * 200 + k);
      ASSERT_EQ(values[static_cast<size_t>(k)],
                fp8_e4m3_to_float(got.codes[at]) * got.scales[static_cast<size_t>(k / kFp8Block)]);
    }
  }
}

}  // namespace
}  // namespace weir
