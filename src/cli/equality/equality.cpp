#include "cli/equality/equality.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <map>
#include <random>

#include "cli/equality/served.h"

namespace weir::equality {
namespace {

constexpr int64_t kContext = 512;
// A schedule ends within seconds; one that does not hangs.
constexpr int64_t kTurnsMax = 2'000'000;

enum class Leaves : uint8_t { kNever, kQueued, kInPrefill, kInDecode };

struct Request {
  std::vector<TokenId> prompt;
  SamplingParams sampling;
  CacheSalt salt{};
  int32_t suffix_count = 0;
  int64_t generated_from = -1;  // prompt tokens from here on are an earlier request's answer
  int32_t after_events = 0;     // it comes when so many events have been read
  Leaves leaves = Leaves::kNever;
  int32_t leaves_after = 0;  // tokens, for kInDecode
};

// Everything that a client sees of one sequence, bit for bit.
struct Outcome {
  std::vector<TokenId> tokens;
  std::vector<uint32_t> logprobs;
  std::vector<uint32_t> prompt_logprobs;
  FinishReason finish = FinishReason::kNone;
  int32_t cached = 0;
};

void take(const Event& event, Outcome* outcome) {
  outcome->tokens.insert(outcome->tokens.end(), event.tokens.begin(), event.tokens.end());
  for (size_t row = 0; row < event.rows.size(); ++row) {
    const bool prompt = static_cast<int32_t>(row) < event.header.prompt_row_count;
    auto& target = prompt ? outcome->prompt_logprobs : outcome->logprobs;
    for (int32_t i = 0; i <= event.rows[row].top_count; ++i) {
      const TokenLogprob& entry = event.logprobs[static_cast<size_t>(event.rows[row].first + i)];
      target.push_back(std::bit_cast<uint32_t>(entry.logprob));
      target.push_back(static_cast<uint32_t>(entry.token));
    }
  }
  outcome->finish = event.header.finish;
  outcome->cached = event.header.cached_count;
}

using Random = std::mt19937_64;

constexpr int32_t kCrowd = 64;

int64_t between(Random* random, int64_t low, int64_t high) {
  return low + static_cast<int64_t>((*random)() % static_cast<uint64_t>(high - low + 1));
}
bool one_in(Random* random, int64_t count) {
  return between(random, 1, count) == 1;
}
template <class T>
T pick(Random* random, std::initializer_list<T> values) {
  return *(values.begin() + between(random, 0, static_cast<int64_t>(values.size()) - 1));
}

World cold_world(int32_t vocabulary) {
  World world;
  world.limits.rows_max = 1;
  world.limits.step_tokens_max = 256;
  world.limits.state_slots = 1;
  world.limits.pages = {static_cast<int32_t>(kContext / kGridTokens)};
  world.limits.sequence_tokens_max = kContext;
  world.limits.vocabulary = vocabulary;
  return world;
}

World draw_world(Random* random, int32_t vocabulary, bool drafts) {
  World world = cold_world(vocabulary);
  RunnerLimits& limits = world.limits;
  limits.rows_max = static_cast<int32_t>(pick(random, {1, 2, 4, 8, 16}));
  limits.step_tokens_max = limits.rows_max + static_cast<int32_t>(pick(random, {7, 40, 64, 130, 512}));
  limits.steps_in_flight = static_cast<int32_t>(pick(random, {1, 2, 2, 2, 3}));
  // From one longest sequence to enough that nothing is ever evicted.
  const int64_t alone = kContext / kGridTokens;
  limits.pages = {
      static_cast<int32_t>(one_in(random, 3) ? between(random, alone, alone + 4) : between(random, alone, alone * 8))};
  if (drafts) limits.drafts_max = static_cast<int32_t>(pick(random, {0, 1, 2, 3, 7}));
  world.config.adaptive_drafts = one_in(random, 3);
  world.tight = one_in(random, 3);
  if (world.tight) {
    limits.rows_max = 8;
    limits.step_tokens_max = static_cast<int32_t>(pick(random, {72, 138, 520}));
    limits.pages = {static_cast<int32_t>(alone + between(random, 0, 3))};
  }
  world.crowd = !world.tight && one_in(random, 25);
  if (world.crowd) {
    limits.rows_max = kCrowd;
    limits.step_tokens_max = static_cast<int32_t>(pick(random, {1000, 3000}));
    limits.pages = {static_cast<int32_t>(alone * kCrowd)};
  }
  limits.state_slots = limits.rows_max + static_cast<int32_t>(between(random, 0, pick(random, {2, 6, 20})));
  if (one_in(random, 2)) world.pages_a_slot = static_cast<int32_t>(pick(random, {1, 2, 5}));
  world.config.prefix_caching = true;
  world.config.checkpoint_interval = pick(random, {0, 64, 64, 128, 256});
  world.config.cache_seed = (*random)();
  world.config.prefill_chunk_max = static_cast<int32_t>(pick(random, {0, 0, 29, 64, 100}));
  return world;
}

std::vector<TokenId> draw_tokens(Random* random, int64_t count, int32_t vocabulary) {
  std::vector<TokenId> tokens(static_cast<size_t>(count));
  for (TokenId& token : tokens) token = static_cast<TokenId>(between(random, 0, vocabulary - 1));
  return tokens;
}

void draw_sampling(Random* random, int32_t vocabulary, SamplingParams* sampling) {
  sampling->temperature = one_in(random, 2) ? 0.0F : pick(random, {0.3F, 0.9F, 1.5F});
  sampling->top_p = pick(random, {1.0F, 1.0F, 0.9F});
  sampling->top_k = static_cast<int32_t>(pick(random, {0, 0, 3}));
  sampling->seed = (*random)();
  sampling->max_tokens = static_cast<int32_t>(one_in(random, 20) ? 0 : between(random, 1, pick(random, {4, 20, 120})));
  sampling->logprobs = static_cast<int32_t>(between(random, -1, 1));
  if (one_in(random, 8)) sampling->prompt_logprobs = 0;
  // Random weights agree with their draft head about nothing: of a few likely ids it guesses some right.
  if (one_in(random, 2)) {
    sampling->logit_bias_count = static_cast<int32_t>(between(random, 1, 3));
    for (int32_t i = 0; i < sampling->logit_bias_count; ++i) {
      sampling->logit_bias[static_cast<size_t>(i)] = {static_cast<TokenId>(between(random, 0, vocabulary - 1)), 20.0F};
    }
  }
  if (one_in(random, 6)) sampling->frequency_penalty = 0.4F;
  if (one_in(random, 8)) sampling->repetition_penalty = 1.2F;
  if (one_in(random, 4)) {
    sampling->stop_id_count = 1;
    sampling->stop_ids[0] = static_cast<TokenId>(between(random, 0, vocabulary - 1));
  }
}

// Most prompts share something with an earlier one: a beginning, the whole, or a conversation that goes on.
Request draw_request(Random* random, const std::vector<Request>& earlier, const std::vector<Outcome>& answers,
                     const std::vector<TokenId>& beginning, int32_t vocabulary, bool tight) {
  Request request;
  draw_sampling(random, vocabulary, &request.sampling);
  if (tight) request.sampling.max_tokens = static_cast<int32_t>(between(random, 60, 200));
  request.suffix_count = static_cast<int32_t>(between(random, 0, 6));
  const int64_t way = earlier.empty() ? 0 : between(random, 0, 5);
  const auto which =
      static_cast<size_t>(earlier.empty() ? 0 : between(random, 0, static_cast<int64_t>(earlier.size()) - 1));
  auto& prompt = request.prompt;
  if (way <= 1) {
    prompt.assign(beginning.begin(), beginning.begin() + between(random, 0, static_cast<int64_t>(beginning.size())));
  } else if (way <= 4) {
    prompt = earlier[which].prompt;
    request.salt = earlier[which].salt;
    if (way >= 3) {
      request.generated_from = static_cast<int64_t>(prompt.size());
      // What a template shows of an answer, or all of it.
      const auto& answer = answers[which].tokens;
      const auto shown =
          one_in(random, 3) ? static_cast<int64_t>(answer.size()) / 2 : static_cast<int64_t>(answer.size());
      prompt.insert(prompt.end(), answer.begin(), answer.begin() + shown);
    } else {
      prompt.resize(prompt.size() -
                    static_cast<size_t>(between(
                        random, 0, std::min<int64_t>(request.suffix_count, static_cast<int64_t>(prompt.size())))));
    }
  }
  const auto more = draw_tokens(random, between(random, 0, pick(random, {3, 70, 200})), vocabulary);
  prompt.insert(prompt.end(), more.begin(), more.end());
  if (prompt.empty()) prompt.push_back(1);
  prompt.resize(std::min<size_t>(prompt.size(), static_cast<size_t>(kContext - 1 - between(random, 0, 60))));
  if (one_in(random, 12)) request.salt = {7, 0, 0, 0};
  request.after_events = static_cast<int32_t>(between(random, 0, tight ? 3 : pick(random, {1, 40, 200})));
  if (one_in(random, 6)) {
    request.leaves = pick(random, {Leaves::kQueued, Leaves::kInPrefill, Leaves::kInDecode, Leaves::kInDecode});
    request.leaves_after = static_cast<int32_t>(between(random, 1, 20));
  }
  return request;
}

}  // namespace

struct Judge::Impl {
  explicit Impl(Model* model_given)
      : model(model_given),
        vocabulary(static_cast<int32_t>(model->config.vocabulary)),
        cold(model, cold_world(vocabulary)) {}

