#include "ops/linear/linear.h"

#include <gtest/gtest.h>

#include "ops/cases.h"
#include "ops/embed/embed.h"

namespace weir {
namespace {

using cases::Floats;

struct Case {
  WeightFormat format;
  int64_t n;
  int64_t k;
};

// Whole and broken tiles, panels, K blocks and scale blocks.
std::vector<Case> linear_cases() {
  std::vector<Case> list;
  for (const WeightFormat format : cases::kFormats) {
    list.push_back({format, 1, 32});
    list.push_back({format, 40, 96});
    list.push_back({format, 64, 128});
    list.push_back({format, 200, 288});
    if (format != WeightFormat::kMxfp4) list.push_back({format, 100, 75});
  }
  return list;
}

std::string name_of(const Case& c) {
  return std::string(weight_format_name(c.format)) + " " + std::to_string(c.n) + "x" + std::to_string(c.k);
}

constexpr int64_t kRows = 70;  // more than a row block, and every size of register tile on the way

Floats run(Cpu& cpu, const PackedMatrix& weight, const Floats& x, int64_t first, int64_t rows) {
  Floats y(static_cast<size_t>(rows * weight.n()), -7.0F);
  linear(cpu, x.data() + first * weight.k(), weight.k(), rows, {&weight, y.data(), weight.n(), false});
  return y;
}

TEST(Linear, AgreesWithDoublePrecisionInEveryFormat) {
  Cpu cpu;
  cpu.reserve_scratch(linear_scratch_bytes(cpu.threads()));
  for (const Case& c : linear_cases()) {
    const cases::Weight weight = cases::random_weight(1, c.format, c.n, c.k);
    const Floats x = cases::random_floats(2, kRows * c.k);
    const auto expected = reference::linear(cases::rows_of(x, c.k), reference::values(weight.view));
    // 2^-24 times the square root of K times a margin.
    EXPECT_LT(cases::row_error(run(cpu, pack(weight.view), x, 0, kRows), expected, 1.0), 3e-6) << name_of(c);
  }
}

TEST(Linear, ARowsBitsDependOnNothingButTheRow) {
  const auto cpus = cases::all_cpus(linear_scratch_bytes(cases::kThreadsMax));
  for (const Case& c : linear_cases()) {
    const cases::Weight weight = cases::random_weight(3, c.format, c.n, c.k);
    const PackedMatrix packed = pack(weight.view);
    const Floats x = cases::random_floats(4, kRows * c.k);
    const Floats all = run(*cpus[0], packed, x, 0, kRows);
    for (const auto& cpu : cpus) {
      ASSERT_TRUE(cases::same_bits(run(*cpu, packed, x, 0, kRows), all))
          << name_of(c) << " " << isa_name(cpu->isa()) << " " << cpu->threads();
      // Calls of 1, 2, 3, ... rows.
      for (int64_t first = 0, count = 1; first + count <= kRows; first += count++) {
        const Floats part = run(*cpu, packed, x, first, count);
        ASSERT_TRUE(cases::same_bits(part, std::span(all).subspan(static_cast<size_t>(first * c.n), part.size())))
            << name_of(c) << " " << isa_name(cpu->isa()) << " rows " << first << " +" << count;
      }
    }
  }
}

TEST(Linear, AddsTheFinishedSumToWhatIsThere) {
  Cpu cpu;
  cpu.reserve_scratch(linear_scratch_bytes(cpu.threads()));
  const cases::Weight weight = cases::random_weight(5, WeightFormat::kFp8Block, 150, 256);
  const PackedMatrix packed = pack(weight.view);
  for (const int64_t rows : {1, 3, 20}) {
    const Floats x = cases::random_floats(6, rows * 256);
    const Floats plain = run(cpu, packed, x, 0, rows);
    Floats y = cases::random_floats(7, rows * 150);
    Floats expected = y;
    for (size_t i = 0; i < y.size(); ++i) expected[i] += plain[i];
    linear(cpu, x.data(), 256, rows, {&packed, y.data(), 150, true});
    EXPECT_TRUE(cases::same_bits(y, expected)) << rows;
  }
}

TEST(Linear, AGroupGivesWhatItsMatricesGiveAlone) {
  Cpu cpu;
  cpu.reserve_scratch(linear_scratch_bytes(cpu.threads()));
  constexpr int64_t kK = 256;
  const cases::Weight first = cases::random_weight(8, WeightFormat::kFp8Block, 384, kK);
  const cases::Weight second = cases::random_weight(9, WeightFormat::kBf16, 5, kK);
  const cases::Weight third = cases::random_weight(10, WeightFormat::kMxfp4, 130, kK);
  const PackedMatrix packed[] = {pack(first.view), pack(second.view), pack(third.view)};
  for (const int64_t rows : {1, 30, 300}) {
    const Floats x = cases::random_floats(11, rows * kK);
    Floats outputs[3];
    std::vector<LinearOutput> group;
    for (size_t i = 0; i < 3; ++i) {
      outputs[i].resize(static_cast<size_t>(rows * packed[i].n()));
      group.push_back({&packed[i], outputs[i].data(), packed[i].n(), false});
    }
    LinearArgs args;
    args.x = x.data();
    args.x_stride = kK;
    args.rows = rows;
    args.outputs = group;
    linear_group(cpu, args);
    for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(cases::same_bits(outputs[i], run(cpu, packed[i], x, 0, rows))) << i;
  }
}

TEST(Linear, GathersRowsByIndex) {
  Cpu cpu;
  cpu.reserve_scratch(linear_scratch_bytes(cpu.threads()));
  const cases::Weight weight = cases::random_weight(12, WeightFormat::kBf16, 48, 64);
  const PackedMatrix packed = pack(weight.view);
  const Floats x = cases::random_floats(13, 10 * 64);
  const std::vector<int32_t> wanted = {9, 0, 3, 3, 7, 1};
  const Floats all = run(cpu, packed, x, 0, 10);
  Floats y(wanted.size() * 48);
  const LinearOutput output{&packed, y.data(), 48, false};
  LinearArgs args;
  args.x = x.data();
  args.x_stride = 64;
  args.x_rows = wanted.data();
  args.rows = static_cast<int64_t>(wanted.size());
  args.outputs = {&output, 1};
  linear_group(cpu, args);
  for (size_t i = 0; i < wanted.size(); ++i) {
    const auto row = static_cast<size_t>(wanted[i]);
    EXPECT_TRUE(cases::same_bits(std::span(y).subspan(i * 48, 48), std::span(all).subspan(row * 48, 48))) << i;
  }
}

TEST(Linear, PackedBytesAreTheStoredBytesOfWholeTiles) {
  const cases::Weight fp8 = cases::random_weight(14, WeightFormat::kFp8Block, 256, 256);
  // Each tile of 16 columns holds its own float scales.
  EXPECT_EQ(pack(fp8.view).bytes(), 256 * 256 + 16 * 2 * 4);
  const cases::Weight mxfp4 = cases::random_weight(15, WeightFormat::kMxfp4, 20, 64);
  EXPECT_EQ(pack(mxfp4.view).bytes(), 32 * 32 + 32 * 2);
}

TEST(Embed, PackedAndStoredTablesGiveTheExactRows) {
  Cpu cpu;
  for (const WeightFormat format : cases::kFormats) {
    const cases::Weight weight = cases::random_weight(16, format, 200, 96);
    const auto exact = reference::values(weight.view);
    const std::vector<int32_t> ids = {0, 199, 17, 17, 128, 64};
    Floats packed(ids.size() * 96);
    Floats stored(ids.size() * 96);
    embed(cpu, pack(weight.view), ids, packed.data(), 96);
    embed(cpu, weight.view, ids, stored.data(), 96);
    EXPECT_TRUE(cases::same_bits(packed, stored));
    for (size_t i = 0; i < ids.size(); ++i) {
      for (size_t k = 0; k < 96; ++k) {
        ASSERT_EQ(packed[i * 96 + k], static_cast<float>(exact[static_cast<size_t>(ids[i])][k]))
            << weight_format_name(format);
      }
    }
  }
}

}  // namespace
}  // namespace weir
