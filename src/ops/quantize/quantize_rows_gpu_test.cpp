#include "ops/quantize/quantize_rows_gpu.h"

#include <bit>
#include <cstdio>

#include "ops/linear/packed_test_tools.h"
#include "ops/norm/norm_rows_gpu.h"
#include "ops/quantize/quantize_test_tools.h"

namespace weir {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinite = std::numeric_limits<float>::infinity();

// Blocks of 128 in turn: normal numbers, of any size, next to where codes round to either side, and those that are not
// like others.
std::vector<float> difficult_values(int64_t rows, int64_t size, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<float> x = normal_values(static_cast<size_t>(rows * size), 1, seed);
  std::uniform_real_distribution<float> mantissa(1.0F, 2.0F);
  for (size_t block = 0; block < x.size() / kBlockK; ++block) {
    float* at = x.data() + block * kBlockK;
    const auto exponent = static_cast<int>(random() % 277) - 149;
    const auto sign = [&] { return random() % 2 == 0 ? 1.0F : -1.0F; };
    switch (block % 8) {
      case 1:
        for (int i = 0; i < kBlockK; ++i)
          at[i] = std::ldexp(sign() * mantissa(random), exponent - static_cast<int>(random() % 20));
        break;
      case 2:
      case 3: {  // a scale, a power of two or not, and numbers around (code + next code) / 2 of it
        const float scale = std::ldexp(block % 2 == 0 ? 1.0F : mantissa(random), static_cast<int>(random() % 40) - 20);
        at[0] = kE4m3Largest * scale;
        for (int i = 1; i < kBlockK; ++i) {
          const auto code = static_cast<uint8_t>(i - 1);
          const float tie = (fp8_e4m3_to_float(code) + fp8_e4m3_to_float(static_cast<uint8_t>(code + 1))) / 2;
          const float v = code < 0x7e ? tie * (at[0] / kE4m3Largest) : 0.0F;
          const auto side = random() % 3;
          at[i] = sign() * (side == 0 ? v : std::nextafter(v, side == 1 ? 0.0F : kInfinite));
        }
        break;
      }
      case 4:
        for (int i = 0; i < kBlockK; ++i) at[i] = block % 16 == 4 ? 0.0F : std::copysign(0.0F, sign());
        break;
      case 5:
        for (int i = 0; i < kBlockK; ++i)
          at[i] = sign() * std::ldexp(1.0F, -149) * static_cast<float>(random() % (block % 16 == 5 ? 3 : 4000));
        break;
      case 6:
        at[random() % kBlockK] = block % 16 == 6 ? kNan : sign() * kInfinite;
        break;
      case 7:
        at[random() % kBlockK] = sign() * (block % 16 == 7 ? std::numeric_limits<float>::max() : 1e30F);
        break;
      default:
        break;
    }
  }
  return x;
}

void expect_equal(const E4m3Rows& got, const E4m3Rows& expected, const std::string& what) {
  int shown = 0;
  for (size_t i = 0; i < expected.scales.size() && shown < 8; ++i) {
    const bool same = std::bit_cast<uint32_t>(got.scales[i]) == std::bit_cast<uint32_t>(expected.scales[i]) ||
                      (std::isnan(got.scales[i]) && std::isnan(expected.scales[i]));
    if (same) continue;
    ++shown;
    ADD_FAILURE() << what << ": scale " << i << " is " << got.scales[i] << ", expected " << expected.scales[i];
  }
  for (size_t i = 0; i < expected.codes.size() && shown < 8; ++i) {
    if (got.codes[i] == expected.codes[i]) continue;
    ++shown;
    ADD_FAILURE() << what << ": code " << i << " is " << int{got.codes[i]} << ", expected " << int{expected.codes[i]};
  }
}

class QuantizeRows : public GpuTest {
 protected:
  static constexpr float kRest = -3;  // where no row's scale stands

