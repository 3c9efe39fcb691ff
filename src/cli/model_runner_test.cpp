// The runner ahead of its results: an executor that keeps steps waiting gives what one that never does gives, through
// stops, preemptions, cancellations and rows whose tokens the host samples.
#include "runner/model_runner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <map>
#include <random>

#include "sched/scheduler.h"

namespace weir {
namespace {

constexpr int32_t kVocabulary = 64;
constexpr int32_t kStopBelow = 1;    // ids under this end a sequence
constexpr TokenId kBroken = 63;      // a prompt that begins with it gives logits that are not finite
constexpr int64_t kBrokenFrom = 20;  // from this many tokens
constexpr int64_t kPageTokens = kGridTokens;

// The model: the next token is a hash of all tokens before it.
TokenId next_token(const std::vector<TokenId>& tokens) {
  uint64_t hash = 1469598103934665603U;
  for (const TokenId token : tokens) hash = (hash ^ static_cast<uint64_t>(token)) * 1099511628211U;
  return static_cast<TokenId>((hash >> 20) % kBroken);
}
bool broken(const std::vector<TokenId>& tokens) {
  return tokens.front() == kBroken && static_cast<int64_t>(tokens.size()) >= kBrokenFrom;
}

class FakeCaches final : public Caches {
 public:
  explicit FakeCaches(int32_t pages) : memory_(static_cast<size_t>(pages * kPageTokens)) {}
  std::byte* page(PageClassId, PageId page) const override {
    return const_cast<std::byte*>(reinterpret_cast<const std::byte*>(memory_.data() + page.value() * kPageTokens));
  }
  std::byte* slot(StateSlotId) const override { return nullptr; }
  void zero_slot(StateSlotId) override {}
  void copy_page(PageClassId, PageId from, PageId to) override {
    std::copy_n(memory_.begin() + from.value() * kPageTokens, kPageTokens, memory_.begin() + to.value() * kPageTokens);
  }
  void copy_slot(StateSlotId, StateSlotId) override {}
  int64_t bytes() const override { return 0; }

 private:
  std::vector<TokenId> memory_;
};

// Keeps up to `depth` steps as a stream would: what it needs of a batch is copied when it is enqueued, and computed
// when it is collected or, at random, asked for.
class FakeExecutor final : public Executor {
 public:
  FakeExecutor(int32_t depth, bool device_samples, std::chrono::milliseconds step_time, int32_t rows,
               std::atomic<int>* ahead)
      : depth_(depth),
        device_samples_(device_samples),
        step_time_(step_time),
        last_(static_cast<size_t>(rows), -1),
        ahead_(ahead) {}

  void set_hidden(int64_t, int64_t, const float*) override {}
  int64_t buffer_bytes() const override { return 0; }
  int32_t steps_ahead() const override { return depth_; }
  bool samples(const SamplingParams& params) const override {
    return device_samples_ && params.repetition_penalty == 1.0F;
  }
  void enqueue(const StepBatch& batch) override {
    Step& step = steps_.emplace_back();
    step.begun = std::chrono::steady_clock::now();
    EXPECT_LE(static_cast<int32_t>(steps_.size()), depth_);
    if (steps_.size() > 1) ahead_->fetch_add(1);
    step.tokens.assign(batch.tokens.begin(), batch.tokens.end());
    step.sequences.assign(batch.sequences.begin(), batch.sequences.end());
    step.requests.assign(batch.requests.begin(), batch.requests.end());
    step.sampled.assign(batch.sampled.begin(), batch.sampled.end());
    for (const KvSequence& kv : batch.kv) {
      step.kv.push_back(kv);
      const int64_t pages = (kv.position + kv.row_count + kPageTokens - 1) / kPageTokens;
      step.pages.emplace_back(kv.pages, kv.pages + pages);
    }
  }
  bool ready() override {
    // Nobody sees the end of a step before it, so a step may as well end when the next is there.
    if (static_cast<int32_t>(steps_.size()) < depth_ &&
        std::chrono::steady_clock::now() < steps_.front().begun + step_time_) {
      return false;
    }
    if (random_() % 4 != 0) return false;
    compute(&steps_.front());
    return true;
  }
  void collect(const Consume& consume) override {
    Step& step = steps_.front();
    compute(&step);
    const auto count = static_cast<int64_t>(step.sampled.size());
    if (count > 0) consume({0, count, step.logits.data(), nullptr, step.results.data()});
    steps_.pop_front();
  }

