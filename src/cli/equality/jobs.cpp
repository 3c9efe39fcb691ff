#include "cli/equality/jobs.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include "cli/equality/block_jobs.h"

namespace weir::equality {
namespace {

void add(const Work& more, Work* work) {
  work->alone += more.alone;
  work->alone_steps += more.alone_steps;
  work->alone_rows += more.alone_rows;
  work->steps += more.steps;
  work->rows += more.rows;
}

}  // namespace

int64_t Tally::done() const {
  int64_t done = 0;
  for (const auto& [name, count] : schedules) done += count;
  return done;
}

Result<Tally> run_schedules(const Asked& asked, const Deadline& deadline) {
  using Jobs = BlockJobs<Judge, kBlockSchedules>;
  Jobs jobs(asked.turns, asked.jobs, deadline);
  WEIR_RETURN_IF_ERROR(jobs.load());
  Tally tally;
  for (const auto& court : jobs.courts()) {
    for (size_t i = 0; i < tally.possible.size(); ++i) {
      tally.possible[i] |= court->judge->reaches(static_cast<Reached>(i));
    }
  }
  std::mutex mutex;  // for the tally
  const auto run_block = [&](uint64_t first, uint64_t last, Jobs::Court* court) {
    for (uint64_t seed = first; seed < last && jobs.goes_on(); ++seed) {
      Reach reach{};
      auto problems = court->judge->run(seed, &reach);
      const std::lock_guard lock(mutex);
      for (size_t i = 0; i < reach.size(); ++i) tally.reach[i] += reach[i];
      ++tally.schedules[court->name];
      if (problems.empty() || tally.failure) continue;
      tally.failure = Failure{seed, court->name, std::move(problems)};
      jobs.stop();
    }
  };
  WEIR_RETURN_IF_ERROR(jobs.run({asked.seed, asked.schedules}, run_block));
  for (const auto& court : jobs.courts()) add(court->judge->work(), &tally.work);
  return tally;
}

}  // namespace weir::equality
