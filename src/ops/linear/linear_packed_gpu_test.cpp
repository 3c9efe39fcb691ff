#include <algorithm>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <random>

#include "ops/linear/packed_test_tools.h"
#include "tensor/mxfp4.h"

namespace weir {
namespace {

struct Shape {
  int64_t n;
  int64_t k;
};

class LinearPacked : public GpuTest {
 protected:
  // y[rows][n] of rows in the operand type.
  std::vector<float> run(const std::vector<float>& x, const GpuPacked& packed, int64_t rows,
                         const std::vector<float>* onto = nullptr) {
    OnDevice<uint16_t> in = upload(to_operand(x, operand_type(packed.format)));
    OnDevice<float> y = onto != nullptr ? upload(*onto) : zeros<float>(static_cast<size_t>(rows * packed.n));
    GpuPackedLinearArgs args;
    (operand_type(packed.format) == kOperandF16 ? args.x_f16 : args.x_bf16) = in.data();
    args.x_stride = packed.k;
    args.k = packed.k;
    args.rows = static_cast<int32_t>(rows);
    args.count = 1;
    args.outputs[0] = {packed, y.data(), packed.n, onto != nullptr ? kPackedAdd : kPackedStore, 0};
    Gpu g = gpu();
    linear_packed(g, args);
    return y.read();
  }

