#include "cli/equality/storm.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <random>

#include "cli/equality/served.h"
#include "engine/sim/taken.h"

namespace weir::equality {
namespace {

constexpr int64_t kTimes = 10;           // as much is asked for as there is memory
constexpr int32_t kDecoding = 4;         // sequences without an end
constexpr int32_t kDecodePrompt = 40;    // tokens, less than a page
constexpr int32_t kDecodeAnswer = 256;   // tokens until one begins anew
constexpr int32_t kPrompt = 513;         // tokens of a prompt: eight blocks, and the one that is computed in any case
constexpr int32_t kPromptAnswer = 2;     // tokens
constexpr int32_t kChunk = 256;          // tokens of prompts in a step
constexpr int64_t kInterval = 256;       // tokens between states
constexpr int64_t kComesAgainAfter = 2;  // prompts that came meanwhile: those are still there
constexpr int64_t kPause = 3;            // steps between prompts
constexpr int32_t kVisitors = 2;         // prompts at once: one that comes again, and a new one
constexpr int32_t kPagesASlot = 4;       // where they share their memory
constexpr int32_t kRows = kDecoding + kVisitors;

// Pages of all rows, with one for each to spare, and slots of theirs and of states that are just being saved.
constexpr int64_t kRowPages = kDecoding * (kDecodePrompt + kDecodeAnswer + kGridTokens) / kGridTokens +
                              kVisitors * ((kPrompt + kPromptAnswer + kGridTokens) / kGridTokens) + kRows;
constexpr int64_t kRowSlots = 2 * kRows + 3;

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

World world_of(const Model& model) {
  World world;
  world.limits.rows_max = kRows;
  world.limits.step_tokens_max = kDecoding + kChunk;
  world.limits.sequence_tokens_max = 1024;
  world.limits.vocabulary = static_cast<int32_t>(model.config.vocabulary);
  world.config.prefix_caching = true;
  world.config.checkpoint_interval = kInterval;
  return world;
}

// The prompts of one arrival, in the order in which they are sent.
using Arrival = std::vector<int64_t>;

std::vector<Arrival> draw_arrivals(const StormConfig& config) {
  std::mt19937_64 random(config.seed);
  std::vector<Arrival> arrivals;
  std::vector<int64_t> order(static_cast<size_t>(config.prompts));
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
  std::shuffle(order.begin(), order.end(), random);
  // In one order in both rounds: all others come between.
  for (int round = 0; round < 2; ++round) {
    for (int64_t i = 0; i < config.prompts + kComesAgainAfter; ++i) {
      Arrival& arrival = arrivals.emplace_back();
      if (i >= kComesAgainAfter) arrival.push_back(order[static_cast<size_t>(i - kComesAgainAfter)]);
      if (i < config.prompts) arrival.push_back(order[static_cast<size_t>(i)]);
    }
  }
  return arrivals;
}

std::vector<TokenId> draw_tokens(uint64_t seed, int64_t count, int32_t vocabulary) {
  std::mt19937_64 random(seed);
  std::vector<TokenId> tokens(static_cast<size_t>(count));
  for (TokenId& token : tokens) token = static_cast<TokenId>(random() % static_cast<uint64_t>(vocabulary));
  return tokens;
}

// One run of the schedule.
class Weather {
 public:
  Weather(Machine* machine, const World& world, const StormConfig& config)
      : served_(machine, world),
        client_(served_.client()),
        arrivals_(draw_arrivals(config)),
        vocabulary_(world.limits.vocabulary),
        seed_(config.seed),
        pages_a_slot_(machine->layout().pages_a_slot),
        seen_(static_cast<size_t>(config.prompts)) {
    served_.time_steps([this](const StepPlan& plan, int64_t plan_ns) { on_plan(plan, plan_ns); },
                       [this] { results_ns_.push_back(now_ns()); });
  }

  StormRun run() {
    // They end at different times.
    for (int32_t i = 0; i < kDecoding; ++i) decode(i, kDecodeAnswer * (i + 1) / kDecoding);
    while (next_ < arrivals_.size() || !visitors_.empty()) {
      arrive();
      turn();
    }
    finish();
    for (const auto& [id, which] : decoding_) client_.cancel(id);
    ended_ = true;
    while (!client_.idle()) turn();
    return std::move(run_);
  }

