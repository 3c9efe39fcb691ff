// One schedule: limits, requests, cancels and timing drawn from a seed, run to the end against the validator.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/sim/reach.h"

namespace weir::sim {

struct ScheduleResult {
  std::vector<std::string> violations;
  Reach reach;
  int64_t turns = 0;
  int64_t steps = 0;
  uint64_t plans = 0;   // a digest of all plans and of what the engine counted of reuse
  int64_t lookups = 0;  // SchedulerCounters
  int64_t comparisons = 0;
};

// Deterministic: the same seed gives the same result. Stops at the first turn with a violation. `remember_lookups`: of
// EngineConfig; it changes nothing but `lookups` and `comparisons`.
ScheduleResult run_schedule(uint64_t seed, bool remember_lookups = true);

// The first of so many seeds whose plans depend on remember_lookups; 0: none. Adds up what was looked up with and
// without.
struct LookupComparison {
  uint64_t differs = 0;
  ScheduleResult remembered;
  ScheduleResult repeated;
};
LookupComparison compare_lookups(uint64_t first_seed, int64_t count);

// Schedules first_seed .. first_seed + count - 1, until one has violations (then `failed_seed` says which).
struct SweepResult {
  ScheduleResult total;
  uint64_t failed_seed = 0;
};
SweepResult run_schedules(uint64_t first_seed, int64_t count);

}  // namespace weir::sim