  void compare(const Shape& shape, int32_t format, std::initializer_list<int64_t> row_counts) {
    const TestMatrix w = random_matrix(shape.n, shape.k, format, 7);
    const PackedOnDevice packed = pack_on_device(gpu(), w);
    for (const int64_t rows : row_counts) {
      const std::vector<float> x =
          rounded(normal_values(static_cast<size_t>(rows * shape.k), 1, 11), operand_type(format));
      const double difference = relative_difference(run(x, packed.packed, rows), reference_product(x, w));
      EXPECT_LT(difference, 1e-5) << "format " << format << ", " << rows << " x " << shape.n << " x " << shape.k;
    }
  }
};

constexpr Shape kShapes[] = {{16, 64},     {72, 128},   {33, 192},  {256, 512}, {48, 2048},
                             {2112, 1024}, {1040, 512}, {48, 2880}, {32, 4096}, {32, 8192}};
constexpr int32_t kFormats[] = {kGpuBf16, kGpuFp8Block, kGpuFp8Row, kGpuMxfp4};

TEST_F(LinearPacked, EqualsTheProductOfWhatIsStored) {
  for (const int32_t format : kFormats) {
    for (const Shape& shape : kShapes) compare(shape, format, {1, 2, 7, 8, 9, 16, 33});
  }
}

// Few launches: check.sh has them searched for races.
TEST_F(LinearPacked, SlotsTakeTurns) {
  for (const int32_t format : kFormats) compare({32, 8192}, format, {1, 9});
}

TEST_F(LinearPacked, ARowHasTheSameBitsAmongOthers) {
  for (const int32_t format : kFormats) {
    const TestMatrix w = random_matrix(272, 2048, format, 3);
    const PackedOnDevice packed = pack_on_device(gpu(), w);
    const std::vector<float> x = rounded(normal_values(40 * 2048, 1, 5), operand_type(format));
    const std::vector<float> all = run(x, packed.packed, 40);
    for (const int64_t row : {0, 7, 8, 39}) {
      const std::vector<float> alone(x.begin() + row * 2048, x.begin() + (row + 1) * 2048);
      const std::vector<float> y = run(alone, packed.packed, 1);
      EXPECT_TRUE(std::equal(y.begin(), y.end(), all.begin() + row * 272)) << "format " << format << ", row " << row;
    }
  }
}

// Where the bits of a packed word belong, written down once more: of the lower element of each register the sign, the
// two bits of the exponent and the mantissa; the upper element's are 16 further around.
TEST_F(LinearPacked, PackedMxfp4HoldsTheStoredCodesAndScales) {
  constexpr int kBits[4][4] = {{15, 16, 7, 6}, {11, 4, 3, 2}, {21, 14, 13, 12}, {17, 10, 9, 8}};
  constexpr int64_t kN = 40;
  constexpr int64_t kK = 192;
  const TestMatrix w = random_matrix(kN, kK, kGpuMxfp4, 5);
  const PackedOnDevice packed = pack_on_device(gpu(), w);
  const std::vector<uint8_t> got = packed.data.read();
  ASSERT_EQ(got.size(), size_t{3 * 3 * 544});
  for (int64_t row = 0; row < 48; ++row) {
    for (int64_t k = 0; k < kK; ++k) {
      const int64_t tile = (row / 16 * 3 + k / 64) * 544;
      const int64_t lane = row % 8 * 4 + k % 8 / 2;
      const int64_t i = row % 16 / 8 + k % 16 / 8 * 2;
      uint32_t word = 0;
      std::memcpy(&word, got.data() + tile + lane * 16 + k % 64 / 16 * 4, 4);
      uint32_t code = 0;
      for (const int bit : kBits[i]) code = code << 1 | (word >> ((bit + k % 2 * 16) % 32) & 1U);
      const uint8_t scale = got[static_cast<size_t>(tile + 512 + row % 8 * 4 + row % 16 / 8 * 2 + k % 64 / 32)];
      const uint32_t stored = row < kN ? w.data[static_cast<size_t>((row * kK + k) / 2)] >> (k % 2 * 4) & 15U : 0U;
      ASSERT_EQ(code, stored) << row << " " << k;
      ASSERT_EQ(scale, row < kN ? w.scales[static_cast<size_t>((row * kK + k) / 32)] : 0) << row << " " << k;
    }
  }
}

// One weight a row is not zero, activations are powers of two: nothing is rounded.
TEST_F(LinearPacked, TakesEveryScaleOfMxfp4Exactly) {
  constexpr int kScales[] = {0, 1, 2, 64, 126, 127, 128, 129, 130, 200, 254};
  constexpr int64_t kCount = std::size(kScales);
  constexpr int64_t kN = kCount * 16;
  constexpr int64_t kK = 320;
  constexpr int64_t kNan = 21;  // the row with a scale of 255 somewhere
  TestMatrix w = random_matrix(kN, kK, kGpuMxfp4, 13);
  std::fill(w.data.begin(), w.data.end(), uint8_t{0});
  std::mt19937 random(17);
  for (uint8_t& s : w.scales) s = static_cast<uint8_t>(random() % 255);
  for (int64_t row = 0; row < kN; ++row) {
    const int64_t at = row * kK + row * 37 % kK;
    w.data[static_cast<size_t>(at / 2)] = static_cast<uint8_t>(row / kCount << (at % 2 * 4));
    w.scales[static_cast<size_t>(at / 32)] = static_cast<uint8_t>(kScales[row % kCount]);
  }
  w.scales[static_cast<size_t>((kNan * kK + (kNan * 37 + 64) % kK) / 32)] = 255;
  const PackedOnDevice packed = pack_on_device(gpu(), w);
  // Activations i bring what has scale i near 1.
  std::vector<float> x;
  for (const int scale : kScales) x.insert(x.end(), kK, std::ldexp(1.0F, 127 - std::clamp(scale, 3, 250)));
  for (int64_t i = 0; i < kCount; ++i) {
    const std::vector<float> alone(x.begin() + i * kK, x.begin() + (i + 1) * kK);
    const std::vector<float> among = run(x, packed.packed, kCount);
    const std::vector<float> y = run(alone, packed.packed, 1);
    for (int64_t row = 0; row < kN; ++row) {
      const float of_one = y[static_cast<size_t>(row)];
      const float of_all = among[static_cast<size_t>(i * kN + row)];
      ASSERT_EQ(std::isnan(of_one), row == kNan) << row;
      ASSERT_EQ(std::isnan(of_all), row == kNan) << row;
      if (row % kCount != i || row == kNan) continue;
      const float weight = e2m1_to_float(static_cast<uint8_t>(row / kCount)) * std::ldexp(1.0F, kScales[i] - 127);
      EXPECT_EQ(of_one, weight * alone[0]) << row << ", scale " << kScales[i];
      EXPECT_EQ(of_all, weight * alone[0]) << row << ", scale " << kScales[i];
    }
  }
}

TEST_F(LinearPacked, AddsToWhatIsThere) {
  const TestMatrix w = random_matrix(64, 128, kGpuBf16, 9);
  const PackedOnDevice packed = pack_on_device(gpu(), w);
  const std::vector<float> x = rounded(normal_values(3 * 128, 1, 5), kOperandBf16);
  const std::vector<float> before = normal_values(3 * 64, 1, 6);
  std::vector<float> expected = run(x, packed.packed, 3);
  for (size_t i = 0; i < expected.size(); ++i) expected[i] = before[i] + expected[i];
  EXPECT_EQ(run(x, packed.packed, 3, &before), expected);
}

TEST_F(LinearPacked, NormsRowsThatAreChosenAndMultipliesAGroup) {
  constexpr int64_t kK = 256;
  const TestMatrix a = random_matrix(80, kK, kGpuFp8Block, 1);
  const TestMatrix b = random_matrix(5, kK, kGpuBf16, 2);
  const TestMatrix gate = random_matrix(24, kK, kGpuFp8Block, 3);
  const TestMatrix up = random_matrix(24, kK, kGpuFp8Block, 4);
  const PackedOnDevice pa = pack_on_device(gpu(), a);
  const PackedOnDevice pb = pack_on_device(gpu(), b);
  const PackedOnDevice pg = pack_on_device(gpu(), gate, &up);
  const std::vector<float> x = normal_values(4 * kK, 2, 5);
  const std::vector<float> weight = normal_values(kK, 0.1F, 6);
  const std::vector<int32_t> chosen = {3, 1};
  std::vector<float> normed;
  for (const int32_t row : chosen) {
    double sum = 0;
    for (int64_t i = 0; i < kK; ++i) sum += std::pow(static_cast<double>(x[static_cast<size_t>(row * kK + i)]), 2);
    const double scale = 1 / std::sqrt(sum / kK + 1e-6);
    for (int64_t i = 0; i < kK; ++i) {
      normed.push_back(static_cast<float>((1 + static_cast<double>(weight[static_cast<size_t>(i)])) *
                                          static_cast<double>(x[static_cast<size_t>(row * kK + i)]) * scale));
    }
  }
  OnDevice<float> in = upload(x);
  OnDevice<float> norm = upload(weight);
  OnDevice<int32_t> rows = upload(chosen);
  OnDevice<float> ya = zeros<float>(2 * 80);
  OnDevice<float> yb = zeros<float>(2 * 5);
  OnDevice<uint16_t> hidden = zeros<uint16_t>(2 * 24);
  OnDevice<uint16_t> x_bf16 = zeros<uint16_t>(2 * kK);
  OnDevice<uint16_t> x_f16 = zeros<uint16_t>(2 * kK);
  GpuPackedLinearArgs args;
  args.x = in.data();
  args.x_rows = rows.data();
  args.norm = norm.data();
  args.x_out_bf16 = x_bf16.data();
  args.x_out_f16 = x_f16.data();
  args.x_stride = kK;
  args.k = kK;
  args.rows = 2;
  args.count = 3;
  args.outputs[0] = {pa.packed, ya.data(), 80, kPackedStore, 0};
  args.outputs[1] = {pb.packed, yb.data(), 5, kPackedStore, 0};
  args.outputs[2] = {pg.packed, hidden.data(), 24, kPackedSwiglu, kOperandF16};
  Gpu g = gpu();
  linear_packed(g, args);
  // What the kernel rounded itself: one rounding may fall the other way.
  const std::vector<float> taken = from_operand(x_f16.read(), kOperandF16);
  const std::vector<float> taken_bf16 = from_operand(x_bf16.read(), kOperandBf16);
  EXPECT_LT(relative_difference(taken, normed), 4e-4);
  EXPECT_LT(relative_difference(taken_bf16, normed), 3e-3);
  EXPECT_LT(relative_difference(ya.read(), reference_product(taken, a)), 1e-5);
  EXPECT_LT(relative_difference(yb.read(), reference_product(taken_bf16, b)), 1e-5);
  std::vector<float> expected = reference_product(taken, gate);
  const std::vector<float> ups = reference_product(taken, up);
  for (size_t i = 0; i < expected.size(); ++i) expected[i] = expected[i] / (1 + std::exp(-expected[i])) * ups[i];
  EXPECT_LT(relative_difference(from_operand(hidden.read(), kOperandF16), expected), 1e-3);
}

TEST_F(LinearPacked, Timing) {
  struct Case {
    const char* name;
    int64_t n;
    int64_t k;
    int32_t format;
  };
  constexpr Case kCases[] = {
      {"qkv and z", 12288, 2048, kGpuFp8Block}, {"out", 2048, 4096, kGpuFp8Block}, {"head", 248320, 2048, kGpuBf16}};
  for (const Case& c : kCases) {
    // Several copies, so that the second-level cache does not serve the weights.
    GpuPacked shape = packed_shape(c.n, c.k, c.format);
    const int64_t bytes = packed_data_bytes(shape);
    const int64_t copies = std::max<int64_t>(1, (int64_t{256} << 20) / bytes);
    OnDevice<uint8_t> data = zeros<uint8_t>(static_cast<size_t>(bytes * copies));
    OnDevice<float> scales(gpu(), static_cast<size_t>(packed_scale_floats(shape)) + 4, 1.0F);
    for (const int32_t rows : {1, 4, 8, 16, 64}) {
      OnDevice<uint16_t> x = zeros<uint16_t>(static_cast<size_t>(rows * c.k));
      OnDevice<float> y = zeros<float>(static_cast<size_t>(rows * c.n));
      int64_t turn = 0;
      const double micros_a_call = micros(20, [&] {
        GpuPacked w = shape;
        w.data = data.data() + turn++ % copies * bytes;
        if (c.format == kGpuFp8Block) w.scales = scales.data();
        GpuPackedLinearArgs args;
        args.x_bf16 = x.data();
        args.x_f16 = x.data();
        args.x_stride = c.k;
        args.k = static_cast<int32_t>(c.k);
        args.rows = rows;
        args.count = 1;
        args.outputs[0] = {w, y.data(), c.n, kPackedStore, 0};
        Gpu g = gpu();
        linear_packed(g, args);
      });
      std::printf("linear %-10s %3d rows: %7.1f us, %4.1f %% of 4.69 TB/s\n", c.name, rows, micros_a_call,
                  100 * static_cast<double>(bytes) / 4.69e6 / micros_a_call);
    }
  }
}

}  // namespace
}  // namespace weir
