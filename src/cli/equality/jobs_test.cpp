// Several threads with a model each, beside one alone.
#include "cli/equality/jobs.h"

#include <gtest/gtest.h>

#include "cli/equality/distribution.h"
#include "runner/test_model.h"

namespace weir::equality {
namespace {

// What a schedule asks for depends on its seed alone, and so does which requests its block computes alone. In how many
// steps they run, and what is reused or evicted, depends on the time, too.
TEST(Jobs, DoTogetherWhatOneDoes) {
  Asked asked{.seed = 2 * kBlockSchedules - 6, .schedules = 12, .jobs = 1, .turns = {"moe-odd", "next"}};
  const auto one = run_schedules(asked);
  ASSERT_TRUE(one.ok()) << one.error().text();
  asked.jobs = 2;
  const auto two = run_schedules(asked);
  ASSERT_TRUE(two.ok()) << two.error().text();
  EXPECT_FALSE(one->failure || two->failure);
  EXPECT_EQ(one->schedules, (std::map<std::string, int64_t>{{"moe-odd", 6}, {"next", 6}}));
  EXPECT_EQ(two->schedules, one->schedules);
  EXPECT_EQ(two->possible, one->possible);
  for (const Reached what :
       {Reached::kRequests, Reached::kSampled, Reached::kWithPenalties, Reached::kSalted, Reached::kShared}) {
    const auto at = static_cast<size_t>(what);
    EXPECT_EQ(two->reach[at], one->reach[at]) << kReachedNames[at];
  }
  EXPECT_GT(two->reach[static_cast<size_t>(Reached::kRequests)], 0);
  EXPECT_EQ(two->work.alone, one->work.alone);
}

TEST(Jobs, AreRefusedAModelThatIsNotThere) {
  const auto tally = run_schedules({.seed = 1, .schedules = 1, .jobs = 2, .turns = {"moe-odd", "no-such-model"}});
  EXPECT_FALSE(tally.ok());
}

TEST(Distribution, OfSeveralModelsTogetherIsThatOfOne) {
  auto model = load_golden_model(golden_with_drafts(), 4096);
  ASSERT_TRUE(model.ok()) << model.error().text();
  auto other = load_golden_model(golden_with_drafts(), 4096);
  ASSERT_TRUE(other.ok()) << other.error().text();
  const Fit one = fit_of_three_tokens({{model->get()}}, 3, 1'001, 7);
  const Fit two = fit_of_three_tokens({{model->get(), other->get()}}, 3, 1'001, 7);
  EXPECT_EQ(two.samples, one.samples);
  EXPECT_EQ(two.chi_square, one.chi_square);
  EXPECT_EQ(two.degrees, one.degrees);
}

}  // namespace
}  // namespace weir::equality
