#include "ops/linear/mxfp4_word.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "tensor/bf16.h"
#include "tensor/mxfp4.h"

namespace weir {
namespace {

// To nearest; the factors are exact in double.
uint16_t multiply_bf16(uint16_t a, uint16_t b) {
  return float_to_bf16(
      static_cast<float>(static_cast<double>(bf16_to_float(a)) * static_cast<double>(bf16_to_float(b))));
}
uint16_t half_of(uint32_t pair, int half) {
  return static_cast<uint16_t>(pair >> (16 * half));
}

TEST(Mxfp4Word, EveryCodeComesToItsRegisterWhateverItsNeighboursAre) {
  std::mt19937 random(1);
  for (int i = 0; i < 4; ++i) {
    for (int half = 0; half < 2; ++half) {
      for (uint32_t code = 0; code < 16; ++code) {
        for (int neighbours = 0; neighbours < 100; ++neighbours) {
          uint32_t word = 0;
          for (int other = 0; other < 4; ++other) {
            uint32_t codes[2] = {static_cast<uint32_t>(random() % 16), static_cast<uint32_t>(random() % 16)};
            if (other == i) codes[half] = code;
            const uint32_t bits = mxfp4_bits(codes[0], codes[1], other);
            ASSERT_EQ(word & bits, 0U);
            word |= bits;
          }
          uint32_t a[4];
          mxfp4_unpack(word, a);
          const float value = e2m1_to_float(static_cast<uint8_t>(code)) * 0x1p-126F;
          ASSERT_EQ(half_of(a[i], half), float_to_bf16(value)) << i << " " << half << " " << code;
        }
      }
    }
  }
}

// What a kernel does with a value of either row, for all codes in all places of the word of scales.
TEST(Mxfp4Word, AValueTimesItsFactorsIsTheWeight) {
  std::mt19937 random(2);
  for (int place = 0; place < 4; ++place) {
    for (uint32_t scale = 0; scale < 256; ++scale) {
      const auto byte = static_cast<uint8_t>(scale);
      for (uint32_t code = 0; code < 16; ++code) {
        const float value = e2m1_to_float(static_cast<uint8_t>(code));
        const auto any = static_cast<uint32_t>(random());
        for (const uint32_t others : {any & 0x7f7f7f7fU, any | 0x80808080U, any, 0xffffffffU, 0U}) {
          const uint32_t scales = (others & ~(0xffU << (8 * place))) | scale << (8 * place);
          const int half = place % 2;
          const int row = place / 2;
          uint16_t weight = multiply_bf16(float_to_bf16(value * 0x1p-126F), half_of(mxfp4_factors(scales, half), row));
          if (mxfp4_has_large(scales)) {
            const uint16_t large = half_of(mxfp4_large_factors(scales, half), row);
            weight = multiply_bf16(multiply_bf16(weight, large), large);
          }
          const float expected = value * e8m0_to_float(byte);
          if (std::isnan(expected)) {
            ASSERT_TRUE(std::isnan(bf16_to_float(weight))) << code;
          } else {
            ASSERT_EQ(weight, float_to_bf16(expected)) << place << " " << scale << " " << code << " " << others;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace weir
