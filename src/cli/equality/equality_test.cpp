// Some seconds of what `equality_sim --schedules 10000` does at length.
#include <gtest/gtest.h>

#include "base/planted.h"
#include "cli/equality/conversations.h"
#include "cli/equality/distribution.h"
#include "cli/equality/endurance.h"
#include "cli/equality/equality.h"
#include "cli/equality/jobs.h"
#include "runner/test_model.h"

namespace weir::equality {
namespace {

#ifndef WEIR_PLANTED_BUGS

class Equality : public testing::TestWithParam<const char*> {};

TEST_P(Equality, ReuseAndCrowdsChangeNoBit) {
  auto model = load_golden_model(GetParam(), 4096);
  ASSERT_TRUE(model.ok()) << model.error().text();
  Judge judge(model->get());
  Reach reach{};
  for (uint64_t seed = kBlockSchedules; seed < 2 * kBlockSchedules; ++seed) {
    ASSERT_EQ(judge.run(seed, &reach), std::vector<std::string>()) << "seed " << seed;
  }
  // A GPU's generated rows are a family of their own, which later prompts do not reuse.
  for (const Reached what : {Reached::kHitOnGrid, Reached::kHitInsidePage, Reached::kHitInGenerated,
                             Reached::kPreempted, Reached::kPreemptedInPrompt, Reached::kEvicted, Reached::kShared}) {
    if (!judge.reaches(what)) continue;
    EXPECT_GT(reach[static_cast<size_t>(what)], 0) << kReachedNames[static_cast<size_t>(what)];
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Equality, testing::Values("moe-odd", "next", "moe-fp8", "moe-fit", "moe-fit fp8"),
                         ModelTestName());

class Conversations : public testing::TestWithParam<const char*> {};

// A few of what `equality_sim --conversations 100` runs.
TEST_P(Conversations, ComputeAnswersAgainAndChangeNoBitUnlessGeneratedRowsAreReused) {
  const auto talked = run_conversations({.seed = kBlockConversations,
                                         .conversations = kBlockConversations,
                                         .turns = 3,
                                         .jobs = 1,
                                         .models = {GetParam()}});
  ASSERT_TRUE(talked.ok()) << talked.error().text();
  EXPECT_EQ(talked->problems, std::vector<std::string>());
  EXPECT_EQ(talked->turns, 3 * kBlockConversations);
  // The default finds all of the prompt before and nothing of the answer behind it.
  const Spent& by_default = talked->under(Policy::kDefault);
  EXPECT_GT(by_default.reused, 0);
  EXPECT_EQ(by_default.in_answers, 0);
  EXPECT_EQ(by_default.answers, talked->known_answers);
  // More is reused than the prompt before had.
  const Spent& reusing = talked->under(Policy::kReuseGenerated);
  EXPECT_GT(reusing.in_answers, 0);
  EXPECT_LT(reusing.answers, by_default.answers);
  EXPECT_EQ(talked->under(Policy::kNoCache).reused, 0);
  EXPECT_GT(talked->answers_on_grid, 0);
  int64_t compared = talked->behind.turns;
  for (const Compared& one : talked->compared) compared += one.turns;
  EXPECT_EQ(compared, talked->turns);
}

INSTANTIATE_TEST_SUITE_P(Models, Conversations, testing::Values("moe-odd", "next", "moe-fit", "moe-fit fp8"),
                         ModelTestName());

// A two-hundredth of what `equality_sim --distribution 1000000` draws.
TEST(Distribution, OfThreeTokensIsTheModelsWhateverIsDrafted) {
  auto model = load_golden_model(golden_with_drafts(), 4096);
  ASSERT_TRUE(model.ok()) << model.error().text();
  for (const int32_t drafts : {0, 3}) {
    const Fit fit = fit_of_three_tokens({{model->get()}}, drafts, 5'000);
    EXPECT_GT(fit.p_value(), 1e-3) << drafts << " drafts: chi-square " << fit.chi_square;
    EXPECT_EQ(fit.accepted > 0 && fit.accepted < fit.drafted, drafts > 0);
  }
}

// A hundredth of `equality_sim --endurance 1000000`.
TEST(Endurance, AcceptanceDoesNotDecay) {
  auto model = load_golden_model(golden_with_drafts(), 4096);
  ASSERT_TRUE(model.ok()) << model.error().text();
  const Endurance out = run_endurance(model->get(), 10'000);
  for (const auto& tenths : {out.by_age, out.by_position}) {
    for (const Tenth& tenth : tenths) EXPECT_NEAR(tenth.rate(), tenths.front().rate(), 0.06) << tenth.drafted;
  }
}

// Of a run that ends for want of time, the tenths are those of what ran.
TEST(Endurance, IsJudgedByWhatRanInTheTime) {
  auto model = load_golden_model(golden_with_drafts(), 4096);
  ASSERT_TRUE(model.ok()) << model.error().text();
  const Endurance out = run_endurance(model->get(), 1'000'000'000, Deadline(1));
  EXPECT_LT(out.rounds, 1'000'000'000);
  for (const Tenth& tenth : out.by_age) EXPECT_GT(tenth.drafted, 0);
  EXPECT_FALSE(out.decays());
}

TEST(Endurance, DecaysByMoreThanAHundredthAndMoreThanChance) {
  const auto decays = [](int64_t drafted, int64_t first, int64_t last) {
    Endurance out;
    out.by_age.front() = {drafted, first};
    out.by_age.back() = {drafted, last};
    return out.decays();
  };
  EXPECT_FALSE(decays(300'000, 99'000, 97'000));
  EXPECT_TRUE(decays(300'000, 99'000, 95'000));
  EXPECT_FALSE(decays(300'000, 95'000, 99'000));
  EXPECT_FALSE(decays(300, 99, 70));
  EXPECT_TRUE(decays(300, 99, 20));
  EXPECT_TRUE(decays(0, 0, 0));
}

#else

// Without a bug this program finds nothing: what it finds is the bugs.
TEST(Planted, NothingIsFoundWhereNothingIsPlanted) {
  auto model = load_golden_model("next", 4096);
  ASSERT_TRUE(model.ok()) << model.error().text();
  Judge judge(model->get());
  Reach reach{};
  for (uint64_t seed = 1; seed < kBlockSchedules / 4; ++seed) {
    ASSERT_EQ(judge.run(seed, &reach), std::vector<std::string>()) << "seed " << seed;
  }
}

const TalksAsked kConversations{
    .seed = kBlockConversations, .conversations = 2 * kBlockConversations, .turns = 3, .jobs = 1, .models = {"next"}};

class PlantedJobs : public testing::Test {
 protected:
  void TearDown() override { planted_bug = PlantedBug::kNone; }
};

// Each bug must change what some request sees, within a block or two.
class PlantedBugs : public testing::TestWithParam<PlantedBug> {
 protected:
  void TearDown() override { planted_bug = PlantedBug::kNone; }
};

TEST_P(PlantedBugs, AreFound) {
  auto model = load_golden_model("next", 4096);
  ASSERT_TRUE(model.ok()) << model.error().text();
  Judge judge(model->get());
  Reach reach{};
  planted_bug = GetParam();
  for (uint64_t seed = 1; seed <= 2 * kBlockSchedules; ++seed) {
    if (!judge.run(seed, &reach).empty()) return;
  }
  FAIL() << "every request had the bits that it has alone";
}

TEST(Planted, NothingIsFoundInConversationsWhereNothingIsPlanted) {
  const auto talked = run_conversations(kConversations);
  ASSERT_TRUE(talked.ok()) << talked.error().text();
  EXPECT_EQ(talked->problems, std::vector<std::string>());
}

// Each bug must change what some turn sees, within two blocks.
class PlantedConversations : public PlantedBugs {};

TEST_P(PlantedConversations, AreFound) {
  planted_bug = GetParam();
  const auto talked = run_conversations(kConversations);
  ASSERT_TRUE(talked.ok()) << talked.error().text();
  EXPECT_FALSE(talked->problems.empty());
}

// One of several threads meets a bug: all end, and a schedule that fails is named.
TEST_F(PlantedJobs, EndAtTheFirstDifference) {
  planted_bug = PlantedBug::kPageNotCopied;
  const Asked asked{.seed = 1, .schedules = 4 * kBlockSchedules, .jobs = 2, .turns = {"next"}};
  const auto tally = run_schedules(asked);
  ASSERT_TRUE(tally.ok()) << tally.error().text();
  ASSERT_TRUE(tally->failure);
  EXPECT_LT(tally->done(), asked.schedules);
  EXPECT_FALSE(tally->failure->problems.empty());
  EXPECT_EQ(tally->failure->model, "next");
  EXPECT_GE(tally->failure->seed, asked.seed);
  EXPECT_LT(tally->failure->seed, asked.seed + static_cast<uint64_t>(asked.schedules));
}

// Others cannot be seen here: what a tenant finds of another is the same text, and no state is behind a token that was
// not computed. The simulator's validator finds those.
INSTANTIATE_TEST_SUITE_P(Bugs, PlantedBugs,
                         testing::Values(PlantedBug::kCheckpointTooEarly, PlantedBug::kSaveOverPages,
                                         PlantedBug::kPageNotCopied, PlantedBug::kStateNotZeroed,
                                         PlantedBug::kBatchDependentSplit));
// Others stop the runner, or need what is not drawn here. A token that was not computed is found where an answer ends
// on the grid: the state behind its block is a later turn's, who computed the block too but is not the first to have
// it.
INSTANTIATE_TEST_SUITE_P(Bugs, PlantedConversations,
                         testing::Values(PlantedBug::kPageNotCopied, PlantedBug::kStateNotZeroed,
                                         PlantedBug::kBatchDependentSplit, PlantedBug::kUncomputedInKey));

#endif

}  // namespace
}  // namespace weir::equality
