#include "runner/logprobs.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace weir {
namespace {

const std::vector<float> kLogits = {0.1F, 2.0F, -1.0F, 1.5F, 0.7F, 1.5F, -3.0F, 0.0F, 9.0F};

TEST(Logprobs, RowHoldsTheTokenItsRankAndTheLikeliest) {
  const Cpu cpu;
  LogprobWriter writer(cpu, 20);
  StepResult result;
  writer.append(kLogits, 4, 3, &result);
  ASSERT_EQ(result.rows.size(), 1U);
  ASSERT_EQ(result.logprobs.size(), 4U);
  double total = 0.0;
  for (const float logit : kLogits) total += std::exp(static_cast<double>(logit));
  EXPECT_NEAR(result.logprobs[0].logprob, 0.7 - std::log(total), 1e-6);
  EXPECT_EQ(result.logprobs[0].rank, 5);
  EXPECT_EQ(result.logprobs[1].token, 8) << "raw rows include the padded ids";
  EXPECT_EQ(result.logprobs[2].token, 1);
  EXPECT_EQ(result.logprobs[3].token, 3);
}

TEST(Logprobs, ATokensRankIsItsPlaceAmongTheLikeliest) {
  const Cpu cpu;
  LogprobWriter writer(cpu, 20);
  StepResult result;
  for (TokenId token = 0; token < 9; ++token) {
    result.clear();
    writer.append(kLogits, token, 20, &result);
    ASSERT_EQ(result.rows[0].top_count, 9) << "a row has no more than its ids";
    const TokenLogprob own = result.logprobs[0];
    const TokenLogprob& same = result.logprobs[static_cast<size_t>(own.rank)];
    EXPECT_EQ(same.token, token);
    EXPECT_EQ(same.rank, own.rank);
    EXPECT_EQ(same.logprob, own.logprob);
  }
}

TEST(Logprobs, ARowWithOneNanOrInfinityIsNotFinite) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kLargest = std::numeric_limits<float>::max();
  for (const size_t size : {1U, 9U, 63U, 64U, 65U, 200U}) {
    std::vector<float> row(size, 0.5F);
    row.front() = kLargest;
    row.back() = -kLargest;
    EXPECT_TRUE(all_finite(row));
    for (size_t at = 0; at < size; ++at) {
      for (const float bad : {std::nanf(""), -std::nanf(""), kInfinity, -kInfinity}) {
        std::vector<float> damaged = row;
        damaged[at] = bad;
        EXPECT_FALSE(all_finite(damaged)) << bad << " at " << at << " of " << size;
      }
    }
  }
}

}  // namespace
}  // namespace weir
