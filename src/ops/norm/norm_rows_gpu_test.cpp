#include "ops/norm/norm_rows_gpu.h"

#include <algorithm>
#include <cstdio>

#include "ops/gpu/gpu_test.h"

namespace weir {
namespace {

struct Normed {
  std::vector<uint16_t> bf16;
  std::vector<uint16_t> f16;
  std::vector<float> y;
};

class NormRows : public GpuTest {
 protected:
  Normed run(const std::vector<float>& x, const std::vector<float>* weight, int64_t size,
             const std::vector<int32_t>* chosen = nullptr) {
    const int64_t rows =
        chosen != nullptr ? static_cast<int64_t>(chosen->size()) : static_cast<int64_t>(x.size()) / size;
    OnDevice<float> in = upload(x);
    OnDevice<float> scales = weight != nullptr ? upload(*weight) : OnDevice<float>();
    OnDevice<int32_t> list = chosen != nullptr ? upload(*chosen) : OnDevice<int32_t>();
    OnDevice<uint16_t> bf16 = zeros<uint16_t>(static_cast<size_t>(rows * size));
    OnDevice<uint16_t> f16 = zeros<uint16_t>(static_cast<size_t>(rows * size));
    OnDevice<float> y = zeros<float>(static_cast<size_t>(rows * size));
    GpuNormRowsArgs args;
    args.x = in.data();
    args.x_rows = chosen != nullptr ? list.data() : nullptr;
    args.weight = weight != nullptr ? scales.data() : nullptr;
    args.bf16 = bf16.data();
    args.f16 = f16.data();
    args.y = y.data();
    args.x_stride = size;
    args.y_stride = size;
    args.size = static_cast<int32_t>(size);
    Gpu g = gpu();
    norm_rows(g, args, rows);
    return {bf16.read(), f16.read(), y.read()};
  }
};

// Few rows and many are different kernels.
TEST_F(NormRows, ARowHasTheSameBitsAmongMany) {
  for (const int64_t size : {96, 1024, 2048}) {
    constexpr int64_t kRows = 1027;
    constexpr int64_t kSome = 9;
    const std::vector<float> x = normal_values(static_cast<size_t>(kRows * size), 1, 5);
    const std::vector<float> weight = normal_values(static_cast<size_t>(size), 1, 6);
    for (const std::vector<float>* scales : {&weight, static_cast<const std::vector<float>*>(nullptr)}) {
      const Normed all = run(x, scales, size);
      for (const int64_t first : {int64_t{0}, int64_t{500}, kRows - kSome}) {
        const int64_t begin = first * size;
        const int64_t end = begin + kSome * size;
        const Normed some = run({x.begin() + begin, x.begin() + end}, scales, size);
        EXPECT_TRUE(std::equal(some.y.begin(), some.y.end(), all.y.begin() + begin)) << size << ", row " << first;
        EXPECT_TRUE(std::equal(some.bf16.begin(), some.bf16.end(), all.bf16.begin() + begin)) << size;
        EXPECT_TRUE(std::equal(some.f16.begin(), some.f16.end(), all.f16.begin() + begin)) << size;
      }
      std::vector<int32_t> chosen;
      for (int32_t r = 0; r < kRows; ++r) chosen.push_back(static_cast<int32_t>((r * 7 + 3) % kRows));
      const Normed other = run(x, scales, size, &chosen);
      for (int64_t r = 0; r < kRows; ++r) {
        const auto from = all.y.begin() + chosen[static_cast<size_t>(r)] * size;
        ASSERT_TRUE(std::equal(from, from + size, other.y.begin() + r * size)) << size << ", row " << r;
      }
    }
  }
}

TEST_F(NormRows, EqualsItsDefinition) {
  constexpr int64_t kSize = 2048;
  constexpr int64_t kRows = 1030;
  const std::vector<float> x = normal_values(kRows * kSize, 1, 5);
  const std::vector<float> weight = normal_values(kSize, 1, 6);
  const Normed got = run(x, &weight, kSize);
  std::vector<float> expected(x.size());
  for (size_t r = 0; r < kRows; ++r) {
    double squares = 0;
    for (size_t i = 0; i < kSize; ++i) squares += static_cast<double>(x[r * kSize + i]) * x[r * kSize + i];
    const double scale = 1 / std::sqrt(squares / kSize + 1e-6);
    for (size_t i = 0; i < kSize; ++i) {
      expected[r * kSize + i] = static_cast<float>((1.0 + weight[i]) * x[r * kSize + i] * scale);
    }
  }
  EXPECT_LT(relative_difference(got.y, expected), 1e-6);
  EXPECT_EQ(got.bf16, bf16_values(got.y));
}

TEST_F(NormRows, Timing) {
  constexpr int64_t kSize = 2048;
  OnDevice<float> weight = zeros<float>(kSize);
  for (const int64_t rows : {512, 1024, 2048, 8192}) {
    OnDevice<float> x = zeros<float>(static_cast<size_t>(rows * kSize));
    OnDevice<uint16_t> bf16 = zeros<uint16_t>(static_cast<size_t>(rows * kSize));
    OnDevice<uint16_t> f16 = zeros<uint16_t>(static_cast<size_t>(rows * kSize));
    GpuNormRowsArgs args;
    args.x = x.data();
    args.weight = weight.data();
    args.bf16 = bf16.data();
    args.f16 = f16.data();
    args.x_stride = kSize;
    args.size = kSize;
    Gpu g = gpu();
    const double micros_a_call = micros(20, [&] { norm_rows(g, args, rows); });
    std::printf("norm %5lld rows: %6.1f us, %6.1f GB/s\n", static_cast<long long>(rows), micros_a_call,
                8e-3 * static_cast<double>(rows * kSize) / micros_a_call);
  }
}

}  // namespace
}  // namespace weir
