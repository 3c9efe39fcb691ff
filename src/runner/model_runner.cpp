#include "runner/model_runner.h"

#include <utility>

#include "base/check.h"

namespace weir {

Result<std::unique_ptr<ModelRunner>> ModelRunner::create(Model* model, const CacheLayout& layout,
                                                         const RunnerLimits& limits, std::function<void()> on_result) {
  WEIR_ASSIGN_OR_RETURN(auto caches, model->make_caches(layout, limits.pages, limits.state_slots));
  const ExecutorLimits sizes{limits.step_tokens_max, limits.rows_max, limits.sequence_tokens_max};
  WEIR_ASSIGN_OR_RETURN(auto executor, model->make_executor(model->program, caches.get(), sizes));
  return std::unique_ptr<ModelRunner>(
      new ModelRunner(model, layout, limits, std::move(caches), std::move(executor), std::move(on_result)));
}

ModelRunner::ModelRunner(Model* model, const CacheLayout& layout, const RunnerLimits& limits,
                         std::unique_ptr<Caches> caches, std::unique_ptr<Executor> executor,
                         std::function<void()> on_result)
    : model_(model),
      limits_(limits),
      caches_(std::move(caches)),
      table_(limits_, layout, caches_.get()),
      executor_(std::move(executor)),
      sampler_(static_cast<int32_t>(model->config.vocabulary)),
      logprobs_(*model->cpu, kTopLogprobsMax),
      on_result_(std::move(on_result)),
      thread_([this] { run(); }) {}

ModelRunner::~ModelRunner() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  submitted_.notify_one();
  thread_.join();
}

void ModelRunner::submit(const StepPlan* plan, StepResult* result) {
  {
    const std::lock_guard lock(mutex_);
    WEIR_CHECK(in_flight_ < limits_.steps_in_flight, "{} steps in flight", in_flight_);
    ++in_flight_;
    waiting_.push_back({plan, result});
  }
  submitted_.notify_one();
}

StepId ModelRunner::poll() {
  const std::lock_guard lock(mutex_);
  if (done_.empty()) return 0;
  const StepId id = done_.front();
  done_.pop_front();
  --in_flight_;
  return id;
}

void ModelRunner::run() {
  while (true) {
    Job job;
    {
      std::unique_lock lock(mutex_);
      submitted_.wait(lock, [&] { return stopping_ || !waiting_.empty(); });
      if (stopping_) return;
      job = waiting_.front();
      waiting_.pop_front();
    }
    execute(*job.plan, job.result);
    {
      const std::lock_guard lock(mutex_);
      done_.push_back(job.plan->id);
    }
    on_result_();
  }
}

void ModelRunner::begin_result(const StepPlan& plan, StepResult* result) const {
  result->clear();
  result->id = plan.id;
  for (const SequenceWork& work : plan.work) {
    SequenceResult& sequence = result->sequences.emplace_back();
    sequence.row = work.row;
  }
}

void ModelRunner::execute(const StepPlan& plan, StepResult* result) {
  begin_result(plan, result);
  for (const Edit& edit : plan.edits) table_.apply(plan, edit);
  table_.lay_out(plan, &rows_);
  StepBatch batch;
  batch.tokens = rows_.tokens;
  batch.kv = rows_.kv;
  batch.gdn = rows_.gdn;
  batch.sampled = rows_.sampled;
  executor_->run(batch, [&](const SampledBlock& block) { consume(plan, block, result); });
}

// Turns a block of logits into prompt log-probabilities and sampled tokens.
void ModelRunner::consume(const StepPlan& plan, const SampledBlock& block, StepResult* result) {
  const auto width = static_cast<size_t>(model_->config.vocabulary);
  for (int64_t i = 0; i < block.count; ++i) {
    const WantedRow& wanted = rows_.wanted[static_cast<size_t>(block.first + i)];
    const std::span<const float> logits(block.logits + static_cast<size_t>(i) * width, width);
    const SequenceWork& work = plan.work[static_cast<size_t>(wanted.work)];
    BatchRow& row = table_.row(work.row);
    SequenceResult& sequence = result->sequences[static_cast<size_t>(wanted.work)];
    if (sequence.stop == StopReason::kNotFinite) continue;
    if (!all_finite(logits)) {
      sequence.stop = StopReason::kNotFinite;
      table_.stop(work.row);
      continue;
    }
    if (wanted.about >= 0) {
      if (sequence.prompt_row_count++ == 0) sequence.prompt_first_row = static_cast<int32_t>(result->rows.size());
      logprobs_.append(logits, wanted.about, row.sampling.prompt_logprobs, result);
      continue;
    }
    SampleArgs args;
    args.params = &row.sampling;
    args.history = &row.history;
    args.position = wanted.position;
    args.output_count = wanted.position - row.prompt_length;
    args.vocabulary = limits_.vocabulary;
    sequence.first_token = static_cast<int32_t>(result->tokens.size());
    sequence.first_row = static_cast<int32_t>(result->rows.size());
    const TokenId token = sampler_.sample(logits, args);
    if (row.sampling.logprobs >= 0) logprobs_.append(logits, token, row.sampling.logprobs, result);
    result->tokens.push_back(token);
    sequence.token_count = 1;
    sequence.stop = table_.accept(work.row, token);
  }
}

}  // namespace weir