  Outcome alone(const Request& request) {
    Outcome outcome;
    const SequenceId id = cold.submit(request.prompt, request.sampling, request.salt, request.suffix_count);
    EngineClient client = cold.client();
    while (outcome.finish == FinishReason::kNone) {
      cold.turn();
      while (client.poll(&event)) {
        WEIR_CHECK(event.header.id == id, "an event of sequence {}", event.header.id);
        take(event, &outcome);
      }
    }
    return outcome;
  }

  Model* model;
  bool on_cpu = model->device_text().starts_with("CPU");
  int32_t vocabulary;
  Served cold;
  Event event;
};

namespace {

// One schedule in its world.
class Schedule {
 public:
  Schedule(Model* model, const World& world, const std::vector<Request>& requests, const std::vector<Outcome>& alone,
           Reach* reach)
      : served_(model, world),
        client_(served_.client()),
        requests_(requests),
        alone_(alone),
        reach_(reach),
        outcomes_(requests.size()),
        ids_(requests.size()),
        cancelled_(requests.size()) {}

  std::vector<std::string> run() {
    for (int64_t turn = 0; finished_ < requests_.size() && problems_.empty(); ++turn) {
      if (turn > kTurnsMax) problems_.push_back("no end");
      submit_what_is_due();
      leave();
      served_.turn();
      Event event;
      while (client_.poll(&event)) on_event(event);
      count_turn();
    }
    const EngineStats stats = client_.stats();
    add(Reached::kPreempted, stats.preemptions);
    add(Reached::kEvicted, stats.evicted_blocks);
    add(Reached::kStateEvicted, stats.evicted_checkpoints);
    add(Reached::kWithDrafts, stats.draft_rounds > 0 ? 1 : 0);
    add(Reached::kDraftTokens, stats.draft_tokens);
    add(Reached::kAcceptedTokens, stats.accepted_tokens);
    if (problems_.empty() && served_.layout().pages_a_slot == 0 &&
        stats.pages_free + stats.pages_kept != stats.pages_total) {
      problems_.push_back(
          fmt::format("of {} pages {} are free and {} kept", stats.pages_total, stats.pages_free, stats.pages_kept));
    }
    return problems_;
  }

