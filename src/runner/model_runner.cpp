#include "runner/model_runner.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace weir {

Result<std::unique_ptr<ModelRunner>> ModelRunner::create(Model* model, const CacheLayout& layout,
                                                         const RunnerLimits& limits, std::function<void()> on_result) {
  WEIR_ASSIGN_OR_RETURN(auto caches, model->make_caches(layout, limits.pages, limits.state_slots));
  const ExecutorLimits sizes{limits.step_tokens_max, limits.rows_max, limits.sequence_tokens_max, limits.vocabulary};
  WEIR_ASSIGN_OR_RETURN(auto executor, model->make_executor(model->program, caches.get(), sizes));
  std::unique_ptr<Drafter> drafter;
  if (limits.drafts_max != 0) {
    WEIR_CHECK(layout.classes.size() > kDraftKvClass.index(), "drafts without draft pages");
    WEIR_ASSIGN_OR_RETURN(drafter, Drafter::create(model, caches.get(), executor.get(), limits));
  }
  return std::unique_ptr<ModelRunner>(new ModelRunner(model, layout, limits, std::move(caches), std::move(executor),
                                                      std::move(drafter), std::move(on_result)));
}

ModelRunner::ModelRunner(Model* model, const CacheLayout& layout, const RunnerLimits& limits,
                         std::unique_ptr<Caches> caches, std::unique_ptr<Executor> executor,
                         std::unique_ptr<Drafter> drafter, std::function<void()> on_result)
    : model_(model),
      limits_(limits),
      caches_(std::move(caches)),
      executor_(std::move(executor)),
      drafter_(std::move(drafter)),
      table_(limits_, layout, caches_.get(), executor_.get()),
      sampler_(static_cast<int32_t>(model->config.vocabulary)),
      logprobs_(*model->cpu, kTopLogprobsMax),
      // Which drafts held decides what the next step computes.
      flights_(drafter_ != nullptr ? 1
                                   : static_cast<size_t>(std::min(executor_->steps_ahead(), limits_.steps_in_flight))),
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
    if (may_enqueue() && take_job(flight_count_ == 0, &job)) {
      enqueue(job);
    } else if (flight_count_ == 0) {
      return;  // take_job() has waited: the runner ends
    } else if (!may_enqueue() || executor_->ready()) {
      collect();
    } else {
      // A job and the step's end are waited for at once; both are microseconds away, or the device is idle meanwhile.
      std::this_thread::yield();
    }
  }
}

// The host's part of a step (sampling, penalties, log-probabilities) must be done before the next is laid out.
bool ModelRunner::may_enqueue() const {
  if (flight_count_ == flights_.size()) return false;
  return flight_count_ == 0 || !flights_[(first_flight_ + flight_count_ - 1) % flights_.size()].rows.for_host;
}

// False: there is none, or the runner ends.
bool ModelRunner::take_job(bool wait, Job* job) {
  std::unique_lock lock(mutex_);
  if (wait) submitted_.wait(lock, [&] { return stopping_ || !waiting_.empty(); });
  if (stopping_ || waiting_.empty()) return false;
  *job = waiting_.front();
  waiting_.pop_front();
  return true;
}

void ModelRunner::enqueue(const Job& job) {
  Flight& flight = flights_[(first_flight_ + flight_count_) % flights_.size()];
  flight.job = job;
  begin_result(*job.plan, job.result);
  table_.save_states();
  for (const Edit& edit : job.plan->edits) table_.apply(*job.plan, edit);
  table_.lay_out(*job.plan, &flight.rows);
  executor_->enqueue(flight.rows.batch());
  if (drafter_ != nullptr) drafter_->enqueue(*job.plan, flight.rows, &table_);
  ++flight_count_;
}

void ModelRunner::collect() {
  const Flight& flight = flights_[first_flight_];
  executor_->collect([&](const SampledBlock& block) { consume(flight, block); });
  if (drafter_ != nullptr) drafter_->finish(*flight.job.plan, flight.rows, *flight.job.result, &table_, &sampler_);
  first_flight_ = (first_flight_ + 1) % flights_.size();
  --flight_count_;
  {
    const std::lock_guard lock(mutex_);
    done_.push_back(flight.job.plan->id);
  }
  on_result_();
}

void ModelRunner::begin_result(const StepPlan& plan, StepResult* result) const {
  result->clear();
  result->id = plan.id;
  for (const SequenceWork& work : plan.work) {
    SequenceResult& sequence = result->sequences.emplace_back();
    sequence.row = work.row;
  }
}

// Turns a block of sampled rows into prompt log-probabilities and tokens.
void ModelRunner::consume(const Flight& flight, const SampledBlock& block) {
  const auto width = static_cast<size_t>(model_->config.vocabulary);
  StepResult* result = flight.job.result;
  for (int64_t i = 0; i < block.count; ++i) {
    const WantedRow& wanted = flight.rows.wanted[static_cast<size_t>(block.first + i)];
    const SequenceWork& work = flight.job.plan->work[static_cast<size_t>(wanted.work)];
    SequenceResult& sequence = result->sequences[static_cast<size_t>(wanted.work)];
    if (wanted.draft >= 0) ++sequence.drafted_count;
    if (!table_.arrive(work.row, wanted)) continue;
    if (wanted.draft >= 0 && !table_.follows(work.row, wanted)) continue;
    std::span<const float> logits;
    TokenId token = -1;
    bool finite = false;
    if (wanted.on_device) {
      token = block.tokens[i];
      finite = token != kNotFiniteToken;
    } else {
      logits = {block.logits + static_cast<size_t>(i) * width, width};
      finite = all_finite(logits);
    }
    if (!finite && wanted.draft >= 0) continue;  // as if rejected: the next step meets the row as its first
    if (!finite) {
      sequence.stop = StopReason::kNotFinite;
      table_.stop(work.row, wanted);
    } else if (wanted.about >= 0) {
      if (sequence.prompt_row_count++ == 0) sequence.prompt_first_row = static_cast<int32_t>(result->rows.size());
      logprobs_.append(logits, wanted.about, table_.row(work.row).sampling.prompt_logprobs, result);
    } else {
      sample(flight, wanted, logits, token);
    }
  }
}

// Takes the token that the device sampled, or samples one from `logits`.
void ModelRunner::sample(const Flight& flight, const WantedRow& wanted, std::span<const float> logits, TokenId token) {
  const SequenceWork& work = flight.job.plan->work[static_cast<size_t>(wanted.work)];
  StepResult* result = flight.job.result;
  SequenceResult& sequence = result->sequences[static_cast<size_t>(wanted.work)];
  if (wanted.draft >= 0) table_.accept_draft(work.row, wanted);
  if (sequence.token_count++ == 0) {
    sequence.first_token = static_cast<int32_t>(result->tokens.size());
    sequence.first_row = static_cast<int32_t>(result->rows.size());
  }
  const BatchRow& row = table_.row(work.row);
  if (!wanted.on_device) {
    SampleArgs args;
    args.params = &row.sampling;
    args.history = &row.history;
    args.position = wanted.position;
    args.output_count = wanted.position - row.prompt_length;
    args.vocabulary = limits_.vocabulary;
    token = sampler_.sample(logits, args);
  }
  if (wanted.instead >= 0) token = wanted.instead;
  if (!wanted.on_device && row.sampling.logprobs >= 0) {
    logprobs_.append(logits, token, row.sampling.logprobs, result);
  }
  result->tokens.push_back(token);
  sequence.stop = table_.accept(work.row, wanted, token);
}

}  // namespace weir
