// Two StepRunners over the scripted executor: one on a manual clock for schedules by seed, one on a thread of its own.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "base/clock.h"
#include "engine/sim/executor.h"
#include "plan/runner.h"

namespace weir::sim {

// Executes at submission (order is all that matters to the caches) and hands results over after a latency.
class ScriptedRunner final : public StepRunner {
 public:
  ScriptedRunner(const CacheLayout& layout, const RunnerLimits& limits, const Clock* clock)
      : executor_(layout, limits), clock_(clock) {}

  const RunnerLimits& limits() const override { return executor_.limits(); }
  void submit(const StepPlan* plan, StepResult* result) override;
  StepId poll() override;

  // What the next submitted steps take, one behind the other.
  void set_latency_us(int64_t latency_us) { latency_us_ = latency_us; }
  // The next submitted step comes back with a fault.
  void fail_next() { fail_next_ = true; }
  // Called with every plan after it was executed.
  void set_observer(std::function<void(const StepPlan&, const StepResult&)> observer) {
    observer_ = std::move(observer);
  }

  const Executor& executor() const { return executor_; }
  int64_t in_flight() const { return static_cast<int64_t>(pending_.size()); }

 private:
  struct Pending {
    StepId id;
    int64_t ready_us;
  };

  Executor executor_;
  const Clock* clock_;
  std::deque<Pending> pending_;
  int64_t latency_us_ = 0;
  int64_t last_ready_us_ = 0;
  bool fail_next_ = false;
  std::function<void(const StepPlan&, const StepResult&)> observer_;
};

// Executes on its own thread, each step taking at least `step_us`. Stops at destruction; unfinished steps are dropped.
class ThreadRunner final : public StepRunner {
 public:
  ThreadRunner(const CacheLayout& layout, const RunnerLimits& limits, int64_t step_us, std::function<void()> on_result);
  ~ThreadRunner() override;

  const RunnerLimits& limits() const override { return executor_.limits(); }
  void submit(const StepPlan* plan, StepResult* result) override;
  StepId poll() override;

  // After the last step came back: what broke a rule.
  std::vector<std::string> violations();

 private:
  struct Job {
    const StepPlan* plan;
    StepResult* result;
  };
  void work();

  Executor executor_;  // touched by the thread while a job is open
  const int64_t step_us_;
  const std::function<void()> on_result_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> jobs_;
  std::deque<StepId> done_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace weir::sim