 private:
  struct Step {
    bool done = false;
    std::chrono::steady_clock::time_point begun;
    std::vector<TokenId> tokens;
    std::vector<StepSequence> sequences;
    std::vector<SampleRequest> requests;
    std::vector<int32_t> sampled;
    std::vector<KvSequence> kv;
    std::vector<std::vector<std::byte*>> pages;
    std::vector<float> logits;
    std::vector<TokenId> results;
  };

  static TokenId& at(const Step& step, size_t sequence, int64_t position) {
    return reinterpret_cast<TokenId*>(
        step.pages[sequence][static_cast<size_t>(position / kPageTokens)])[position % kPageTokens];
  }

  void compute(Step* step) {
    if (step->done) return;
    step->done = true;
    step->logits.assign(step->sampled.size() * kVocabulary, 0.0F);
    step->results.assign(step->sampled.size(), -7);
    size_t next = 0;
    for (size_t i = 0; i < step->kv.size(); ++i) {
      const KvSequence& kv = step->kv[i];
      for (int64_t r = 0; r < kv.row_count; ++r) {
        const auto row = static_cast<size_t>(kv.row_begin + r);
        const TokenId given = step->tokens[row];
        const TokenId token = given >= 0 ? given : last_[static_cast<size_t>(row_of_last_sampled(given))];
        ASSERT_GE(token, 0);
        at(*step, i, kv.position + r) = token;
        if (next < step->sampled.size() && step->sampled[next] == static_cast<int32_t>(row)) {
          sample(step, i, kv.position + r + 1, next++);
        }
      }
    }
    EXPECT_EQ(next, step->sampled.size());
  }

  void sample(Step* step, size_t sequence, int64_t length, size_t index) {
    std::vector<TokenId> tokens;
    for (int64_t p = 0; p < length; ++p) tokens.push_back(at(*step, sequence, p));
    const SampleRequest& request = step->requests[index];
    EXPECT_EQ(request.row, step->sequences[sequence].row);
    EXPECT_EQ(request.position, length);
    const TokenId token = next_token(tokens);
    if (request.on_device) {
      last_[static_cast<size_t>(request.row)] = token;
      step->results[index] = broken(tokens) ? kNotFiniteToken : token;
      return;
    }
    float* logits = step->logits.data() + index * kVocabulary;
    logits[token] = broken(tokens) ? std::numeric_limits<float>::quiet_NaN() : 10.0F;
  }

  const int32_t depth_;
  const bool device_samples_;
  const std::chrono::milliseconds step_time_;  // of a step that none waits behind
  std::deque<Step> steps_;
  std::vector<TokenId> last_;
  std::atomic<int>* ahead_;
  std::mt19937 random_{7};
};

struct FakeModel final : Model {
  int32_t depth = 1;
  bool device_samples = false;
  std::chrono::milliseconds step_time{0};
  std::atomic<int> ahead = 0;  // steps enqueued before the last was collected

