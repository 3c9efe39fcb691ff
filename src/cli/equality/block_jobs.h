// Blocks of seeds by several threads of one process, each with a model of its own, which one model's turn it is by the
// block. They share nothing but the device: steps of small models leave a GPU idle most of the time, and streams of one
// process run side by side where those of several take turns.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cli/equality/deadline.h"
#include "runner/test_model.h"

namespace weir::equality {

inline constexpr int64_t kPositions = 4096;  // that models are loaded for

// Of each model: jobs are threads enough.
inline int host_threads(int64_t jobs) {
  return jobs > 1 ? 1 : kTestThreads;
}

// So many seeds from the first on; kBlock of them, from a multiple of kBlock on, are a block.
struct Seeds {
  uint64_t first = 0;
  int64_t count = 0;
};

// Judge: made of a Model* that it borrows.
template <class Judge, uint64_t kBlock>
class BlockJobs {
 public:
  // A model and who judges it: for one thread at a time.
  struct Court {
    std::string name;
    std::unique_ptr<Model> model;
    std::unique_ptr<Judge> judge;
  };
  // Seeds [first, last) of a block.
  using Work = std::function<void(uint64_t first, uint64_t last, Court* court)>;

  // `turns`: models as load_golden_model() takes them, of a block each.
  BlockJobs(std::vector<std::string> turns, int64_t jobs, const Deadline& deadline)
      : turns_(std::move(turns)), jobs_(jobs), deadline_(deadline) {
    WEIR_CHECK(jobs_ >= 1 && !turns_.empty(), "{} jobs for {} models", jobs_, turns_.size());
  }

  // Every model once, so that a wrong name is known before anything runs.
  Status load() {
    for (const std::string& name : turns_) {
      const auto same = [&](const auto& court) { return court->name == name; };
      if (std::any_of(idle_.begin(), idle_.end(), same)) continue;
      WEIR_ASSIGN_OR_RETURN(auto court, open(name));
      idle_.push_back(std::move(court));
    }
    return Ok{};
  }

  // Their blocks in order, each to the next thread that is free, as long as goes_on() holds.
  Status run(const Seeds& seeds, const Work& work) {
    const uint64_t end = seeds.first + static_cast<uint64_t>(seeds.count);
    next_block_ = seeds.first / kBlock;
    end_block_ = (end + kBlock - 1) / kBlock;
    const auto run_block = [&](uint64_t block, Court* court) {
      work(std::max(seeds.first, block * kBlock), std::min(end, (block + 1) * kBlock), court);
    };
    std::vector<std::thread> threads;
    for (int64_t i = 1; i < jobs_; ++i) threads.emplace_back([&] { run_blocks(run_block); });
    run_blocks(run_block);
    for (std::thread& thread : threads) thread.join();
    return status_;
  }

  bool goes_on() {
    const std::lock_guard lock(mutex_);
    return !ends_ && !deadline_.passed();
  }
  void stop() {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  // All of them, while nothing runs.
  const std::vector<std::unique_ptr<Court>>& courts() const { return idle_; }

 private:
  Result<std::unique_ptr<Court>> open(const std::string& name) const {
    auto court = std::make_unique<Court>();
    court->name = name;
    WEIR_ASSIGN_OR_RETURN(court->model, load_golden_model(name, kPositions, {}, host_threads(jobs_)));
    court->judge = std::make_unique<Judge>(court->model.get());
    return court;
  }

  // The next block; false: there is none, or all end.
  bool take_block(uint64_t* block) {
    if (!goes_on()) return false;
    const std::lock_guard lock(mutex_);
    if (next_block_ >= end_block_) return false;
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

  template <class RunBlock>
  void run_blocks(const RunBlock& run_block) {
    uint64_t block = 0;
    while (take_block(&block)) {
      auto court = take_court(turns_[block % turns_.size()]);
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

  const std::vector<std::string> turns_;
  const int64_t jobs_;
  const Deadline& deadline_;
  std::mutex mutex_;  // for what follows
  std::vector<std::unique_ptr<Court>> idle_;
  uint64_t next_block_ = 0;
  uint64_t end_block_ = 0;
  bool ends_ = false;
  Status status_ = Ok{};
};

}  // namespace weir::equality
