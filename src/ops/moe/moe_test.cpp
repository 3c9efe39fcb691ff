#include "ops/moe/moe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "ops/cases.h"

namespace weir {
namespace {

using cases::Floats;

struct Mlp {
  Mlp(uint64_t seed, WeightFormat format, int64_t d, int64_t f)
      : gate(cases::random_weight(seed, format, f, d)),
        up(cases::random_weight(seed + 1, format, f, d)),
        down(cases::random_weight(seed + 2, format, d, f)) {}
  PackedMlp packed() const { return {pack(gate.view), pack(up.view), pack(down.view)}; }
  reference::Expert exact() const {
    return {reference::values(gate.view), reference::values(up.view), reference::values(down.view)};
  }
  cases::Weight gate;
  cases::Weight up;
  cases::Weight down;
};

struct Case {
  WeightFormat format;
  int64_t d;
  int64_t f;
  int64_t experts;
  int64_t top_k;
  int64_t shared_f;  // 0: none
};

const Case kCases[] = {{WeightFormat::kFp8Block, 96, 64, 16, 4, 64},
                       {WeightFormat::kMxfp4, 64, 32, 20, 8, 96},
                       {WeightFormat::kBf16, 72, 40, 5, 1, 0}};

struct Block {
  explicit Block(const Case& c)
      : router(cases::random_weight(1, WeightFormat::kBf16, c.experts, c.d)),
        shared_gate(cases::random_weight(2, WeightFormat::kBf16, 1, c.d)),
        shared(3, c.format, c.d, std::max<int64_t>(32, c.shared_f)) {
    for (int64_t e = 0; e < c.experts; ++e)
      experts.emplace_back(100 + 10 * static_cast<uint64_t>(e), c.format, c.d, c.f);
    packed.router = pack(router.view);
    if (c.shared_f > 0) {
      packed.shared_gate = pack(shared_gate.view);
      packed.shared = shared.packed();
    }
    for (const Mlp& e : experts) packed.experts.push_back(e.packed());
    packed.top_k = c.top_k;
  }
  cases::Weight router;
  cases::Weight shared_gate;
  Mlp shared;
  std::vector<Mlp> experts;
  PackedMoe packed;
};

Floats run(Cpu& cpu, const PackedMoe& weights, const Floats& x, int64_t d, int64_t chunk) {
  const int64_t rows = static_cast<int64_t>(x.size()) / d;
  Floats y(x.size(), 0.25F);
  for (int64_t r = 0; r < rows; r += chunk) {
    FeedForwardArgs args;
    args.x = x.data() + r * d;
    args.x_stride = d;
    args.rows = std::min(chunk, rows - r);
    args.y = y.data() + r * d;
    args.y_stride = d;
    moe(cpu, weights, args);
  }
  return y;
}

constexpr int64_t kRows = 40;

TEST(Moe, AgreesWithDoublePrecision) {
  for (const Case& c : kCases) {
    const Block block(c);
    Cpu cpu;
    cpu.reserve_scratch(moe_scratch_bytes(block.packed, kRows, cpu.threads()));
    const Floats x = cases::random_floats(5, kRows * c.d);
    std::vector<reference::Expert> experts;
    for (const Mlp& e : block.experts) experts.push_back(e.exact());
    reference::Rows expected;
    for (const auto& row : cases::rows_of(x, c.d)) {
      const auto gate = c.shared_f > 0 ? reference::values(block.shared_gate.view) : reference::Rows{};
      expected.push_back(
          reference::moe(reference::values(block.router.view), experts, c.top_k, gate, block.shared.exact(), row));
      for (double& v : expected.back()) v += 0.25;
    }
    EXPECT_LT(cases::row_error(run(cpu, block.packed, x, c.d, kRows), expected), 5e-6) << c.experts;
  }
}

TEST(Moe, ARowsBitsDependOnNothingButTheRow) {
  for (const Case& c : kCases) {
    const Block block(c);
    constexpr int64_t kMany = 600;  // more than a slice
    const auto cpus = cases::all_cpus(moe_scratch_bytes(block.packed, kMany, cases::kThreadsMax));
    const Floats x = cases::random_floats(6, kMany * c.d);
    const Floats all = run(*cpus.back(), block.packed, x, c.d, kMany);
    for (const auto& cpu : cpus) {
      for (const int64_t chunk : {1, 5, 64, 600}) {
        if (chunk == 1 && cpu->isa() == Isa::kScalar) continue;  // slow, and covered by chunk 5
        ASSERT_TRUE(cases::same_bits(run(*cpu, block.packed, x, c.d, chunk), all))
            << isa_name(cpu->isa()) << " " << cpu->threads() << " threads, chunk " << chunk;
      }
    }
  }
}

TEST(Mlp, AgreesWithDoublePrecisionAndIsRowInvariant) {
  const Mlp weights(7, WeightFormat::kFp8Block, 80, 200);
  const PackedMlp packed = weights.packed();
  const Floats x = cases::random_floats(8, kRows * 80);
  reference::Rows expected;
  for (const auto& row : cases::rows_of(x, 80)) expected.push_back(reference::mlp(weights.exact(), row));
  for (const auto& cpu : cases::all_cpus(mlp_scratch_bytes(packed, kRows, cases::kThreadsMax))) {
    Floats all(x.size());
    FeedForwardArgs args{x.data(), 80, kRows, all.data(), 80, false};
    mlp(*cpu, packed, args);
    EXPECT_LT(cases::row_error(all, expected), 5e-6);
    Floats one(x.size());
    for (int64_t r = 0; r < kRows; ++r) {
      mlp(*cpu, packed, {x.data() + r * 80, 80, 1, one.data() + r * 80, 80, false});
    }
    EXPECT_TRUE(cases::same_bits(one, all));
  }
}

TEST(Route, PicksTheLargestAndOfEqualsTheLowest) {
  Cpu cpu;
  const Floats logits = {0.5F, 2.0F, -1.0F, 2.0F, 2.0F, 1.0F};
  std::vector<int32_t> experts(4);
  Floats weights(4);
  route(cpu, {logits.data(), 6, 1, 6, 4, experts.data(), weights.data()});
  EXPECT_EQ(experts, (std::vector<int32_t>{1, 3, 4, 5}));
  EXPECT_EQ(weights[0], weights[2]);
  EXPECT_NEAR(static_cast<double>(weights[0] + weights[1] + weights[2] + weights[3]), 1.0, 1e-6);
  EXPECT_NEAR(static_cast<double>(weights[3] / weights[0]), std::exp(-1.0), 1e-6);
}

TEST(Route, ARowOfNaNsStillNamesDistinctExperts) {
  Cpu cpu;
  const Floats logits(5, std::numeric_limits<float>::quiet_NaN());
  std::vector<int32_t> experts(3);
  Floats weights(3);
  route(cpu, {logits.data(), 5, 1, 5, 3, experts.data(), weights.data()});
  std::sort(experts.begin(), experts.end());
  EXPECT_GE(experts[0], 0);
  EXPECT_LT(experts[2], 5);
  EXPECT_TRUE(experts[0] != experts[1] && experts[1] != experts[2]);
}

}  // namespace
}  // namespace weir
