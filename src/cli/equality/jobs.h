// Schedules by several threads of one process (block_jobs.h).
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/equality/deadline.h"
#include "cli/equality/equality.h"

namespace weir::equality {

struct Asked {
  uint64_t seed = 1;  // of the first schedule, the others follow
  int64_t schedules = 100;
  int64_t jobs = 1;
  std::vector<std::string> turns;  // models as load_golden_model() takes them: of a block of schedules each, in turn
};

struct Failure {
  uint64_t seed = 0;
  std::string model;
  std::vector<std::string> problems;
};

// Of all threads together.
struct Tally {
  Reach reach{};
  std::array<bool, static_cast<size_t>(Reached::kCount)> possible{};  // with one of the models, on their device
  Work work;
  std::map<std::string, int64_t> schedules;  // how many each model had
  std::optional<Failure> failure;            // the first: then all have ended
  int64_t done() const;
};

// Blocks of seeds in order, each to the next thread that is free: fewer than asked for once something differs or time
// runs out. An error: a model cannot be loaded.
Result<Tally> run_schedules(const Asked& asked, const Deadline& deadline = Deadline());

}  // namespace weir::equality
