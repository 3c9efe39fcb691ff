// A StepRunner that needs no model: it says what the prompt tells it to say, and takes as long as it is told to.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "plan/runner.h"
#include "server/sim/byte_tokenizer.h"

namespace weir::sim {

// How long steps take.
struct EchoTiming {
  int64_t step_us = 0;          // every step at least
  int64_t prompt_token_us = 0;  // and for each prompt token in it
};

// The answer to a prompt that has "say:TEXT" is TEXT and an end of turn (the last "say:" counts, up to the end of the
// message). Any other prompt is answered by letters without end, drawn by (seed, position) alone, or by position alone
// at temperature 0. A logit_bias of 50 or more forces its token.
class EchoRunner final : public StepRunner {
 public:
  // `tokenizer` must outlive the runner; `on_result` is called on the runner's thread.
  EchoRunner(const RunnerLimits& limits, EchoTiming timing, const ByteTokenizer* tokenizer,
             std::function<void()> on_result);
  ~EchoRunner() override;

  const RunnerLimits& limits() const override { return limits_; }
  void submit(const StepPlan* plan, StepResult* result) override;
  StepId poll() override;

 private:
  struct Row {
    std::vector<TokenId> tokens;  // computed so far, and the one sampled last
    int64_t computed = 0;
    int64_t prompt_length = 0;
    bool stopped = false;
    bool scripted = false;
    std::vector<TokenId> script;
    SamplingParams sampling;
  };
  struct Job {
    const StepPlan* plan;
    StepResult* result;
  };

  void run();
  void execute(const StepPlan& plan, StepResult* result);
  void compute(const StepPlan& plan, const SequenceWork& work, StepResult* result, SequenceResult* yielded);
  TokenId sample(Row* row) const;
  void read_script(Row* row) const;
  void add_row(TokenId token, int64_t position, int32_t top_count, StepResult* result) const;

  const RunnerLimits limits_;
  const EchoTiming timing_;
  const ByteTokenizer* tokenizer_;
  const std::function<void()> on_result_;
  std::vector<Row> rows_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> jobs_;
  std::deque<StepId> done_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace weir::sim
