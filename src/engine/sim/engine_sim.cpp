// engine_sim [--schedules N] [--seed S] [--reach-min M]: runs N schedules from seed S and prints what they reached.
// Exit 1 at the first violation, with its seed, or if anything was reached less than M times.
// engine_sim --compare-lookups N [--seed S]: runs each of N schedules with and without what is remembered of the queue.
// Exit 1 at the first whose plans differ.
#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "engine/sim/schedule.h"

namespace {

int usage() {
  fmt::print(stderr, "usage: engine_sim [--schedules N] [--seed S] [--reach-min M]\n");
  fmt::print(stderr, "       engine_sim --compare-lookups N [--seed S]\n");
  return 2;
}

int compare(uint64_t seed, int64_t schedules) {
  const weir::sim::LookupComparison compared = weir::sim::compare_lookups(seed, schedules);
  for (const auto& [name, total] : {std::pair{"remembered", compared.remembered}, {"repeated", compared.repeated}}) {
    fmt::print("{}: {} steps, {} lookups, {} comparisons\n", name, total.steps, total.lookups, total.comparisons);
  }
  if (compared.differs == 0) return 0;
  fmt::print("the plans of seed {} differ\n", compared.differs);
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  int64_t schedules = 300;
  uint64_t seed = 1;
  int64_t reach_min = 0;
  int64_t comparisons = 0;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view flag = argv[i];
    char* end = nullptr;
    const unsigned long long value = std::strtoull(argv[i + 1], &end, 10);
    if (*end != '\0') return usage();
    if (flag == "--schedules") {
      schedules = static_cast<int64_t>(value);
    } else if (flag == "--compare-lookups") {
      comparisons = static_cast<int64_t>(value);
    } else if (flag == "--seed") {
      seed = value;
    } else if (flag == "--reach-min") {
      reach_min = static_cast<int64_t>(value);
    } else {
      return usage();
    }
  }
  if (argc % 2 == 0) return usage();
  if (comparisons > 0) return compare(seed, comparisons);

  const weir::sim::SweepResult sweep = weir::sim::run_schedules(seed, schedules);
  const auto& reach = sweep.total.reach;
  int64_t least = INT64_MAX;
  for (size_t i = 0; i < reach.counts.size(); ++i) {
    fmt::print("{:>10}  {}\n", reach.counts[i], weir::sim::kReachedNames[i]);
    least = std::min(least, reach.counts[i]);
  }
  if (sweep.total.violations.empty()) {
    fmt::print("{} schedules from seed {}: {} turns, {} steps, no violation\n", schedules, seed, sweep.total.turns,
               sweep.total.steps);
    if (least >= reach_min) return 0;
    fmt::print("something was reached only {} times, less than {}\n", least, reach_min);
    return 1;
  }
  for (const auto& violation : sweep.total.violations) fmt::print("violation: {}\n", violation);
  fmt::print("seed {} fails: engine_sim --schedules 1 --seed {}\n", sweep.failed_seed, sweep.failed_seed);
  return 1;
}
