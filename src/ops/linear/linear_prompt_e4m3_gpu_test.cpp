// Products of quantised rows: ops/linear/packed.h, its second contract.
#include <algorithm>
#include <bit>
#include <cstdio>

#include "ops/linear/linear_prompt_gpu.h"
#include "ops/linear/packed_test_tools.h"
#include "ops/linear/prompt_test_tools.h"
#include "ops/quantize/quantize_test_tools.h"

namespace weir {
namespace {

constexpr int64_t kRowCounts[] = {1, 5, 16, 17, 64, 65, 128, 129, 300};

// The contract for one element: the sum of each block, how far the matrix units may be from it, and both joined.
struct Element {
  double y = 0;
  double limit = 0;
};

class Formula {
 public:
  Formula(const TestMatrix& w, const E4m3Rows& x) : w_(w), x_(x), blocks_(w.k / kBlockK) {
    for (int code = 0; code < 256; ++code)
      value_[code] = static_cast<double>(fp8_e4m3_to_float(static_cast<uint8_t>(code)));
    scales_.resize(w.scales.size() / 4);
    std::memcpy(scales_.data(), w.scales.data(), w.scales.size());
  }
  // Of 32 products and the sum so far each keeps 13 bits behind the leading one of the largest, as does what comes out.
  Element element(int64_t row, int64_t n) const {
    Element out;
    for (int64_t block = 0; block < blocks_; ++block) {
      double sum = 0;
      double lost = 0;
      for (int64_t step = 0; step < kBlockK; step += 32) {
        double largest = std::abs(sum);
        for (int64_t i = 0; i < 32; ++i) {
          const double product = term(row, n, block * kBlockK + step + i);
          largest = std::max(largest, std::abs(product));
          sum += product;
        }
        lost += 33 * largest + std::abs(sum);
      }
      const double scale = static_cast<double>(scale_of(row, n, block));
      out.y += sum * scale;
      out.limit += std::ldexp(lost, -13) * scale + std::ldexp(std::abs(out.y), -23);
    }
    return out;
  }
  // To the bit, where no sum of a block needs more than 13 bits.
  float exact(int64_t row, int64_t n) const {
    float total = 0;
    for (int64_t block = 0; block < blocks_; ++block) {
      double sum = 0;
      for (int64_t i = 0; i < kBlockK; ++i) sum += term(row, n, block * kBlockK + i);
      total = std::fmaf(static_cast<float>(sum), scale_of(row, n, block), total);
    }
    return total;
  }

 private:
  const TestMatrix& w_;
  const E4m3Rows& x_;
  int64_t blocks_;
  double value_[256];
  std::vector<float> scales_;

