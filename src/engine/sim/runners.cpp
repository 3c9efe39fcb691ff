#include "engine/sim/runners.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/check.h"

namespace weir::sim {

void ScriptedRunner::submit(const StepPlan* plan, StepResult* result) {
  WEIR_CHECK(in_flight() < limits().steps_in_flight, "step {}: {} are in flight", plan->id, in_flight());
  executor_.execute(*plan, result);
  if (observer_) observer_(*plan, *result);
  if (std::exchange(fail_next_, false)) {
    result->clear();
    result->id = plan->id;
    result->fault = fmt::format("planted fault in step {}", plan->id);
  }
  last_ready_us_ = std::max(last_ready_us_, clock_->now_us()) + latency_us_;
  pending_.push_back({plan->id, last_ready_us_});
}

StepId ScriptedRunner::poll() {
  if (pending_.empty() || pending_.front().ready_us > clock_->now_us()) return 0;
  const StepId id = pending_.front().id;
  pending_.pop_front();
  return id;
}

ThreadRunner::ThreadRunner(const CacheLayout& layout, const RunnerLimits& limits, int64_t step_us,
                           std::function<void()> on_result)
    : executor_(layout, limits), step_us_(step_us), on_result_(std::move(on_result)), thread_([this] { work(); }) {}

ThreadRunner::~ThreadRunner() {
  {
    const std::scoped_lock lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void ThreadRunner::submit(const StepPlan* plan, StepResult* result) {
  {
    const std::scoped_lock lock(mutex_);
    jobs_.push_back({plan, result});
  }
  changed_.notify_all();
}

StepId ThreadRunner::poll() {
  const std::scoped_lock lock(mutex_);
  if (done_.empty()) return 0;
  const StepId id = done_.front();
  done_.pop_front();
  return id;
}

std::vector<std::string> ThreadRunner::violations() {
  const std::scoped_lock lock(mutex_);
  return executor_.violations();
}

void ThreadRunner::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stop_ || !jobs_.empty(); });
    if (stop_) return;
    const Job job = jobs_.front();
    jobs_.pop_front();
    lock.unlock();
    // A step takes its time even if the script is faster: otherwise nothing ever queues behind it.
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(step_us_);
    executor_.execute(*job.plan, job.result);
    const StepId id = job.plan->id;
    lock.lock();
    changed_.wait_until(lock, end, [this] { return stop_; });
    done_.push_back(id);
    lock.unlock();
    on_result_();
    lock.lock();
  }
}

}  // namespace weir::sim