 private:
  void add(Reached what, int64_t count = 1) { (*reach_)[static_cast<size_t>(what)] += count; }

  void submit_what_is_due() {
    // Nothing more will come of the engine alone.
    const bool idle = next_ == finished_;
    while (next_ < requests_.size() && (requests_[next_].after_events <= events_ || idle)) {
      const Request& request = requests_[next_];
      ids_[next_] = served_.submit(request.prompt, request.sampling, request.salt, request.suffix_count);
      index_[ids_[next_]] = next_;
      add(Reached::kRequests);
      if (request.sampling.temperature > 0) add(Reached::kSampled);
      if (has_penalties(request.sampling)) add(Reached::kWithPenalties);
      if (request.salt != CacheSalt{}) add(Reached::kSalted);
      if (request.leaves == Leaves::kQueued) cancel(next_, Reached::kGoneQueued);
      ++next_;
      if (idle) break;
    }
  }

  void leave() {
    const EngineStats stats = client_.stats();
    for (size_t i = 0; i < next_; ++i) {
      const Outcome& seen = outcomes_[i];
      if (cancelled_[i] != 0 || seen.finish != FinishReason::kNone) continue;
      if (requests_[i].leaves == Leaves::kInPrefill && seen.tokens.empty() && stats.running > 0 && events_ % 3 == 0) {
        cancel(i, Reached::kGoneInPrefill);
      } else if (requests_[i].leaves == Leaves::kInDecode &&
                 static_cast<int32_t>(seen.tokens.size()) >= requests_[i].leaves_after) {
        cancel(i, Reached::kGoneInDecode);
      }
    }
  }