  double term(int64_t row, int64_t n, int64_t k) const {
    return value_[w_.data[static_cast<size_t>(n * w_.k + k)]] * value_[x_.code(row, k)];
  }
  float scale_of(int64_t row, int64_t n, int64_t block) const {
    return scales_[static_cast<size_t>(n / 128 * blocks_ + block)] * x_.scale(row, block);
  }
};

// Weights of -1, 0 and 1 with the scales of `w`.
void make_small(TestMatrix* w) {
  for (size_t i = 0; i < w->data.size(); ++i) {
    constexpr uint8_t kCodes[] = {0x38, 0xb8, 0x00};
    w->data[i] = kCodes[w->data[i] % 3];
  }
}

// Blocks of 448 and whole numbers below 8, times a number of the block's own.
std::vector<float> whole_values(int64_t rows, int64_t k, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<float> uniform(0.5F, 2.0F);
  std::vector<float> x(static_cast<size_t>(rows * k));
  for (size_t block = 0; block < x.size() / kBlockK; ++block) {
    const float scale = uniform(random);
    for (size_t i = 0; i < kBlockK; ++i) {
      x[block * kBlockK + i] = scale * static_cast<float>(static_cast<int>(random() % 15) - 7);
    }
    x[block * kBlockK + random() % kBlockK] = scale * kE4m3Largest;
  }
  return x;
}

class LinearPromptE4m3 : public GpuTest {
 protected:
  std::vector<float> run(const E4m3Rows& x, const GpuPacked& w, const std::vector<float>* onto = nullptr) {
    const auto rows = static_cast<int64_t>(x.codes.size()) / w.k;
    OnDevice<uint8_t> codes = upload(x.codes);
    OnDevice<float> scales = upload(x.scales);
    OnDevice<float> y =
        onto != nullptr ? upload(*onto) : OnDevice<float>(gpu(), static_cast<size_t>(rows * w.n), -7.0F);
    GpuPromptArgs args;
    args.x_e4m3 = codes.data();
    args.x_scales = scales.data();
    args.scale_stride = x.stride;
    args.x_stride = w.k;
    args.rows = static_cast<int32_t>(rows);
    args.count = 1;
    args.outputs[0] = {w, y.data(), w.n, onto != nullptr ? 1 : 0, 0};
    Gpu g = gpu();
    linear_prompt(g, args);
    return y.read();
  }
};

std::vector<float> some_rows(const std::vector<float>& x, int64_t size, int64_t first, int64_t rows) {
  return {x.begin() + first * size, x.begin() + (first + rows) * size};
}

struct Shape {
  int64_t n;
  int64_t k;
};
constexpr Shape kShapes[] = {{16, 128}, {128, 128}, {72, 256}, {300, 384}, {512, 2048}};

// What needs no rounding before blocks are joined has the formula's bits: which code, which scale, which order.
TEST_F(LinearPromptE4m3, SumsThatNeedNoRoundingHaveTheFormulasBits) {
  for (const Shape& shape : kShapes) {
    TestMatrix w = random_matrix(shape.n, shape.k, kGpuFp8Block, 7);
    make_small(&w);
    const PackedOnDevice matrix = pack_on_device(gpu(), w);
    for (const int64_t rows : kRowCounts) {
      const E4m3Rows x = quantised_on_host(whole_values(rows, shape.k, 11), shape.k, rows + 5, 1e30F);
      const std::vector<float> y = run(x, matrix.packed);
      const Formula formula(w, x);
      int64_t wrong = 0;
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t n = 0; n < shape.n; ++n) {
          const float got = y[static_cast<size_t>(row * shape.n + n)];
          const float expected = formula.exact(row, n);
          if (std::bit_cast<uint32_t>(got) == std::bit_cast<uint32_t>(expected) || (got == 0 && expected == 0))
            continue;
          if (wrong++ < 8) {
            std::printf("  row %lld column %lld: %g, expected %g\n", static_cast<long long>(row),
                        static_cast<long long>(n), static_cast<double>(got), static_cast<double>(expected));
          }
        }
      }
      EXPECT_EQ(wrong, 0) << rows << " x " << shape.n << " x " << shape.k;
      if (HasFailure()) return;
    }
  }
}

TEST_F(LinearPromptE4m3, IsAsCloseToTheFormulaAsTheMatrixUnitsSumsAre) {
  constexpr Shape kLarger[] = {{16, 128}, {300, 384}, {512, 2048}, {2048, 4096}};
  for (const Shape& shape : kLarger) {
    const TestMatrix w = random_matrix(shape.n, shape.k, kGpuFp8Block, 7);
    const PackedOnDevice matrix = pack_on_device(gpu(), w);
    for (const int64_t rows : {5, 129}) {
      const E4m3Rows x = quantised_on_host(normal_values(static_cast<size_t>(rows * shape.k), 1, 11), shape.k, rows);
      const std::vector<float> y = run(x, matrix.packed);
      const Formula formula(w, x);
      std::vector<float> got;
      std::vector<float> expected;
      int64_t beyond = 0;
      double most = 0;  // of the limit
      for (int64_t row = 0; row < rows; row += shape.n > 1000 ? 32 : 1) {
        for (int64_t n = 0; n < shape.n; ++n) {
          const Element element = formula.element(row, n);
          got.push_back(y[static_cast<size_t>(row * shape.n + n)]);
          expected.push_back(static_cast<float>(element.y));
          const double difference = std::abs(static_cast<double>(got.back()) - element.y);
          most = std::max(most, difference / element.limit);
          beyond += difference <= element.limit ? 0 : 1;
        }
      }
      const double difference = relative_difference(got, expected);
      std::printf("%lld x %lld x %lld: relative difference %.2e, at most %.2f of the limit\n",
                  static_cast<long long>(rows), static_cast<long long>(shape.n), static_cast<long long>(shape.k),
                  difference, most);
      EXPECT_EQ(beyond, 0);
      EXPECT_LT(difference, 2e-3);
    }
  }
}

