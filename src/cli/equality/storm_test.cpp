// Briefly what `equality_sim --storm 96` does at length, without a look at how long anything takes: a machine that
// tests run on is busy.
#include "cli/equality/storm.h"

#include <gtest/gtest.h>

#include "runner/test_model.h"

namespace weir::equality {
namespace {

constexpr int64_t kPositions = 1024;

class EvictionStorms : public testing::TestWithParam<bool> {};

// Tenfold oversubscribed, a plan evicts a block for each page or slot that it takes and none beyond, nothing is evicted
// between plans, and none of the rows has to go.
TEST_P(EvictionStorms, OfATenfoldOversubscribedEngineEvictNoMoreThanItsPlansTake) {
  auto model = load_golden_model(golden_with_drafts(), kPositions);
  ASSERT_TRUE(model.ok()) << model.error().text();
  StormConfig config;
  config.prompts = 80;
  config.repeats = 1;
  config.repeats_max = 1;
  config.one_memory = GetParam();
  const auto storm = run_storm(model->get(), config);
  ASSERT_TRUE(storm.ok()) << storm.error().text();
  const StormRun& whole = storm->whole.runs.front();
  const StormRun& tenth = storm->tenth.runs.front();
  EXPECT_EQ(whole.hits, whole.visits - config.prompts);
  EXPECT_GE(storm->oversubscribed, 10);
  EXPECT_EQ(tenth.visits, 4 * config.prompts);
  EXPECT_EQ(tenth.prompts_both, config.prompts);
  EXPECT_GT(tenth.evicted_blocks, 10 * tenth.pages_max);
  EXPECT_GT(tenth.evicted_states, 10 * tenth.states_max);
  EXPECT_EQ(tenth.evicted_beyond, 0);
  EXPECT_EQ(tenth.preemptions, 0);
  EXPECT_FALSE(by_kind(storm->tenth.middle(), storm->whole.middle()).empty());
}

INSTANTIATE_TEST_SUITE_P(Memories, EvictionStorms, testing::Bool(),
                         [](const auto& info) { return info.param ? "PagesAndStatesInOne" : "PagesAndStatesApart"; });

TEST(EvictionStorms, AreRefusedWhereATenthIsLessThanTheRowsNeed) {
  auto model = load_golden_model(golden_with_drafts(), kPositions);
  ASSERT_TRUE(model.ok()) << model.error().text();
  StormConfig config;
  config.prompts = 3;
  const auto storm = run_storm(model->get(), config);
  ASSERT_FALSE(storm.ok());
  EXPECT_EQ(storm.error().code, ErrorCode::kInvalidArgument);
  EXPECT_NE(storm.error().text().find("more prompts"), std::string::npos);
}

// Steps of one kind that take 10 us, or what is given, with and without an eviction beside them, and with memory for
// everything.
KindTimes kind_with(int64_t evicting_us, int64_t other_us, int64_t whole_us = 10, int64_t count = 40) {
  StormStep step;
  step.kind.generated = 4;
  step.ns = 10'000;
  std::vector<StormStep> whole(static_cast<size_t>(count), step);
  std::vector<StormStep> steps = whole;
  for (size_t i = 0; i < steps.size(); i += 2) steps[i].evicted = 1;
  steps[4].ns = evicting_us * 1000;
  steps[5].ns = other_us * 1000;
  whole[6].ns = whole_us * 1000;
  return by_kind(steps, whole).front();
}

TEST(StormSteps, AreTooLongAtTwiceTheirMedianUnlessOthersAreAsLongWithoutEvictions) {
  EXPECT_FALSE(kind_with(20, 10).too_long());
  EXPECT_TRUE(kind_with(21, 10).too_long());
  EXPECT_TRUE(kind_with(300, 200, 200).too_long());
  EXPECT_FALSE(kind_with(200, 300).too_long());
  EXPECT_FALSE(kind_with(200, 10, 300).too_long());
  EXPECT_FALSE(kind_with(21, 10, 10, 19).too_long());
  EXPECT_EQ(kind_with(300, 20).max(), 300);
}

TEST(StormSteps, AreTooLongWhereEveryEvictionTakesAsLong) {
  StormStep step;
  step.ns = 10'000;
  const std::vector<StormStep> whole(40, step);
  step.ns = 30'000;
  step.evicted = 1;
  EXPECT_TRUE(by_kind(std::vector<StormStep>(40, step), whole).front().too_long());
}

TEST(StormSteps, CountWithTheMiddleOneOfTheirTimesAndAreComparedWithTheSameWork) {
  StormRuns runs;
  for (const int64_t us : {10, 900, 12}) {
    StormRun& run = runs.runs.emplace_back();
    run.steps.push_back({{4, {}, 0}, us * 1000, us, 1000 - us, 0});
    run.steps.push_back({{4, {{0, 64}}, 2}, 1000 * us * 1000, us, us, 3});
  }
  const auto steps = runs.middle();
  ASSERT_EQ(steps.size(), 2U);
  EXPECT_EQ(steps[0].ns, 12'000);
  EXPECT_EQ(steps[0].plan_ns, 12);
  EXPECT_EQ(steps[0].turn_ns, 988);
  const auto kinds = by_kind(steps, {});
  ASSERT_EQ(kinds.size(), 2U);
  EXPECT_EQ(kinds[0].kind.text(), "4 generated");
  EXPECT_EQ(kinds[0].evicting_max, 0);
  EXPECT_EQ(kinds[1].kind.text(), "4 generated + [0, 64), 2 to join");
  EXPECT_EQ(kinds[1].evicting_max, 12'000);
}

}  // namespace
}  // namespace weir::equality
