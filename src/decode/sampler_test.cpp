#include "decode/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

namespace weir {
namespace {

constexpr int32_t kVocabulary = 8;

std::vector<float> logits() {
  return {0.1F, 2.0F, -1.0F, 1.5F, 0.7F, 1.5F, -3.0F, 0.0F, 9.0F};
}  // last id is padding

TokenId sample(const SamplingParams& params, int64_t position = 5, const TokenHistory* history = nullptr,
               int64_t output_count = 0) {
  Sampler sampler(16);
  std::vector<float> row = logits();
  SampleArgs args;
  args.params = &params;
  args.history = history;
  args.position = position;
  args.output_count = output_count;
  args.vocabulary = kVocabulary;
  return sampler.sample(row, args);
}

// Frequencies over many positions: the noise at each is independent.
std::map<TokenId, double> frequencies(const SamplingParams& params, int draws = 200'000) {
  std::map<TokenId, double> counts;
  for (int i = 0; i < draws; ++i) counts[sample(params, i)] += 1.0 / draws;
  return counts;
}

TEST(Sampler, GreedyTakesTheLikeliestRealId) {
  SamplingParams params;
  params.temperature = 0.0F;
  EXPECT_EQ(sample(params), 1) << "id 8 is padding, though its logit is the largest";
}

TEST(Sampler, ATemperatureCloseToZeroIsGreedy) {
  SamplingParams params;
  constexpr float kSmallest = std::numeric_limits<float>::denorm_min();
  for (const float temperature : {kSmallest, 2.0F * kSmallest, 1e-44F, 1e-40F, 2.9e-39F, 1.17549435e-38F, 2e-38F,
                                  1e-37F, 1e-31F, 1e-30F, 1e-29F, 1e-20F, 1e-10F, 1e-6F}) {
    params.temperature = temperature;
    for (const float top_p : {1.0F, 0.5F}) {
      params.top_p = top_p;
      for (int64_t position = 0; position < 20; ++position) EXPECT_EQ(sample(params, position), 1) << temperature;
    }
  }
}

TEST(Sampler, GreedyTiesGoToTheLowestId) {
  SamplingParams params;
  params.temperature = 0.0F;
  params.logit_bias_count = 1;
  params.logit_bias[0] = {1, -100.0F};
  EXPECT_EQ(sample(params), 3) << "ids 3 and 5 tie";
}

TEST(Sampler, SampledFrequenciesAreTheSoftmax) {
  SamplingParams params;
  params.temperature = 0.8F;
  double total = 0.0;
  const auto row = logits();
  for (size_t i = 0; i < kVocabulary; ++i) total += std::exp(row[i] / 0.8);
  const auto seen = frequencies(params);
  for (TokenId id = 0; id < kVocabulary; ++id) {
    const double expected = std::exp(row[static_cast<size_t>(id)] / 0.8) / total;
    const double actual = seen.contains(id) ? seen.at(id) : 0.0;
    EXPECT_NEAR(actual, expected, 5.0 * std::sqrt(expected / 200'000)) << id;
  }
}

TEST(Sampler, TopKKeepsTheLikeliestLowestIdsFirst) {
  SamplingParams params;
  params.top_k = 2;
  const auto seen = frequencies(params, 20'000);
  EXPECT_EQ(seen.size(), 2U);
  EXPECT_TRUE(seen.contains(1) && seen.contains(3)) << "5 ties with 3 and has the higher id";
}

TEST(Sampler, TopPKeepsTheSmallestSetThatReachesIt) {
  SamplingParams params;
  params.top_p = 0.35F;  // id 1 alone has 0.358 of the mass
  EXPECT_EQ(frequencies(params, 5'000).size(), 1U);
  params.top_p = 0.37F;
  EXPECT_EQ(frequencies(params, 5'000).size(), 2U);
}

TEST(Sampler, MinPIsRelativeToTheLikeliest) {
  SamplingParams params;
  params.min_p = 0.5F;  // exp(1.5 - 2) = 0.607 passes, exp(0.7 - 2) = 0.27 does not
  const auto seen = frequencies(params, 20'000);
  EXPECT_EQ(seen.size(), 3U);
  EXPECT_TRUE(seen.contains(1) && seen.contains(3) && seen.contains(5));
}

TEST(Sampler, PenaltiesCountPromptAndOutput) {
  SamplingParams params;
  params.temperature = 0.0F;
  params.repetition_penalty = 2.0F;
  TokenHistory history(kVocabulary);
  history.reset(params);
  history.add_prompt(1);
  EXPECT_EQ(sample(params, 5, &history), 3) << "2.0 / 2 is under 1.5";
  params.repetition_penalty = 1.0F;
  params.frequency_penalty = 0.3F;
  history.reset(params);
  history.add_prompt(1);
  EXPECT_EQ(sample(params, 5, &history), 1) << "frequency counts output only";
  history.add_output(1);
  history.add_output(1);
  EXPECT_EQ(sample(params, 5, &history), 3) << "2.0 - 2 * 0.3 is under 1.5";
}

TEST(Sampler, RecentTokensCountAsIfTheyWereInTheHistory) {
  SamplingParams params;
  params.temperature = 0.0F;
  params.frequency_penalty = 0.3F;
  TokenHistory history(kVocabulary);
  history.reset(params);
  history.add_output(1);
  const std::vector<float> row = logits();
  SampleArgs args;
  args.params = &params;
  args.history = &history;
  args.position = 5;
  args.vocabulary = kVocabulary;
  Sampler sampler(16);
  EXPECT_EQ(sampler.sample(row, args), 1);
  const TokenId recent[] = {2, 1};
  args.recent = recent;
  EXPECT_EQ(sampler.sample(row, args), 3) << "2.0 - 2 * 0.3 is under 1.5";
}

TEST(Sampler, StopIdsAreBannedBeforeMinTokens) {
  SamplingParams params;
  params.temperature = 0.0F;
  params.min_tokens = 3;
  params.banned_until_min_count = 1;
  params.banned_until_min[0] = 1;
  EXPECT_EQ(sample(params, 5, nullptr, 2), 3);
  EXPECT_EQ(sample(params, 5, nullptr, 3), 1);
}

TEST(Sampler, MaskAllowsOnlyItsIds) {
  Sampler sampler(16);
  SamplingParams params;
  std::vector<float> row = logits();
  const uint32_t mask[1] = {1U << 6 | 1U << 2};
  SampleArgs args;
  args.params = &params;
  args.vocabulary = kVocabulary;
  args.mask = mask;
  for (int64_t position = 0; position < 200; ++position) {
    row = logits();
    args.position = position;
    const TokenId token = sampler.sample(row, args);
    EXPECT_TRUE(token == 6 || token == 2);
  }
}

TEST(Sampler, TheSameSeedAndPositionGiveTheSameToken) {
  SamplingParams params;
  params.seed = 7;
  for (int64_t position = 0; position < 50; ++position) EXPECT_EQ(sample(params, position), sample(params, position));
  SamplingParams other = params;
  other.seed = 8;
  int differing = 0;
  for (int64_t position = 0; position < 50; ++position) {
    differing += sample(params, position) != sample(other, position) ? 1 : 0;
  }
  EXPECT_GT(differing, 10);
}

}  // namespace
}  // namespace weir
