// Every planted bug is found by the validator within a few hundred schedules. Compiled with WEIR_PLANTED_BUGS.
#include <gtest/gtest.h>

#include "base/planted.h"
#include "engine/sim/schedule.h"

namespace weir::sim {
namespace {

class Planted {
 public:
  explicit Planted(PlantedBug bug) { planted_bug = bug; }
  ~Planted() { planted_bug = PlantedBug::kNone; }
};

struct Case {
  PlantedBug bug;
  const char* name;
  const char* telltale;  // part of the violation that names it
};

class PlantedBugs : public testing::TestWithParam<Case> {};

TEST_P(PlantedBugs, IsFoundByTheValidator) {
  const Planted planted(GetParam().bug);
  const SweepResult sweep = run_schedules(1, 300);
  ASSERT_FALSE(sweep.total.violations.empty()) << GetParam().name;
  bool told = false;
  for (const std::string& violation : sweep.total.violations)
    told |= violation.find(GetParam().telltale) != std::string::npos;
  EXPECT_TRUE(told) << "seed " << sweep.failed_seed << ": " << sweep.total.violations.front();
  std::printf("%s: seed %llu: %s\n", GetParam().name, static_cast<unsigned long long>(sweep.failed_seed),
              sweep.total.violations.front().c_str());
}

INSTANTIATE_TEST_SUITE_P(All, PlantedBugs,
                         testing::Values(Case{PlantedBug::kResumeOffByOne, "ResumeOffByOne",
                                              "stands at 0, its work begins at 1"},
                                         Case{PlantedBug::kSkippedDecode, "SkippedDecode", "stands still"},
                                         Case{PlantedBug::kPageFreedTwice, "PageFreedTwice", "tables"},
                                         Case{PlantedBug::kLostCancel, "LostCancel", "was cancelled and goes on"},
                                         Case{PlantedBug::kStaleSlot, "StaleSlot", "slot 0 of row"},
                                         Case{PlantedBug::kQueueJump, "QueueJump", "passes sequence"},
                                         Case{PlantedBug::kTokenTwice, "TokenTwice", "comes after"},
                                         Case{PlantedBug::kLeakedPages, "LeakedPages", "pages are used"},
                                         Case{PlantedBug::kLeakedState, "LeakedState", "slots,"},
                                         Case{PlantedBug::kUncomputedInKey, "UncomputedInKey", "where"},
                                         Case{PlantedBug::kCheckpointTooEarly, "CheckpointTooEarly", "goes on from it"},
                                         Case{PlantedBug::kSaveOverPages, "SaveOverPages", "takes the place of page"},
                                         Case{PlantedBug::kPageNotCopied, "PageNotCopied", "where"},
                                         Case{PlantedBug::kSaltForgotten, "SaltForgotten", "another tenant"}),
                         [](const testing::TestParamInfo<Case>& info) { return info.param.name; });

// No rule is broken by it: less is reused.
TEST(Planted, AStaleLookupChangesPlans) {
  {
    const Planted planted(PlantedBug::kStaleLookup);
    const LookupComparison compared = compare_lookups(1, 300);
    EXPECT_NE(compared.differs, 0U);
    std::printf("StaleLookup: seed %llu\n", static_cast<unsigned long long>(compared.differs));
  }
  EXPECT_EQ(compare_lookups(1, 100).differs, 0U);
}

TEST(Planted, WithoutABugNothingIsFound) {
  const SweepResult sweep = run_schedules(1, 100);
  EXPECT_EQ(sweep.total.violations, std::vector<std::string>());
}

}  // namespace
}  // namespace weir::sim