TEST_F(LinearPromptE4m3, ARowHasTheSameBitsAmongOthersAndAgain) {
  constexpr int64_t kK = 2048;
  constexpr int64_t kN = 272;
  const TestMatrix w = random_matrix(kN, kK, kGpuFp8Block, 3);
  const PackedOnDevice matrix = pack_on_device(gpu(), w);
  const std::vector<float> x = normal_values(300 * kK, 1, 5);
  const std::vector<float> all = run(quantised_on_host(x, kK, 300), matrix.packed);
  EXPECT_EQ(run(quantised_on_host(x, kK, 300), matrix.packed), all);
  for (const int64_t rows : kRowCounts) {
    for (const int64_t first : {0, 1, 64, 127, 128, 250}) {
      if (first + rows > 300) continue;
      const E4m3Rows some = quantised_on_host(some_rows(x, kK, first, rows), kK, rows, 1e30F);
      const std::vector<float> y = run(some, matrix.packed);
      EXPECT_TRUE(std::equal(y.begin(), y.end(), all.begin() + first * kN)) << "rows " << first << " + " << rows;
    }
  }
}

TEST_F(LinearPromptE4m3, NumbersThatAreNotFiniteOrHugeStayInTheirRow) {
  constexpr int64_t kK = 384;
  constexpr int64_t kN = 144;
  constexpr int64_t kRows = 150;
  const TestMatrix w = random_matrix(kN, kK, kGpuFp8Block, 3);
  const PackedOnDevice matrix = pack_on_device(gpu(), w);
  std::vector<float> x = normal_values(kRows * kK, 1, 5);
  const std::vector<float> before = run(quantised_on_host(x, kK, kRows), matrix.packed);
  x[3 * kK + 200] = std::numeric_limits<float>::quiet_NaN();
  x[64 * kK] = std::numeric_limits<float>::infinity();
  x[129 * kK + 383] = std::numeric_limits<float>::max();
  const std::vector<float> after = run(quantised_on_host(x, kK, kRows), matrix.packed);
  for (int64_t row = 0; row < kRows; ++row) {
    const auto begin = after.begin() + row * kN;
    if (row == 3 || row == 64) {
      EXPECT_TRUE(std::all_of(begin, begin + kN, [](float v) { return std::isnan(v); })) << "row " << row;
    } else if (row == 129) {
      EXPECT_TRUE(std::none_of(begin, begin + kN, [](float v) { return std::isnan(v); })) << "row " << row;
      EXPECT_TRUE(std::any_of(begin, begin + kN, [](float v) { return std::abs(v) > 1e30F; })) << "row " << row;
    } else {
      EXPECT_TRUE(std::equal(begin, begin + kN, before.begin() + row * kN)) << "row " << row;
    }
  }
}

TEST_F(LinearPromptE4m3, AddsToWhatIsThere) {
  const TestMatrix w = random_matrix(72, 256, kGpuFp8Block, 9);
  const PackedOnDevice matrix = pack_on_device(gpu(), w);
  const E4m3Rows x = quantised_on_host(normal_values(70 * 256, 1, 5), 256, 70);
  const std::vector<float> before = normal_values(70 * 72, 1, 6);
  std::vector<float> expected = run(x, matrix.packed);
  for (size_t i = 0; i < expected.size(); ++i) expected[i] = before[i] + expected[i];
  EXPECT_EQ(run(x, matrix.packed, &before), expected);
}

