#include "server/sim/echo_runner.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/check.h"

namespace weir::sim {

namespace {

constexpr float kForcingBias = 50.0F;
constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyz  ";

// splitmix64's finalizer.
uint64_t mix(uint64_t value) {
  value = (value ^ (value >> 30U)) * 0xBF58476D1CE4E5B9ULL;
  value = (value ^ (value >> 27U)) * 0x94D049BB133111EBULL;
  return value ^ (value >> 31U);
}

template <size_t N>
bool among(const std::array<TokenId, N>& ids, int32_t count, TokenId id) {
  return std::find(ids.begin(), ids.begin() + count, id) != ids.begin() + count;
}

}  // namespace

EchoRunner::EchoRunner(const RunnerLimits& limits, EchoTiming timing, const ByteTokenizer* tokenizer,
                       std::function<void()> on_result)
    : limits_(limits),
      timing_(timing),
      tokenizer_(tokenizer),
      on_result_(std::move(on_result)),
      rows_(static_cast<size_t>(limits.rows_max)),
      thread_([this] { run(); }) {}

EchoRunner::~EchoRunner() {
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void EchoRunner::submit(const StepPlan* plan, StepResult* result) {
  {
    const std::scoped_lock lock(mutex_);
    jobs_.push_back({plan, result});
  }
  changed_.notify_all();
}

StepId EchoRunner::poll() {
  const std::scoped_lock lock(mutex_);
  if (done_.empty()) {
    return 0;
  }
  const StepId id = done_.front();
  done_.pop_front();
  return id;
}

void EchoRunner::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
    if (stopping_) {
      return;
    }
    const Job job = jobs_.front();
    jobs_.pop_front();
    lock.unlock();
    int64_t prompt_tokens = 0;
    for (const SequenceWork& work : job.plan->work) {
      prompt_tokens += work.role == RowRole::kPrompt ? work.token_count : 0;
    }
    const auto end = std::chrono::steady_clock::now() +
                     std::chrono::microseconds(timing_.step_us + prompt_tokens * timing_.prompt_token_us);
    execute(*job.plan, job.result);
    const StepId id = job.plan->id;
    lock.lock();
    changed_.wait_until(lock, end, [this] { return stopping_; });
    done_.push_back(id);
    lock.unlock();
    on_result_();
    lock.lock();
  }
}

void EchoRunner::execute(const StepPlan& plan, StepResult* result) {
  result->clear();
  result->id = plan.id;
  for (const Edit& edit : plan.edits) {
    Row& row = rows_[edit.row.index()];
    if (edit.kind == EditKind::kJoin) {
      row = Row();
      row.prompt_length = edit.prompt_length;
      row.sampling = plan.sampling[static_cast<size_t>(edit.first)];
    }
  }
  for (const SequenceWork& work : plan.work) {
    SequenceResult yielded;
    yielded.row = work.row;
    yielded.first_token = static_cast<int32_t>(result->tokens.size());
    yielded.first_row = static_cast<int32_t>(result->rows.size());
    yielded.prompt_first_row = yielded.first_row;
    if (!rows_[work.row.index()].stopped) {
      compute(plan, work, result, &yielded);
    }
    result->sequences.push_back(yielded);
  }
}

void EchoRunner::compute(const StepPlan& plan, const SequenceWork& work, StepResult* result, SequenceResult* yielded) {
  Row& row = rows_[work.row.index()];
  if (work.first_token < 0) {
    ++row.computed;  // the token it sampled last is in row.tokens already
  } else {
    WEIR_CHECK(work.position == row.computed, "row {} stands at {}, not {}", work.row.value(), row.computed,
               work.position);
    const auto first = plan.tokens.begin() + work.first_token;
    row.tokens.insert(row.tokens.end(), first, first + work.token_count);
    row.computed += work.token_count;
    const bool wanted = row.sampling.prompt_logprobs >= 0 && work.role == RowRole::kPrompt;
    for (int32_t i = 0; wanted && i < work.token_count && work.position + i + 1 < row.prompt_length; ++i) {
      add_row(*(first + i + 1), work.position + i + 1, row.sampling.prompt_logprobs, result);
      ++yielded->prompt_row_count;
    }
  }
  if (!work.sample) {
    return;
  }
  const TokenId token = sample(&row);
  yielded->first_row = static_cast<int32_t>(result->rows.size());
  if (row.sampling.logprobs >= 0) {
    add_row(token, row.computed, row.sampling.logprobs, result);
  }
  result->tokens.push_back(token);
  yielded->token_count = 1;
  row.tokens.push_back(token);
  if (among(row.sampling.stop_ids, row.sampling.stop_id_count, token)) {
    yielded->stop = StopReason::kStopId;
  } else if (row.computed - row.prompt_length + 1 >= row.sampling.max_tokens) {
    yielded->stop = StopReason::kLength;
  }
  row.stopped = yielded->stop != StopReason::kNone;
}

TokenId EchoRunner::sample(Row* row) const {
  const SamplingParams& sampling = row->sampling;
  for (int32_t i = 0; i < sampling.logit_bias_count; ++i) {
    if (sampling.logit_bias[static_cast<size_t>(i)].bias >= kForcingBias) {
      return sampling.logit_bias[static_cast<size_t>(i)].token;
    }
  }
  if (!row->scripted) {
    row->scripted = true;
    read_script(row);
  }
  const int64_t index = row->computed - row->prompt_length;
  const uint64_t seed = sampling.temperature > 0 ? sampling.seed : 0;
  const uint64_t noise = mix(seed + 0x9E3779B97F4A7C15ULL * static_cast<uint64_t>(row->computed + 1));
  const TokenId letter = kLetters[noise % kLetters.size()];
  const TokenId wanted =
      index < static_cast<int64_t>(row->script.size()) ? row->script[static_cast<size_t>(index)] : letter;
  const bool banned =
      index < sampling.min_tokens && among(sampling.banned_until_min, sampling.banned_until_min_count, wanted);
  return banned ? letter : wanted;
}

void EchoRunner::read_script(Row* row) const {
  constexpr std::string_view kDirective = "say:";
  const auto prompt_end = row->tokens.begin() + row->prompt_length;
  const std::vector<TokenId> prompt(row->tokens.begin(), prompt_end);
  const std::string text = tokenizer_->decode(prompt, false);
  const size_t at = text.rfind(kDirective);
  if (at == std::string::npos) {
    return;
  }
  const std::string_view said = std::string_view(text).substr(at + kDirective.size());
  auto ids = tokenizer_->encode(said.substr(0, said.find("<|im_end|>")), {});
  if (ids.ok()) {
    row->script = std::move(ids).value();
  }
  row->script.push_back(kTurnEnd);
}

// Made-up values that differ from position to position; the token asked about is the likeliest.
void EchoRunner::add_row(TokenId token, int64_t position, int32_t top_count, StepResult* result) const {
  const float logprob = -0.125F * static_cast<float>((token + position) % 16);
  result->rows.push_back({static_cast<int32_t>(result->logprobs.size()), top_count});
  result->logprobs.push_back({token, logprob, 1});
  for (int32_t i = 0; i < top_count; ++i) {
    result->logprobs.push_back({(token + i) % limits_.vocabulary, logprob - static_cast<float>(i), i + 1});
  }
}

}  // namespace weir::sim
