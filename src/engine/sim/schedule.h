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
};

// Deterministic: the same seed gives the same result. Stops at the first turn with a violation.
ScheduleResult run_schedule(uint64_t seed);

// Schedules first_seed .. first_seed + count - 1, until one has violations (then `failed_seed` says which).
struct SweepResult {
  ScheduleResult total;
  uint64_t failed_seed = 0;
};
SweepResult run_schedules(uint64_t first_seed, int64_t count);

}  // namespace weir::sim
