// Schedules by several threads of one process. They share nothing but the device: steps of small models leave a GPU
// idle most of the time, and streams of one process run side by side where those of several take turns.
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
#include "runner/test_model.h"

namespace weir::equality {

inline constexpr int64_t kPositions = 4096;  // that models are loaded for

struct Asked {
  uint64_t seed = 1;  // of the first schedule, the others follow
  int64_t schedules = 100;
  int64_t jobs = 1;
  std::vector<std::string> turns;  // models as load_golden_model() takes them: of a block of schedules each, in turn
};

// Of each model: jobs are threads enough.
inline int host_threads(int64_t jobs) {
  return jobs > 1 ? 1 : kTestThreads;
}

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