 private:
  struct Planned {
    StepKind kind;
    sim::Taken taken;
    int32_t joining = 0;
    int64_t plan_ns = 0;
    int64_t turn_ns = 0;
    int64_t evicted = 0;
  };
  struct Prompt {
    bool known = false;  // it was there before
    bool hit = false;
    bool lost = false;
  };

  void on_plan(const StepPlan& plan, int64_t plan_ns) {
    Planned& planned = plans_.emplace_back();
    planned.plan_ns = plan_ns;
    planned.taken = sim::taken_by(plan);
    planned.joining = static_cast<int32_t>(planned.taken.slots - planned.taken.saves);
    for (const SequenceWork& work : plan.work) {
      if (work.role == RowRole::kGenerated) {
        planned.kind.generated += work.token_count;
      } else {
        planned.kind.prompts.push_back({work.position, work.position + work.token_count});
      }
    }
  }

  SequenceId submit(const std::vector<TokenId>& prompt, int32_t max_tokens) {
    SamplingParams sampling;
    sampling.seed = seed_;
    sampling.max_tokens = max_tokens;
    return served_.submit(prompt, sampling, {}, 0);
  }

  void decode(int32_t which, int32_t max_tokens) {
    const auto prompt =
        draw_tokens(seed_ + 1'000'000'007U * static_cast<uint64_t>(which + 1), kDecodePrompt, vocabulary_);
    decoding_[submit(prompt, max_tokens)] = which;
  }

  void arrive() {
    if (next_ == arrivals_.size() || !visitors_.empty() || std::ssize(results_ns_) < next_at_) return;
    for (const int64_t which : arrivals_[next_]) {
      const auto prompt = draw_tokens(seed_ * 1'000'003U + static_cast<uint64_t>(which), kPrompt, vocabulary_);
      visitors_[submit(prompt, kPromptAnswer)] = which;
    }
    ++next_;
  }

  void turn() {
    const size_t plans_before = plans_.size();
    const int64_t begin_ns = thread_ns();
    const bool moved = served_.step();
    const int64_t turn_ns = thread_ns() - begin_ns;
    const EngineStats stats = client_.stats();
    const int64_t evicted = stats.evicted_blocks - std::exchange(evicted_, stats.evicted_blocks);
    run_.evicted_most = std::max(run_.evicted_most, evicted);
    int64_t allowed = 0;
    for (size_t i = plans_before; i < plans_.size(); ++i) {
      plans_[i].turn_ns = turn_ns;
      plans_[i].evicted = evicted;
      allowed += plans_[i].taken.evictions_max(pages_a_slot_);
    }
    run_.evicted_beyond = std::max(run_.evicted_beyond, evicted - allowed);
    run_.pages_max = std::max(run_.pages_max, stats.pages_kept);
    run_.states_max = std::max(run_.states_max, stats.checkpoints);
    while (client_.poll(&event_)) on_event();
    if (!moved) served_.wait();
  }

  void on_event() {
    const EventHeader& header = event_.header;
    if (header.finish == FinishReason::kNone) return;
    WEIR_CHECK(ended_ || header.finish == FinishReason::kLength, "sequence {} ends with {}", header.id,
               static_cast<int>(header.finish));
    if (const auto found = decoding_.find(header.id); found != decoding_.end()) {
      const int32_t which = found->second;
      decoding_.erase(found);
      if (!ended_) decode(which, kDecodeAnswer);
      return;
    }
    const auto visitor = visitors_.find(header.id);
    Prompt& prompt = seen_[static_cast<size_t>(visitor->second)];
    const bool hit = header.cached_count > 0;
    const bool lost = !hit && prompt.known;
    prompt.hit |= hit;
    prompt.lost |= lost;
    prompt.known = true;
    ++run_.visits;
    run_.hits += hit ? 1 : 0;
    run_.lost += lost ? 1 : 0;
    visitors_.erase(visitor);
    next_at_ = std::ssize(results_ns_) + kPause;
  }

  void finish() {
    const EngineStats stats = client_.stats();
    run_.pages_kept = stats.pages_kept;
    run_.states_kept = stats.checkpoints;
    run_.evicted_blocks = stats.evicted_blocks;
    run_.evicted_states = stats.evicted_checkpoints;
    run_.preemptions = stats.preemptions;
    for (const Prompt& prompt : seen_) run_.prompts_both += prompt.hit && prompt.lost ? 1 : 0;
    // The plan behind the next is made while a step runs.
    for (size_t i = 1; i < results_ns_.size() && i + 1 < plans_.size(); ++i) {
      const Planned& made = plans_[i + 1];
      run_.steps.push_back(
          {plans_[i].kind, results_ns_[i] - results_ns_[i - 1], made.plan_ns, made.turn_ns, made.evicted});
      run_.steps.back().kind.joining = made.joining;
    }
  }

  Served served_;
  EngineClient client_;
  const std::vector<Arrival> arrivals_;
  const int32_t vocabulary_;
  const uint64_t seed_;
  const int64_t pages_a_slot_;
  std::vector<Prompt> seen_;
  std::vector<Planned> plans_;
  std::vector<int64_t> results_ns_;
  std::map<SequenceId, int32_t> decoding_;
  std::map<SequenceId, int64_t> visitors_;
  size_t next_ = 0;      // arrival
  int64_t next_at_ = 0;  // results
  int64_t evicted_ = 0;
  bool ended_ = false;
  Event event_;
  StormRun run_;
};

// Room for everything: the prompts' blocks and states, and the rows'.
World whole_world(const Model& model, const StormConfig& config) {
  World world = world_of(model);
  const int64_t pages = config.prompts * pages_of(kPrompt) + kDecoding * kTimes + kRowPages;
  const int64_t states = config.prompts * (kPrompt / kInterval + 1) + kDecoding * kTimes + kRowSlots;
  world.limits.state_slots = static_cast<int32_t>(states);
  world.limits.pages = {static_cast<int32_t>(pages + (config.one_memory ? kPagesASlot * states : 0))};
  world.pages_a_slot = config.one_memory ? kPagesASlot : 0;
  return world;
}

// A tenth of what was kept, and the rows' memory is part of it.
Result<World> tenth_of(const World& whole, const CacheLayout& layout, const StormRun& kept) {
  World world = whole;
  const auto pages = static_cast<int32_t>(kept.pages_kept / kTimes);
  const auto states = static_cast<int32_t>(kept.states_kept / kTimes);
  world.limits.pages = {pages};
  world.limits.state_slots = states;
  int64_t for_rows = pages;
  if (layout.pages_a_slot > 0) {
    world.limits.state_slots = pages / layout.pages_a_slot + states;
    world.limits.pages = {std::max(1, pages_alone_max(layout, world.limits, 0))};
    for_rows = world.limits.pages.front();
  }
  const bool states_fit = layout.state_slot_bytes == 0 || world.limits.state_slots >= kRowSlots;
  if (for_rows >= kRowPages && states_fit) return world;
  return with_remedy(make_error(ErrorCode::kInvalidArgument,
                                "a tenth of what the prompts leave is {} pages and {} states, the rows alone need {} "
                                "and {}",
                                for_rows, world.limits.state_slots, kRowPages, kRowSlots),
                     "give more prompts");
}

double oversubscribed(const StormRun& kept, const CacheLayout& layout, const RunnerLimits& limits) {
  const auto over = [](int64_t asked, int64_t there) {
    return static_cast<double>(asked) / static_cast<double>(there);
  };
  if (layout.pages_a_slot > 0)
    return over(kept.pages_kept / layout.pages_a_slot + kept.states_kept, limits.state_slots);
  const double pages = over(kept.pages_kept, limits.pages.front());
  return layout.state_slot_bytes > 0 ? std::min(pages, over(kept.states_kept, limits.state_slots)) : pages;
}

Status check_same_plans(const std::vector<StormStep>& first, const std::vector<StormStep>& again) {
  for (size_t i = 0; i < std::max(first.size(), again.size()); ++i) {
    if (i < std::min(first.size(), again.size()) && first[i].kind == again[i].kind &&
        first[i].evicted == again[i].evicted) {
      continue;
    }
    return make_error(ErrorCode::kInternal,
                      "the schedule was planned otherwise when it was repeated, from step {} of {} on", i,
                      first.size());
  }
  return Ok{};
}

}  // namespace

std::string StepKind::text() const {
  std::string out = fmt::format("{} generated", generated);
  for (const auto& [begin, end] : prompts) out += fmt::format(" + [{}, {})", begin, end);
  if (joining > 0) out += fmt::format(", {} to join", joining);
  return out;
}

std::vector<StormStep> StormRuns::middle() const {
  std::vector<StormStep> steps = runs.front().steps;
  std::vector<int64_t> times;
  for (const auto time : {&StormStep::ns, &StormStep::plan_ns, &StormStep::turn_ns}) {
    for (size_t i = 0; i < steps.size(); ++i) {
      times.clear();
      for (const StormRun& run : runs) times.push_back(run.steps[i].*time);
      const auto middle = times.begin() + (std::ssize(times) - 1) / 2;
      std::nth_element(times.begin(), middle, times.end());
      steps[i].*time = *middle;
    }
  }
  return steps;
}

Result<Storm> run_storm(Model* model, const StormConfig& config, const Deadline& deadline) {
  const World whole = whole_world(*model, config);
  // One for all runs: what a device records of a kind of step is there when it is timed.
  Machine machine(model, whole.limits, whole.pages_a_slot);
  const auto run = [&](const World& world, StormRuns* runs) {
    runs->runs.push_back(Weather(&machine, world, config).run());
    return check_same_plans(runs->runs.front().steps, runs->runs.back().steps);
  };
  Storm storm;
  WEIR_RETURN_IF_ERROR(run(whole, &storm.whole));
  const StormRun& kept = storm.whole.runs.front();
  WEIR_CHECK(kept.evicted_blocks == 0, "{} blocks were evicted from memory for everything", kept.evicted_blocks);
  WEIR_ASSIGN_OR_RETURN(const World tenth, tenth_of(whole, machine.layout(), kept));
  storm.oversubscribed = oversubscribed(kept, machine.layout(), tenth.limits);
  WEIR_RETURN_IF_ERROR(run(tenth, &storm.tenth));
  const auto another = [&](int64_t i) {
    if (deadline.passed() || i >= config.repeats_max) return false;
    return i < config.repeats || any_too_long(by_kind(storm.tenth.middle(), storm.whole.middle()));
  };
  for (int64_t i = 1; another(i); ++i) {
    WEIR_RETURN_IF_ERROR(run(whole, &storm.whole));
    WEIR_RETURN_IF_ERROR(run(tenth, &storm.tenth));
  }
  return storm;
}

bool any_too_long(const std::vector<KindTimes>& kinds) {
  return std::any_of(kinds.begin(), kinds.end(), [](const KindTimes& kind) { return kind.too_long(); });
}

std::vector<KindTimes> by_kind(const std::vector<StormStep>& steps, const std::vector<StormStep>& whole) {
  using Steps = std::vector<const StormStep*>;
  const auto sorted = [](const std::vector<StormStep>& all) {
    std::map<StepKind, Steps> kinds;
    for (const StormStep& step : all) kinds[step.kind].push_back(&step);
    for (auto& [kind, of_kind] : kinds) {
      std::sort(of_kind.begin(), of_kind.end(), [](const auto* a, const auto* b) { return a->ns < b->ns; });
    }
    return kinds;
  };
  const auto us = [](const StormStep* step) { return static_cast<double>(step->ns) / 1e3; };
  const auto at = [&](const Steps& of_kind, size_t hundredths) {
    return us(of_kind[(of_kind.size() - 1) * hundredths / 100]);
  };
  const auto with_all = sorted(whole);
  std::vector<KindTimes> kinds;
  for (const auto& [kind, of_kind] : sorted(steps)) {
    KindTimes& times = kinds.emplace_back();
    times.kind = kind;
    times.steps = std::ssize(of_kind);
    times.median = at(of_kind, 50);
    times.p99 = at(of_kind, 99);
    for (const StormStep* step : of_kind) {
      times.evicting += step->evicted > 0 ? 1 : 0;
      (step->evicted > 0 ? times.evicting_max : times.others_max) = us(step);
    }
    const auto same = with_all.find(kind);
    if (same == with_all.end()) continue;
    times.whole_steps = std::ssize(same->second);
    times.whole_median = at(same->second, 50);
    times.whole_max = at(same->second, 100);
  }
  std::stable_sort(kinds.begin(), kinds.end(), [](const auto& a, const auto& b) { return a.steps > b.steps; });
  return kinds;
}

}  // namespace weir::equality
