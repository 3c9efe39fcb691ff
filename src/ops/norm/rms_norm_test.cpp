#include "ops/norm/rms_norm.h"

#include <gtest/gtest.h>

#include "ops/cases.h"

namespace weir {
namespace {

using cases::Floats;

TEST(RmsNorm, AgreesWithDoublePrecisionAndIsRowInvariant) {
  for (const int64_t size : {8, 100, 256}) {
    constexpr int64_t kRows = 300;
    const Floats x = cases::random_floats(1, kRows * size);
    const Floats weight = cases::random_floats(2, size, 0.3F);
    for (const bool zero_centred : {true, false}) {
      Floats first;
      for (const auto& cpu : cases::all_cpus(0)) {
        Floats y(x.size());
        RmsNormArgs args{x.data(), size, nullptr, kRows, size, weight.data(), zero_centred, 1e-6F, y.data(), size};
        rms_norm(*cpu, args);
        if (first.empty()) first = y;
        ASSERT_TRUE(cases::same_bits(y, first)) << isa_name(cpu->isa());
      }
      reference::Rows expected;
      for (const auto& row : cases::rows_of(x, size)) {
        expected.push_back(reference::rms_norm(row, weight, zero_centred, 1e-6));
      }
      EXPECT_LT(cases::row_error(first, expected), 1e-6) << size;
    }
  }
}

TEST(RmsNorm, GathersRowsAndMayWorkInPlace) {
  Cpu cpu;
  const Floats x = cases::random_floats(3, 4 * 32);
  const Floats weight = cases::random_floats(4, 32);
  Floats all = x;
  rms_norm(cpu, {all.data(), 32, nullptr, 4, 32, weight.data(), true, 1e-6F, all.data(), 32});
  const int32_t rows[] = {2, 0};
  Floats some(2 * 32);
  rms_norm(cpu, {x.data(), 32, rows, 2, 32, weight.data(), true, 1e-6F, some.data(), 32});
  EXPECT_TRUE(cases::same_bits(std::span(some).first(32), std::span(all).subspan(64, 32)));
  EXPECT_TRUE(cases::same_bits(std::span(some).subspan(32), std::span(all).first(32)));
}

}  // namespace
}  // namespace weir
