// StepRunner over a model on any device: one thread executes plans in order. Where the executor takes a step while the
// one before it runs, the next is enqueued before the results of the last are read. A row that turns out to have
// stopped is then computed once more, for nobody. With drafts (RunnerLimits::drafts_max) a step's end is run by
// Drafter.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "base/result.h"
#include "decode/sampler.h"
#include "plan/runner.h"
#include "runner/batch_table.h"
#include "runner/drafter.h"
#include "runner/logprobs.h"
#include "runner/model.h"

namespace weir {

class ModelRunner final : public StepRunner {
 public:
  // Borrows the model. `on_result` is called on the runner's thread after each step. Fails when the caches cannot be
  // reserved, or drafts are asked for that the model or its device cannot make.
  static Result<std::unique_ptr<ModelRunner>> create(Model* model, const CacheLayout& layout,
                                                     const RunnerLimits& limits, std::function<void()> on_result);
  ~ModelRunner() override;

  const RunnerLimits& limits() const override { return limits_; }
  void submit(const StepPlan* plan, StepResult* result) override;
  StepId poll() override;

  // Bytes reserved for pages and slots, and for work buffers.
  int64_t cache_bytes() const { return caches_->bytes(); }
  int64_t buffer_bytes() const {
    return executor_->buffer_bytes() + (drafter_ == nullptr ? 0 : drafter_->buffer_bytes());
  }
  StepTimes* step_times() const { return executor_->step_times(); }

 private:
  ModelRunner(Model* model, const CacheLayout& layout, const RunnerLimits& limits, std::unique_ptr<Caches> caches,
              std::unique_ptr<Executor> executor, std::unique_ptr<Drafter> drafter, std::function<void()> on_result);
  struct Job {
    const StepPlan* plan = nullptr;
    StepResult* result = nullptr;
  };
  // A step that was enqueued and not collected.
  struct Flight {
    Job job;
    StepRows rows;
  };

  void run();
  bool may_enqueue() const;
  bool take_job(bool wait, Job* job);
  void enqueue(const Job& job);
  void collect();
  void begin_result(const StepPlan& plan, StepResult* result) const;
  void consume(const Flight& flight, const SampledBlock& block);
  void sample(const Flight& flight, const WantedRow& wanted, std::span<const float> logits, TokenId token);

  Model* model_;
  const RunnerLimits limits_;
  std::unique_ptr<Caches> caches_;
  std::unique_ptr<Executor> executor_;
  std::unique_ptr<Drafter> drafter_;  // null: no drafts
  BatchTable table_;
  Sampler sampler_;
  LogprobWriter logprobs_;
  std::vector<Flight> flights_;  // a ring
  size_t first_flight_ = 0;
  size_t flight_count_ = 0;
  std::function<void()> on_result_;

  std::mutex mutex_;
  std::condition_variable submitted_;
  std::deque<Job> waiting_;
  std::deque<StepId> done_;
  int32_t in_flight_ = 0;  // submitted and not polled
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace weir
