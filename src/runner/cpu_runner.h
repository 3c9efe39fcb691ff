// StepRunner on the CPU: one thread executes plans in order, the operations spread over the pool.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "base/result.h"
#include "decode/sampler.h"
#include "models/config.h"
#include "plan/runner.h"
#include "runner/batch_table.h"
#include "runner/cpu_caches.h"
#include "runner/cpu_executor.h"
#include "runner/cpu_weights.h"
#include "runner/logprobs.h"

namespace weir {

// A model ready to run on the CPU. Addresses inside are stable: it lives behind a pointer.
struct CpuModel {
  ModelConfig config;
  std::unique_ptr<Cpu> cpu;
  CpuWeights weights;
  RopeTable rope;
  Program program;

  // Packs `weights` (which may be released afterwards). `positions`: the longest context that will be run.
  static std::unique_ptr<CpuModel> create(const ModelConfig& config, const ModelWeights& weights,
                                          const CpuOptions& options, int64_t positions);
};

class CpuRunner final : public StepRunner {
 public:
  // Borrows the model. `on_result` is called on the runner's thread after each step. Fails when the caches cannot be
  // reserved.
  static Result<std::unique_ptr<CpuRunner>> create(CpuModel* model, const CacheLayout& layout,
                                                   const RunnerLimits& limits, std::function<void()> on_result);
  ~CpuRunner() override;

  const RunnerLimits& limits() const override { return limits_; }
  void submit(const StepPlan* plan, StepResult* result) override;
  StepId poll() override;

  // Bytes reserved for pages and slots, and for work buffers.
  int64_t cache_bytes() const { return caches_.bytes(); }
  int64_t buffer_bytes() const { return executor_.buffer_bytes(); }

 private:
  CpuRunner(CpuModel* model, const CacheLayout& layout, const RunnerLimits& limits, CpuCaches caches,
            std::function<void()> on_result);
  void run();
  void execute(const StepPlan& plan, StepResult* result);
  void begin_result(const StepPlan& plan, StepResult* result) const;
  void consume(const StepPlan& plan, const SampledBlock& block, StepResult* result);

  struct Job {
    const StepPlan* plan;
    StepResult* result;
  };

  CpuModel* model_;
  const RunnerLimits limits_;
  CpuCaches caches_;
  BatchTable table_;
  CpuExecutor executor_;
  Sampler sampler_;
  LogprobWriter logprobs_;
  StepRows rows_;
  std::function<void()> on_result_;

  std::mutex mutex_;
  std::condition_variable submitted_;
  std::deque<Job> waiting_;
  std::deque<StepId> done_;
  int32_t in_flight_ = 0;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace weir