  E4m3Rows run(const std::vector<uint16_t>& x, int32_t type, int64_t size, int64_t x_stride, int64_t stride) {
    const int64_t rows = static_cast<int64_t>(x.size()) / x_stride;
    OnDevice<uint16_t> in = upload(x);
    OnDevice<uint8_t> codes = zeros<uint8_t>(static_cast<size_t>(rows * size));
    OnDevice<float> scales(gpu(), static_cast<size_t>(size / kBlockK * stride), kRest);
    GpuQuantizeRowsArgs args;
    (type == kOperandF16 ? args.x_f16 : args.x_bf16) = in.data();
    args.e4m3 = codes.data();
    args.scales = scales.data();
    args.x_stride = x_stride;
    args.scale_stride = stride;
    args.size = static_cast<int32_t>(size);
    args.rows = static_cast<int32_t>(rows);
    Gpu g = gpu();
    quantize_rows(g, args);
    return {codes.read(), scales.read(), size, stride};
  }
};

TEST_F(QuantizeRows, EqualsItsDefinition) {
  for (const int64_t size : {128, 384, 512, 640, 2048}) {
    for (const int64_t rows : {1, 5, 130}) {
      std::vector<float> x = difficult_values(rows, size, static_cast<uint64_t>(size + rows));
      const std::string what = std::to_string(rows) + " rows of " + std::to_string(size);
      const std::vector<uint16_t> bf16 = bf16_values(x);
      expect_equal(run(bf16, kOperandBf16, size, size, rows + 3),
                   quantised_on_host(float_values(bf16), size, rows + 3, kRest), what + " in bf16");
      for (float& v : x) v = std::isfinite(v) ? std::clamp(v, -65504.0F, 65504.0F) : 1.0F;
      std::vector<uint16_t> f16 = to_operand(x, kOperandF16);
      std::vector<float> values = from_operand(f16, kOperandF16);
      f16[static_cast<size_t>(size / 2)] = 0xfe00;  // NaN
      values[static_cast<size_t>(size / 2)] = kNan;
      expect_equal(run(f16, kOperandF16, size, size, rows), quantised_on_host(values, size, rows), what + " in f16");
    }
  }
}

TEST_F(QuantizeRows, RowsMayStandApart) {
  constexpr int64_t kRows = 9;
  constexpr int64_t kSize = 256;
  constexpr int64_t kStride = 280;
  const std::vector<uint16_t> x = bf16_values(normal_values(kRows * kStride, 1, 3));
  std::vector<float> dense;
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t i = 0; i < kSize; ++i) dense.push_back(bf16_to_float(x[static_cast<size_t>(r * kStride + i)]));
  }
  expect_equal(run(x, kOperandBf16, kSize, kStride, kRows), quantised_on_host(dense, kSize, kRows), "rows apart");
}

// Of the float32 numbers that norm_rows() writes beside them, few rows and many, chosen ones, normed or as they are.
TEST_F(QuantizeRows, NormedRowsAreQuantisedFromFloat32) {
  for (const int64_t size : {128, 384, 1024, 2048, 4096}) {
    for (const int64_t rows : {3, 1030}) {
      for (const bool normed : {false, true}) {
        const std::vector<float> x = normed ? normal_values(static_cast<size_t>(rows * size), 1, 5)
                                            : difficult_values(rows, size, static_cast<uint64_t>(size));
        std::vector<int32_t> chosen;
        for (int64_t r = 0; r < rows; ++r) chosen.push_back(static_cast<int32_t>((r * 7 + 2) % rows));
        OnDevice<float> in = upload(x);
        OnDevice<float> weight = upload(normal_values(static_cast<size_t>(size), 1, 6));
        OnDevice<int32_t> list = upload(chosen);
        OnDevice<float> y = zeros<float>(x.size());
        OnDevice<uint16_t> f16 = zeros<uint16_t>(x.size());
        OnDevice<uint8_t> codes = zeros<uint8_t>(x.size());
        OnDevice<float> scales = zeros<float>(static_cast<size_t>(size / kBlockK * (rows + 1)));
        GpuNormRowsArgs args;
        args.x = in.data();
        args.x_rows = list.data();
        args.weight = normed ? weight.data() : nullptr;
        args.f16 = f16.data();
        args.y = y.data();
        args.e4m3 = codes.data();
        args.scales = scales.data();
        args.scale_stride = rows + 1;
        args.x_stride = size;
        args.y_stride = size;
        args.size = static_cast<int32_t>(size);
        Gpu g = gpu();
        norm_rows(g, args, rows);
        const std::vector<float> values = y.read();
        const std::string what = std::to_string(rows) + " rows of " + std::to_string(size);
        expect_equal({codes.read(), scales.read(), size, rows + 1}, quantised_on_host(values, size, rows + 1), what);
        // The other types are those of a call that does not quantise.
        OnDevice<float> plain_y = zeros<float>(x.size());
        OnDevice<uint16_t> plain_f16 = zeros<uint16_t>(x.size());
        args.y = plain_y.data();
        args.f16 = plain_f16.data();
        args.e4m3 = nullptr;
        norm_rows(g, args, rows);
        EXPECT_EQ(plain_f16.read(), f16.read()) << what;
        const std::vector<float> plain = plain_y.read();
        EXPECT_EQ(std::memcmp(plain.data(), values.data(), 4 * plain.size()), 0) << what;
      }
    }
  }
}

TEST_F(QuantizeRows, Timing) {
  for (const int64_t size : {512, 4096}) {
    const int64_t rows = size == 512 ? 92'160 : 8192;
    OnDevice<uint16_t> x = zeros<uint16_t>(static_cast<size_t>(rows * size));
    OnDevice<uint8_t> codes = zeros<uint8_t>(static_cast<size_t>(rows * size));
    OnDevice<float> scales = zeros<float>(static_cast<size_t>(rows * size / kBlockK));
    GpuQuantizeRowsArgs args;
    args.x_f16 = x.data();
    args.e4m3 = codes.data();
    args.scales = scales.data();
    args.x_stride = size;
    args.scale_stride = rows;
    args.size = static_cast<int32_t>(size);
    args.rows = static_cast<int32_t>(rows);
    Gpu g = gpu();
    const double micros_a_call = micros(20, [&] { quantize_rows(g, args); });
    std::printf("quantise %6lld rows of %4lld: %6.1f us, %6.1f GB/s\n", static_cast<long long>(rows),
                static_cast<long long>(size), micros_a_call, 3e-3 * static_cast<double>(rows * size) / micros_a_call);
  }
}

}  // namespace
}  // namespace weir