  void cancel(size_t index, Reached what) {
    client_.cancel(ids_[index]);
    cancelled_[index] = 1;
    add(what);
  }

  void on_event(const Event& event) {
    ++events_;
    const size_t i = index_.at(event.header.id);
    Outcome& seen = outcomes_[i];
    take(event, &seen);
    if (seen.cached > 0) readers_[event.header.id] = true;
    if (seen.finish == FinishReason::kNone) return;
    ++finished_;
    readers_.erase(event.header.id);
    count_hit(i, event.header);
    compare(i);
  }

  void count_hit(size_t i, const EventHeader& header) {
    if (seen_hits(header)) {
      add(header.cached_count % kGridTokens == 0 ? Reached::kHitOnGrid : Reached::kHitInsidePage);
      const int64_t generated = requests_[i].generated_from;
      if (generated >= 0 && header.cached_count > generated) add(Reached::kHitInGenerated);
    }
  }
  static bool seen_hits(const EventHeader& header) { return header.cached_count > 0; }

  void count_turn() {
    const EngineStats stats = client_.stats();
    if (stats.running >= 48) add(Reached::kCrowded);
    const int64_t evicted = stats.evicted_blocks;
    if (evicted > evicted_ && !readers_.empty()) add(Reached::kEvictedUnderReader);
    evicted_ = evicted;
  }

  // The whole, or what came before the client went away.
  void compare(size_t i) {
    const Outcome& seen = outcomes_[i];
    const Outcome& right = alone_[i];
    const bool cut = seen.finish == FinishReason::kAbort && cancelled_[i] != 0;
    const auto same = [&](const auto& a, const auto& b) {
      return cut ? a.size() <= b.size() && std::equal(a.begin(), a.end(), b.begin()) : a == b;
    };
    if (!cut && seen.finish != right.finish) {
      problems_.push_back(fmt::format("request {} ends with {}, alone with {}", i, static_cast<int>(seen.finish),
                                      static_cast<int>(right.finish)));
    }
    const auto differs = [&](const char* what, const auto& a, const auto& b) {
      if (same(a, b)) return;
      const auto at =
          std::mismatch(a.begin(), a.begin() + static_cast<ptrdiff_t>(std::min(a.size(), b.size())), b.begin());
      problems_.push_back(fmt::format("request {} (prompt of {}, {} reused): {} of {} and {} alone differ from {} on",
                                      i, requests_[i].prompt.size(), seen.cached, what, a.size(), b.size(),
                                      at.first - a.begin()));
    };
    differs("tokens", seen.tokens, right.tokens);
    differs("log-probabilities", seen.logprobs, right.logprobs);
    differs("log-probabilities of the prompt", seen.prompt_logprobs, right.prompt_logprobs);
  }

  Served served_;
  EngineClient client_;
  const std::vector<Request>& requests_;
  const std::vector<Outcome>& alone_;
  Reach* reach_;
  std::vector<Outcome> outcomes_;
  std::vector<SequenceId> ids_;
  std::vector<uint8_t> cancelled_;
  std::map<SequenceId, size_t> index_;
  std::map<SequenceId, bool> readers_;  // live sequences that took pages over
  size_t next_ = 0;
  size_t finished_ = 0;
  int32_t events_ = 0;
  int64_t evicted_ = 0;
  std::vector<std::string> problems_;
};

}  // namespace

Judge::Judge(Model* model) : impl_(std::make_unique<Impl>(model)) {}
Judge::~Judge() = default;

std::vector<std::string> Judge::run(uint64_t seed, Reach* reach) {
  Random random(seed);
  World world = draw_world(&random, impl_->vocabulary, impl_->model->can_draft());
  // Prompts and generated tokens have the same bits on the CPU alone.
  world.config.reuse_generated = impl_->on_cpu;
  const auto beginning = draw_tokens(&random, between(&random, 1, 400), impl_->vocabulary);
  std::vector<Request> requests;
  std::vector<Outcome> alone;
  for (int64_t left = world.crowd ? kCrowd : between(&random, 3, 12); left > 0; --left) {
    requests.push_back(draw_request(&random, requests, alone, beginning, impl_->vocabulary, world.tight));
    if (world.crowd) {
      requests.back().after_events = 0;
      requests.back().sampling.max_tokens = static_cast<int32_t>(between(&random, 40, 80));
    }
    alone.push_back(impl_->alone(requests.back()));
  }
  return Schedule(impl_->model, world, requests, alone, reach).run();
}

}  // namespace weir::equality