// Matrices of one call, rows and scales farther apart than they need: the bits of each alone.
TEST_F(LinearPromptE4m3, MultipliesAGroup) {
  constexpr int64_t kK = 256;
  constexpr int64_t kRows = 150;
  constexpr int64_t kStride = 288;
  const int64_t sizes[] = {200, 5, 130, 64};
  const E4m3Rows x = quantised_on_host(normal_values(kRows * kK, 1, 5), kK, kRows + 7, 1e30F);
  std::vector<uint8_t> apart(kRows * kStride, 0x7f);
  for (int64_t r = 0; r < kRows; ++r) {
    std::copy_n(x.codes.begin() + r * kK, kK, apart.begin() + r * kStride);
  }
  OnDevice<uint8_t> codes = upload(apart);
  OnDevice<float> scales = upload(x.scales);
  std::vector<PackedOnDevice> matrices;
  std::vector<OnDevice<float>> y;
  GpuPromptArgs args;
  args.x_e4m3 = codes.data();
  args.x_scales = scales.data();
  args.scale_stride = x.stride;
  args.x_stride = kStride;
  args.rows = kRows;
  args.count = 4;
  for (size_t i = 0; i < 4; ++i) {
    matrices.push_back(pack_on_device(gpu(), random_matrix(sizes[i], kK, kGpuFp8Block, i + 1)));
    y.push_back(zeros<float>(static_cast<size_t>(kRows * sizes[i])));
    args.outputs[i] = {matrices.back().packed, y.back().data(), sizes[i], 0, 0};
  }
  Gpu g = gpu();
  linear_prompt(g, args);
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(y[i].read(), run(x, matrices[i].packed)) << "matrix " << i;
}

// How much of a product's precision the codes cost.
TEST_F(LinearPromptE4m3, IsNearTheProductOfTheNumbersThemselves) {
  constexpr int64_t kK = 2048;
  const TestMatrix w = random_matrix(256, kK, kGpuFp8Block, 3);
  const PackedOnDevice matrix = pack_on_device(gpu(), w);
  const std::vector<float> x = normal_values(65 * kK, 1, 5);
  const double difference =
      relative_difference(run(quantised_on_host(x, kK, 65), matrix.packed), reference_product(x, w));
  std::printf("relative difference to rows that are not quantised: %.2e\n", difference);
  EXPECT_LT(difference, 0.04);
}

TEST_F(LinearPromptE4m3, ChoosesTheShapeOfUnits) {
  const auto expect = [](int64_t rows, int64_t strips, PromptShape shape) {
    const PromptShape got = prompt_shape(rows, strips, 132, true);
    EXPECT_EQ(got.strips, shape.strips);
    EXPECT_EQ(got.columns, shape.columns);
    EXPECT_EQ(got.rows, shape.rows);
  };
  expect(8192, 768, {8, 128, 128});
  expect(64, 768, {8, 64, 64});
  expect(64, 128, {4, 16, 32});
  expect(1, 768, {8, 16, 16});
}

TEST_F(LinearPromptE4m3, Timing) {
  constexpr Shape kCases[] = {{12288, 2048}, {2048, 4096}};
  for (const Shape& shape : kCases) {
    const PackedOnDevice w = pack_on_device(gpu(), random_matrix(shape.n, shape.k, kGpuFp8Block, 1));
    for (const int32_t rows : {16, 64, 512, 2048, 8192}) {
      const E4m3Rows some = quantised_on_host(normal_values(static_cast<size_t>(16 * shape.k), 1, 5), shape.k, 16);
      std::vector<uint8_t> repeated(static_cast<size_t>(rows * shape.k));
      for (size_t i = 0; i < repeated.size(); ++i) repeated[i] = some.codes[i % some.codes.size()];
      OnDevice<uint8_t> codes = upload(repeated);
      OnDevice<float> scales(gpu(), static_cast<size_t>(rows * shape.k / kBlockK), 0.01F);
      OnDevice<float> y = zeros<float>(static_cast<size_t>(rows * shape.n));
      const double micros_a_call = micros(20, [&] {
        GpuPromptArgs args;
        args.x_e4m3 = codes.data();
        args.x_scales = scales.data();
        args.scale_stride = rows;
        args.x_stride = shape.k;
        args.rows = rows;
        args.count = 1;
        args.outputs[0] = {w.packed, y.data(), shape.n, 0, 0};
        Gpu g = gpu();
        linear_prompt(g, args);
      });
      const double flops = 2.0 * static_cast<double>(rows) * static_cast<double>(shape.n * shape.k);
      std::printf("prompt in e4m3, %5lld x %4lld, %5d rows: %8.1f us, %6.1f TFLOP/s\n", static_cast<long long>(shape.n),
                  static_cast<long long>(shape.k), rows, micros_a_call, flops / micros_a_call / 1e6);
    }
  }
}

}  // namespace
}  // namespace weir
