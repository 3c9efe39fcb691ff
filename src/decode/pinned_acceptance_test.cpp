#include "ops/sample/pinned_acceptance.h"

#include <gtest/gtest.h>

namespace weir {
namespace {

// Tokens of a step of `drafts` drafts behind the token at `position`.
int32_t yield(uint64_t seed, int64_t position, int32_t drafts, uint64_t threshold) {
  int32_t accepted = 0;
  while (accepted < drafts && pinned_accepts(seed, position + 1 + accepted, threshold)) ++accepted;
  return 1 + accepted;
}

TEST(PinnedAcceptance, StepsYieldTheLengthThatWasSet) {
  for (const auto& [length, drafts] : {std::pair{2.73, 2}, {1.5, 1}, {1.05, 3}, {3.2, 3}, {4.0, 7}, {7.9, 7}}) {
    const uint64_t threshold = pinned_threshold(length, drafts);
    int64_t steps = 0;
    int64_t tokens = 0;
    for (uint64_t seed = 0; seed < 100; ++seed) {
      for (int64_t position = 1000; position < 6000; ++steps) {
        const int32_t count = yield(seed, position, drafts, threshold);
        position += count;
        tokens += count;
      }
    }
    const double mean = static_cast<double>(tokens) / static_cast<double>(steps);
    std::printf("  %.2f of %d drafts: %.4f in %ld steps\n", length, drafts, mean, static_cast<long>(steps));
    // Some five standard errors: a step's tokens deviate by under 3, there are 60,000 steps at least.
    EXPECT_NEAR(mean, length, 0.05) << drafts << " drafts";
  }
}

TEST(PinnedAcceptance, TheEndsAreNoneAndAll) {
  for (int32_t drafts = 1; drafts < 8; ++drafts) {
    EXPECT_EQ(pinned_threshold(1.0, drafts), 0U);
    EXPECT_EQ(pinned_threshold(1.0 + drafts, drafts), uint64_t{1} << 32);
  }
  for (int64_t position = 0; position < 10'000; ++position) {
    EXPECT_FALSE(pinned_accepts(3, position, 0));
    EXPECT_TRUE(pinned_accepts(3, position, uint64_t{1} << 32));
  }
}

// A length from one that was solved by hand: 1 + p + p^2 = 2.71 at p = 0.9.
TEST(PinnedAcceptance, TheThresholdIsTheSolution) {
  EXPECT_NEAR(static_cast<double>(pinned_threshold(2.71, 2)) / 4294967296.0, 0.9, 1e-9);
  EXPECT_NEAR(static_cast<double>(pinned_threshold(1.25, 1)) / 4294967296.0, 0.25, 1e-9);
}

// Sequences and positions are independent of each other: of two seeds, or of neighbours, as many agree as chance gives.
TEST(PinnedAcceptance, SeedsAndPositionsAreIndependent) {
  const uint64_t half = uint64_t{1} << 31;
  int64_t seeds = 0;
  int64_t neighbours = 0;
  constexpr int64_t kCount = 100'000;
  for (int64_t position = 0; position < kCount; ++position) {
    const bool one = pinned_accepts(1, position, half);
    seeds += one == pinned_accepts(2, position, half) ? 1 : 0;
    neighbours += one == pinned_accepts(1, position + 1, half) ? 1 : 0;
  }
  EXPECT_NEAR(static_cast<double>(seeds) / kCount, 0.5, 0.01);  // six standard errors
  EXPECT_NEAR(static_cast<double>(neighbours) / kCount, 0.5, 0.01);
}

}  // namespace
}  // namespace weir