  FakeModel() {
    config.vocabulary = kVocabulary;
    CpuOptions options;
    options.threads = 1;
    cpu = std::make_unique<Cpu>(options);
  }
  bool has_draft_head() const override { return false; }
  std::string device_text() const override { return "none"; }
  int64_t weight_bytes() const override { return 0; }
  CacheSizes cache_sizes() const override { return {}; }
  Result<std::unique_ptr<Caches>> make_caches(const CacheLayout&, const std::vector<int32_t>& pages, int32_t) override {
    return std::unique_ptr<Caches>(new FakeCaches(pages[0]));
  }
  Result<std::unique_ptr<Executor>> make_executor(const Program&, Caches*, const ExecutorLimits& limits) override {
    return std::unique_ptr<Executor>(
        new FakeExecutor(depth, device_samples, step_time, static_cast<int32_t>(limits.sequences), &ahead));
  }
};

struct Outcome {
  std::vector<TokenId> tokens;
  StopReason stop = StopReason::kNone;
  bool cancelled = false;
};

struct Request {
  std::vector<TokenId> prompt;
  SamplingParams sampling;
  int cancel_after = -1;  // results
};

Outcome expected(const Request& request) {
  Outcome out;
  std::vector<TokenId> all = request.prompt;
  while (out.stop == StopReason::kNone) {
    if (broken(all)) {
      out.stop = StopReason::kNotFinite;
      break;
    }
    const TokenId token = next_token(all);
    all.push_back(token);
    out.tokens.push_back(token);
    if (static_cast<int32_t>(out.tokens.size()) == request.sampling.max_tokens) out.stop = StopReason::kLength;
    if (token < request.sampling.stop_id_count) out.stop = StopReason::kStopId;
  }
  return out;
}

std::vector<Request> draw_requests(uint32_t seed, size_t count) {
  std::mt19937 random(seed);
  std::vector<Request> out(count);
  for (Request& request : out) {
    request.prompt.resize(1 + random() % 150);
    for (TokenId& token : request.prompt) token = static_cast<TokenId>(random() % kBroken);
    if (random() % 8 == 0) request.prompt.front() = kBroken;
    request.sampling.temperature = 0.0F;
    request.sampling.max_tokens = static_cast<int32_t>(1 + random() % 100);
    request.sampling.stop_id_count = kStopBelow;
    for (int32_t i = 0; i < kStopBelow; ++i) request.sampling.stop_ids[static_cast<size_t>(i)] = i;
    if (random() % 6 == 0) request.sampling.logprobs = 0;
    if (random() % 6 == 0) request.sampling.repetition_penalty = 1.0001F;
    if (random() % 6 == 0) request.sampling.prompt_logprobs = 1;
    if (random() % 6 == 0) request.cancel_after = static_cast<int>(random() % 10);
  }
  return out;
}

// A small engine: the scheduler plans, the runner runs, results are settled in order.
class Loop {
 public:
  Loop(FakeModel* model, const std::vector<Request>& requests, int32_t pages) : requests_(requests) {
    CacheLayout layout;
    layout.classes.push_back({"kv", kPageTokens * 4, kGridTokens});
    limits_.rows_max = 6;
    limits_.step_tokens_max = 96;
    limits_.pages = {pages};
    limits_.sequence_tokens_max = 256;
    limits_.vocabulary = kVocabulary;
    auto made = ModelRunner::create(model, layout, limits_, [this] { results_.fetch_add(1); });
    runner_ = std::move(*made);
    SchedulerConfig config;
    config.queue_requests_max = 256;
    config.queue_tokens_max = 1 << 20;
    config.aging_us = 1;
    scheduler_ = std::make_unique<Scheduler>(config, layout, limits_);
  }

  std::vector<Outcome> run() {
    outcomes_.resize(requests_.size());
    for (size_t i = 0; i < requests_.size(); ++i) {
      const int32_t index = scheduler_->add({i + 1, static_cast<int64_t>(i), 0, &requests_[i].sampling});
      scheduler_->append_prompt(index, requests_[i].prompt);
    }
    std::vector<Flight> flights(static_cast<size_t>(limits_.steps_in_flight));
    for (Flight& flight : flights) scheduler_->reserve(&flight.plan, &flight.owners);
    size_t first = 0;
    size_t count = 0;
    StepId last = 0;
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(100);  // ends a hang
    while (std::chrono::steady_clock::now() < limit) {
      while (count < flights.size()) {
        Flight& next = flights[(first + count) % flights.size()];
        next.plan.clear();
        next.result.clear();
        if (!scheduler_->plan(0, &next.plan, &next.owners)) break;
        next.plan.id = ++last;
        runner_->submit(&next.plan, &next.result);
        ++count;
      }
      if (count == 0) break;
      const StepId done = runner_->poll();
      if (done == 0) {
        std::this_thread::yield();
        continue;
      }
      EXPECT_EQ(done, flights[first].plan.id);
      settle(flights[first]);
      first = (first + 1) % flights.size();
      --count;
    }
    EXPECT_LT(scheduler_->any_live(), 0) << "sequences are left";
    return outcomes_;
  }

