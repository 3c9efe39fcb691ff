// A few seconds of what `engine_sim --schedules 10000` does at length.
#include <gtest/gtest.h>

#include "engine/sim/schedule.h"

namespace weir::sim {
namespace {

TEST(Simulator, ThreeHundredSchedulesBreakNoRule) {
  const SweepResult sweep = run_schedules(1, 300);
  EXPECT_EQ(sweep.total.violations, std::vector<std::string>()) << "seed " << sweep.failed_seed;
  for (size_t i = 0; i < kReachedNames.size(); ++i) EXPECT_GT(sweep.total.reach.counts[i], 0) << kReachedNames[i];
}

TEST(Simulator, OneSeedIsOneSchedule) {
  for (uint64_t seed = 5; seed < 15; ++seed) {
    const ScheduleResult first = run_schedule(seed);
    const ScheduleResult second = run_schedule(seed);
    EXPECT_EQ(first.reach.counts, second.reach.counts);
    EXPECT_EQ(first.turns, second.turns);
    EXPECT_EQ(first.steps, second.steps);
  }
}

TEST(Simulator, WhatIsRememberedOfTheQueueChangesNoPlan) {
  const LookupComparison compared = compare_lookups(1, 150);
  EXPECT_EQ(compared.differs, 0U);
  EXPECT_LT(compared.remembered.lookups, compared.repeated.lookups);
  EXPECT_LT(compared.remembered.comparisons, compared.repeated.comparisons);
}

}  // namespace
}  // namespace weir::sim
