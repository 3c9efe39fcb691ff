// engine_sim [--schedules N] [--seed S]: runs N schedules from seed S and prints what they reached. Exit 1 and the
// seed at the first violation.
#include <fmt/core.h>

#include <cstdlib>
#include <string_view>

#include "engine/sim/schedule.h"

namespace {

int usage() {
  fmt::print(stderr, "usage: engine_sim [--schedules N] [--seed S]\n");
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  int64_t schedules = 300;
  uint64_t seed = 1;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view flag = argv[i];
    char* end = nullptr;
    const unsigned long long value = std::strtoull(argv[i + 1], &end, 10);
    if (*end != '\0') return usage();
    if (flag == "--schedules") {
      schedules = static_cast<int64_t>(value);
    } else if (flag == "--seed") {
      seed = value;
    } else {
      return usage();
    }
  }
  if (argc % 2 == 0) return usage();

  const weir::sim::SweepResult sweep = weir::sim::run_schedules(seed, schedules);
  const auto& reach = sweep.total.reach;
  for (size_t i = 0; i < reach.counts.size(); ++i) {
    fmt::print("{:>10}  {}\n", reach.counts[i], weir::sim::kReachedNames[i]);
  }
  if (sweep.total.violations.empty()) {
    fmt::print("{} schedules from seed {}: {} turns, {} steps, no violation\n", schedules, seed, sweep.total.turns,
               sweep.total.steps);
    return 0;
  }
  for (const auto& violation : sweep.total.violations) fmt::print("violation: {}\n", violation);
  fmt::print("seed {} fails: engine_sim --schedules 1 --seed {}\n", sweep.failed_seed, sweep.failed_seed);
  return 1;
}