  int64_t preemptions() const { return scheduler_->counters().preemptions; }

 private:
  struct Flight {
    StepPlan plan;
    StepResult result;
    std::vector<WorkOwner> owners;
  };

  void settle(const Flight& flight) {
    for (size_t i = 0; i < flight.owners.size(); ++i) {
      const SequenceResult& yielded = flight.result.sequences[i];
      const auto tokens = std::span<const TokenId>(flight.result.tokens)
                              .subspan(yielded.token_count > 0 ? static_cast<size_t>(yielded.first_token) : 0,
                                       static_cast<size_t>(yielded.token_count));
      StopReason stop = StopReason::kNone;
      const int32_t index = scheduler_->settle(flight.owners[i], yielded, tokens, 0, &stop);
      const SequenceId id = flight.owners[i].id;
      Outcome& outcome = outcomes_[id - 1];
      EXPECT_TRUE(tokens.empty() || outcome.stop == StopReason::kNone) << "request " << id - 1 << " had stopped";
      if (index < 0) continue;
      outcome.tokens.insert(outcome.tokens.end(), tokens.begin(), tokens.end());
      outcome.stop = stop;
      if (stop == StopReason::kNone && requests_[id - 1].cancel_after >= 0 &&
          static_cast<int>(outcome.tokens.size()) >= requests_[id - 1].cancel_after) {
        outcome.cancelled = true;
        scheduler_->end(id);
      }
      if (outcome.cancelled || stop != StopReason::kNone) scheduler_->forget(index);
    }
  }

  const std::vector<Request>& requests_;
  RunnerLimits limits_;
  std::atomic<int> results_ = 0;
  std::unique_ptr<ModelRunner> runner_;
  std::unique_ptr<Scheduler> scheduler_;
  std::vector<Outcome> outcomes_;
};

void expect_right(const std::vector<Request>& requests, const std::vector<Outcome>& outcomes) {
  for (size_t i = 0; i < requests.size(); ++i) {
    const Outcome right = expected(requests[i]);
    const Outcome& got = outcomes[i];
    if (got.cancelled) {
      ASSERT_LE(got.tokens.size(), right.tokens.size()) << i;
      EXPECT_TRUE(std::equal(got.tokens.begin(), got.tokens.end(), right.tokens.begin())) << i;
      continue;
    }
    EXPECT_EQ(got.tokens, right.tokens) << "request " << i;
    EXPECT_EQ(static_cast<int>(got.stop), static_cast<int>(right.stop)) << "request " << i;
  }
}

TEST(ModelRunner, StepsAheadGiveWhatStepsInTurnGive) {
  int ahead = 0;
  int64_t preemptions = 0;
  for (uint32_t seed = 0; seed < 12; ++seed) {
    const std::vector<Request> requests = draw_requests(seed, 40);
    for (const bool device_samples : {false, true}) {
      for (const int32_t depth : {1, 2}) {
        SCOPED_TRACE(testing::Message() << "seed " << seed << " device " << device_samples << " depth " << depth);
        FakeModel model;
        model.depth = depth;
        model.device_samples = device_samples;
        Loop loop(&model, requests, seed % 2 == 0 ? 5 : 40);
        expect_right(requests, loop.run());
        ahead += model.ahead.load();
        preemptions += loop.preemptions();
      }
    }
  }
  EXPECT_GT(ahead, 0) << "no step was ever enqueued ahead";
  EXPECT_GT(preemptions, 0);
}

// Without a host's row no step waits for the one before it. Steps are long, so that a busy machine changes nothing.
TEST(ModelRunner, RowsThatTheDeviceSamplesKeepTwoStepsInFlight) {
  std::vector<Request> requests(1);
  requests[0].prompt.assign(5, 9);
  requests[0].sampling.temperature = 0.0F;
  requests[0].sampling.max_tokens = 100;
  FakeModel model;
  model.depth = 2;
  model.device_samples = true;
  model.step_time = std::chrono::milliseconds(500);
  Loop loop(&model, requests, 40);
  expect_right(requests, loop.run());
  EXPECT_GT(model.ahead.load(), 90);
}

}  // namespace
}  // namespace weir
