#include "cli/equality/jobs.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

namespace weir::equality {
namespace {

void add(const Work& more, Work* work) {
  work->alone += more.alone;
  work->alone_steps += more.alone_steps;
  work->alone_rows += more.alone_rows;
  work->steps += more.steps;
  work->rows += more.rows;
}

// A model and who judges it: for one thread at a time.
struct Court {
  std::string name;
  std::unique_ptr<Model> model;
  std::unique_ptr<Judge> judge;
};

class Jobs {
 public:
  Jobs(const Asked& asked, const Deadline& deadline)
      : asked_(asked), deadline_(deadline), next_block_(asked.seed / kBlockSchedules) {}

  // Every model once, so that a wrong name is known before anything runs.
  Status load() {
    for (const std::string& name : asked_.turns) {
      const auto same = [&](const auto& court) { return court->name == name; };
      if (std::any_of(idle_.begin(), idle_.end(), same)) continue;
      WEIR_ASSIGN_OR_RETURN(auto court, open(name));
      for (size_t i = 0; i < tally_.possible.size(); ++i) {
        tally_.possible[i] |= court->judge->reaches(static_cast<Reached>(i));
      }
      idle_.push_back(std::move(court));
    }
    return Ok{};
  }

  Result<Tally> run() {
    std::vector<std::thread> threads;
    for (int64_t i = 1; i < asked_.jobs; ++i) threads.emplace_back([this] { work(); });
    work();
    for (std::thread& thread : threads) thread.join();
    if (!status_.ok()) return status_.error();
    for (const auto& court : idle_) add(court->judge->work(), &tally_.work);
    return std::move(tally_);
  }

 private:
  Result<std::unique_ptr<Court>> open(const std::string& name) const {
    auto court = std::make_unique<Court>();
    court->name = name;
    WEIR_ASSIGN_OR_RETURN(court->model, load_golden_model(name, kPositions, {}, host_threads(asked_.jobs)));
    court->judge = std::make_unique<Judge>(court->model.get());
    return court;
  }

  // The next block; false: there is none, or all end.
  bool take_block(uint64_t* block) {
    const std::lock_guard lock(mutex_);
    if (ends_ || next_block_ * kBlockSchedules >= end()) return false;
    *block = next_block_++;
    return true;
  }

  // One that is idle, else one more. Blocks that run at the same time follow each other and so does whose turn they
  // are: of each model there are hardly more than its share of the threads.
  Result<std::unique_ptr<Court>> take_court(const std::string& name) {
    {
      const std::lock_guard lock(mutex_);
      const auto found =
          std::find_if(idle_.begin(), idle_.end(), [&](const auto& court) { return court->name == name; });
      if (found != idle_.end()) {
        auto court = std::move(*found);
        idle_.erase(found);
        return court;
      }
    }
    return open(name);
  }

  void work() {
    uint64_t block = 0;
    while (take_block(&block)) {
      auto court = take_court(asked_.turns[block % asked_.turns.size()]);
      if (!court.ok()) {
        const std::lock_guard lock(mutex_);
        status_ = court.error();
        ends_ = true;
        return;
      }
      run_block(block, court->get());
      const std::lock_guard lock(mutex_);
      idle_.push_back(std::move(*court));
    }
  }

  void run_block(uint64_t block, Court* court) {
    const uint64_t first = std::max(asked_.seed, block * kBlockSchedules);
    const uint64_t last = std::min(end(), (block + 1) * kBlockSchedules);
    for (uint64_t seed = first; seed < last && goes_on(); ++seed) {
      Reach reach{};
      auto problems = court->judge->run(seed, &reach);
      const std::lock_guard lock(mutex_);
      for (size_t i = 0; i < reach.size(); ++i) tally_.reach[i] += reach[i];
      ++tally_.schedules[court->name];
      if (problems.empty() || tally_.failure) continue;
      tally_.failure = Failure{seed, court->name, std::move(problems)};
      ends_ = true;
    }
  }

  bool goes_on() {
    const std::lock_guard lock(mutex_);
    return !ends_ && !deadline_.passed();
  }
  uint64_t end() const { return asked_.seed + static_cast<uint64_t>(asked_.schedules); }

  const Asked& asked_;
  const Deadline& deadline_;
  std::mutex mutex_;  // for what follows
  std::vector<std::unique_ptr<Court>> idle_;
  uint64_t next_block_;
  bool ends_ = false;
  Status status_ = Ok{};
  Tally tally_;
};

}  // namespace

int64_t Tally::done() const {
  int64_t done = 0;
  for (const auto& [name, count] : schedules) done += count;
  return done;
}

Result<Tally> run_schedules(const Asked& asked, const Deadline& deadline) {
  WEIR_CHECK(asked.jobs >= 1 && !asked.turns.empty(), "{} jobs for {} models", asked.jobs, asked.turns.size());
  Jobs jobs(asked, deadline);
  WEIR_RETURN_IF_ERROR(jobs.load());
  return jobs.run();
}

}  // namespace weir::equality
