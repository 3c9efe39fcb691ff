#include "cli/equality/equality.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "cli/equality/catalogue.h"
#include "cli/equality/served.h"

namespace weir::equality {
namespace {

// A schedule ends within seconds; one that does not hangs.
constexpr int64_t kTurnsMax = 2'000'000;
constexpr int32_t kCrowd = 64;
constexpr int32_t kStarved = 3;  // long answers, one long prompt behind them
constexpr int32_t kCrowdAnswer = 20;
constexpr int32_t kCrowdPages = 400;  // for all of a crowd, each with 400 tokens
constexpr int32_t kCrowdTokens = 1500;
constexpr int32_t kSlotsBeside = 20;  // for states that are kept
constexpr int64_t kPagesAlone = kContext / kGridTokens;

enum class Leaves : uint8_t { kNever, kQueued, kInPrefill, kInDecode };

// A request of the catalogue as one schedule has it.
struct Use {
  const Request* request = nullptr;
  const Outcome* alone = nullptr;  // its longest answer
  int32_t max_tokens = 0;
  CacheSalt salt{};
  int64_t after = -1;        // it comes when this use has ended,
  int32_t after_events = 0;  // and so many events have been read
  Leaves leaves = Leaves::kNever;
  int32_t leaves_after = 0;  // tokens, for kInDecode
  int64_t tokens_max() const { return static_cast<int64_t>(request->prompt.size()) + max_tokens; }
};

EngineConfig engine_config() {
  EngineConfig config;
  // A crowd's, twice: what a server reserves for its queue costs more than a schedule.
  config.queue_requests_max = 2 * kCrowd;
  config.queue_tokens_max = config.queue_requests_max * kContext;
  config.event_ring_bytes = 1 << 20;
  return config;
}

World cold_world(int32_t vocabulary) {
  World world;
  world.config = engine_config();
  world.limits.rows_max = 1;
  world.limits.step_tokens_max = 256;
  world.limits.state_slots = 1;
  world.limits.pages = {static_cast<int32_t>(kPagesAlone)};
  world.limits.sequence_tokens_max = kContext;
  world.limits.vocabulary = vocabulary;
  return world;
}

// What holds every world.
RunnerLimits widest(int32_t vocabulary, int32_t drafts) {
  RunnerLimits limits = cold_world(vocabulary).limits;
  limits.rows_max = kCrowd;
  limits.step_tokens_max = kCrowdTokens;
  limits.steps_in_flight = 3;
  limits.pages = {kCrowdPages};
  limits.state_slots = kCrowd + kSlotsBeside;
  limits.drafts_max = drafts;
  return limits;
}

World draw_world(Random* random, int32_t vocabulary, bool drafts) {
  World world = cold_world(vocabulary);
  RunnerLimits& limits = world.limits;
  const int64_t kind = between(random, 0, 49);
  world.crowd = kind == 0;
  world.starved = kind == 1;
  world.tight = kind >= 2 && kind < 10;
  // Many rows, few small chunks: steps are what a schedule costs on a GPU.
  limits.rows_max = static_cast<int32_t>(pick(random, {1, 2, 4, 8, 8, 16, 16, 16}));
  if (world.tight) limits.rows_max = 8;
  if (world.starved) limits.rows_max = kStarved + 1;
  limits.step_tokens_max = limits.rows_max + static_cast<int32_t>(pick(random, {7, 40, 64, 130, 130, 512, 512, 512}));
  if (world.crowd) {
    limits.rows_max = kCrowd;
    limits.step_tokens_max = static_cast<int32_t>(pick(random, {600, kCrowdTokens}));
  }
  limits.steps_in_flight = static_cast<int32_t>(pick(random, {1, 2, 2, 2, 3}));
  if (drafts) limits.drafts_max = static_cast<int32_t>(pick(random, {0, 1, 2, 3, 7, 7}));
  world.config.adaptive_drafts = one_in(random, 3);
  limits.state_slots = limits.rows_max + static_cast<int32_t>(between(random, 0, pick(random, {2, 6, kSlotsBeside})));
  world.config.prefix_caching = true;
  world.config.checkpoint_interval = pick(random, {0, 64, 64, 128, 256});
  world.config.cache_seed = (*random)();
  world.config.prefill_chunk_max = static_cast<int32_t>(pick(random, {0, 0, 0, 29, 64, 100}));
  if (world.starved) {
    limits.step_tokens_max = 64;
    world.config.prefill_chunk_max = static_cast<int32_t>(between(random, 3, 4));
  }
  return world;
}

// From what the longest needs to enough that nothing is ever evicted.
int32_t draw_pages(Random* random, const World& world, const std::vector<Use>& uses) {
  if (world.crowd) return kCrowdPages;
  int64_t longest = 0;
  int64_t all = 0;
  for (const Use& use : uses) {
    longest = std::max(longest, pages_of(use.tokens_max()));
    all += pages_of(static_cast<int64_t>(use.request->prompt.size()) + 1);
  }
  // The long prompt is let in, with a page for each of the others to come; one of them needs its second before it ends.
  if (world.starved) return static_cast<int32_t>(std::max(longest, all + kStarved));
  if (world.tight) return static_cast<int32_t>(longest + between(random, 0, 1));
  if (one_in(random, 3)) return static_cast<int32_t>(longest + between(random, 0, 4));
  return static_cast<int32_t>(longest + between(random, 0, kPagesAlone * 4));
}

Use whole(const Catalogue::Entry& entry) {
  Use use;
  use.request = &entry.request;
  use.alone = &entry.alone;
  use.max_tokens = entry.request.sampling.max_tokens;
  return use;
}

// A member as a schedule has it.
Use draw_use(Random* random, const World& world, const Catalogue::Entry& entry) {
  Use use = whole(entry);
  if (world.crowd) {
    use.max_tokens = std::min(use.max_tokens, kCrowdAnswer);
  } else if (world.tight) {
    use.max_tokens = std::min(use.max_tokens, 64);
    use.after_events = static_cast<int32_t>(between(random, 0, 3));
  } else {
    if (one_in(random, 2)) use.max_tokens = static_cast<int32_t>(between(random, 0, std::min(use.max_tokens, 20)));
    use.after_events = static_cast<int32_t>(between(random, 0, pick(random, {1, 8, 40})));
  }
  if (one_in(random, 12)) use.salt = {7, 0, 0, 0};
  if (one_in(random, 6)) {
    use.leaves = pick(random, {Leaves::kQueued, Leaves::kInPrefill, Leaves::kInPrefill, Leaves::kInDecode});
    use.leaves_after = static_cast<int32_t>(between(random, 1, 12));
  }
  return use;
}

// Long answers of tenants of their own, and the longest prompt behind them.
std::vector<Use> draw_starved(Random* random, Catalogue* catalogue) {
  std::vector<Use> uses;
  const Catalogue::Entry* answer = nullptr;
  const Catalogue::Entry* prompt = nullptr;
  for (int64_t family = 0; family < Catalogue::kFamilies; ++family) {
    for (int64_t member = 0; member < Catalogue::kMembers; ++member) {
      const Catalogue::Entry& entry = catalogue->at(family, member);
      const auto better = [&](const Catalogue::Entry* best, const auto& length) {
        return best == nullptr || length(entry) > length(*best);
      };
      if (better(answer, [](const auto& e) { return 4 * std::ssize(e.alone.tokens) - std::ssize(e.request.prompt); })) {
        answer = &entry;
      }
      if (better(prompt, [](const auto& e) { return std::ssize(e.request.prompt); })) prompt = &entry;
    }
  }
  for (uint64_t i = 0; i < kStarved; ++i) {
    uses.push_back(whole(*answer));
    uses.back().salt = {100 + i, 0, 0, 0};
  }
  uses.push_back(whole(*prompt));
  uses.back().max_tokens = std::min(uses.back().max_tokens, 8);
  uses.back().after_events = static_cast<int32_t>(between(random, 0, 4 * kStarved));
  return uses;
}

// Members of a family or two, most of them in the order in which they go on from each other.
std::vector<Use> draw_uses(Random* random, const World& world, Catalogue* catalogue) {
  if (world.starved) return draw_starved(random, catalogue);
  std::array<int64_t, 2> families{};
  std::vector<std::pair<int64_t, int64_t>> places;  // member and family
  for (int64_t left = world.crowd ? kCrowd : between(random, 4, 12); left > 0; --left) {
    if (world.crowd || places.empty()) {
      for (int64_t& family : families) family = between(random, 0, Catalogue::kFamilies - 1);
    }
    places.emplace_back(between(random, 0, Catalogue::kMembers - 1),
                        families[static_cast<size_t>(between(random, 0, 1))]);
    // A crowd is one while all are there.
    const bool brief = std::ssize(catalogue->at(places.back().second, places.back().first).alone.tokens) < kCrowdAnswer;
    if (world.crowd && brief && !one_in(random, 8)) {
      places.pop_back();
      ++left;
    }
  }
  if (!one_in(random, 4)) std::sort(places.begin(), places.end());
  std::vector<Use> uses;
  for (const auto& [member, family] : places) {
    const Catalogue::Entry& entry = catalogue->at(family, member);
    Use use = draw_use(random, world, entry);
    // A conversation that goes on: the turn before it, whole.
    if (entry.request.generated_from >= 0 && !world.crowd && !world.tight && one_in(random, 2)) {
      Use turn = whole(catalogue->at(family, entry.request.parent));
      turn.salt = use.salt;
      use.after = static_cast<int64_t>(uses.size());
      use.after_events = 0;
      uses.push_back(turn);
    }
    uses.push_back(use);
  }
  return uses;
}

// One schedule in its world.
class Schedule {
 public:
  Schedule(Served* served, const std::vector<Use>& uses, Reach* reach)
      : served_(served),
        client_(served_->client()),
        uses_(uses),
        reach_(reach),
        outcomes_(uses.size()),
        ids_(uses.size()),
        cancelled_(uses.size()) {}

  std::vector<std::string> run() {
    for (int64_t turn = 0; finished_ < uses_.size() && problems_.empty(); ++turn) {
      if (turn > kTurnsMax) problems_.push_back("no end");
      submit_what_is_due();
      leave();
      served_->turn();
      while (client_.poll(&event_)) on_event();
      count_turn();
    }
    count_end();
    return problems_;
  }

 private:
  void add(Reached what, int64_t count = 1) { (*reach_)[static_cast<size_t>(what)] += count; }

  void submit_what_is_due() {
    // Nothing more will come of the engine alone.
    bool idle = submitted_ == finished_;
    for (size_t i = 0; i < uses_.size(); ++i) {
      const Use& use = uses_[i];
      if (ids_[i] != 0) continue;
      if (use.after >= 0 && outcomes_[static_cast<size_t>(use.after)].finish == FinishReason::kNone) continue;
      if (use.after_events > events_ && !idle) continue;
      submit(i);
      idle = false;
    }
  }

  void submit(size_t i) {
    const Use& use = uses_[i];
    SamplingParams sampling = use.request->sampling;
    sampling.max_tokens = use.max_tokens;
    ids_[i] = served_->submit(use.request->prompt, sampling, use.salt, use.request->suffix_count);
    index_[ids_[i]] = i;
    ++submitted_;
    add(Reached::kRequests);
    if (sampling.temperature > 0) add(Reached::kSampled);
    if (has_penalties(sampling)) add(Reached::kWithPenalties);
    if (use.salt != CacheSalt{}) add(Reached::kSalted);
    if (use.leaves == Leaves::kQueued) cancel(i);
  }

  void leave() {
    const EngineStats stats = client_.stats();
    for (size_t i = 0; i < uses_.size(); ++i) {
      const Outcome& seen = outcomes_[i];
      if (ids_[i] == 0 || cancelled_[i] != 0 || seen.finish != FinishReason::kNone) continue;
      const bool in_prefill =
          uses_[i].leaves == Leaves::kInPrefill && seen.tokens.empty() && stats.running > 0 && events_ % 3 == 0;
      const bool in_decode =
          uses_[i].leaves == Leaves::kInDecode && static_cast<int32_t>(seen.tokens.size()) >= uses_[i].leaves_after;
      if (in_prefill || in_decode) cancel(i);
    }
  }

  void cancel(size_t index) {
    client_.cancel(ids_[index]);
    cancelled_[index] = 1;
  }

  void on_event() {
    ++events_;
    const size_t i = index_.at(event_.header.id);
    Outcome& seen = outcomes_[i];
    take(event_, &seen);
    if (seen.cached > 0) readers_.insert(event_.header.id);
    if (seen.finish == FinishReason::kNone) return;
    ++finished_;
    readers_.erase(event_.header.id);
    if (seen.finish == FinishReason::kAbort) {
      const bool prefill = event_.header.admitted_us != 0 && seen.tokens.empty();
      add(prefill ? Reached::kGoneInPrefill : seen.tokens.empty() ? Reached::kGoneQueued : Reached::kGoneInDecode);
    }
    if (seen.cached > 0) count_hit(i);
    compare(i);
  }

  void count_hit(size_t i) {
    const int64_t cached = outcomes_[i].cached;
    add(cached % kGridTokens == 0 ? Reached::kHitOnGrid : Reached::kHitInsidePage);
    const Request& request = *uses_[i].request;
    if (request.generated_from < 0 || cached <= request.generated_from) return;
    // Unless it was another's prompt.
    const auto shared_end = request.prompt.begin() + cached;
    for (size_t other = 0; other < uses_.size(); ++other) {
      const auto& prompt = uses_[other].request->prompt;
      if (other != i && ids_[other] != 0 && static_cast<int64_t>(prompt.size()) >= cached &&
          std::equal(request.prompt.begin(), shared_end, prompt.begin())) {
        return;
      }
    }
    add(Reached::kHitInGenerated);
  }

  void count_turn() {
    const EngineStats stats = client_.stats();
    if (stats.running >= 48) add(Reached::kCrowded);
    const int64_t evicted = stats.evicted_blocks;
    if (evicted > evicted_ && !readers_.empty()) add(Reached::kEvictedUnderReader);
    evicted_ = evicted;
  }

  void count_end() {
    const EngineStats stats = client_.stats();
    const Passed& passed = served_->passed();
    add(Reached::kPreempted, stats.preemptions);
    // Who left so was preempted, or its client went away.
    const auto gone = std::count(cancelled_.begin(), cancelled_.end(), 1);
    add(Reached::kPreemptedInPrompt,
        std::clamp<int64_t>(passed.left_in_prompt - static_cast<int64_t>(gone), 0, stats.preemptions));
    add(Reached::kEvicted, stats.evicted_blocks);
    add(Reached::kStateEvicted, stats.evicted_checkpoints);
    add(Reached::kWithDrafts, stats.draft_rounds > 0 ? 1 : 0);
    add(Reached::kDraftTokens, stats.draft_tokens);
    add(Reached::kAcceptedTokens, stats.accepted_tokens);
    for (size_t i = 0; i < passed.rejected.size(); ++i) {
      (*reach_)[static_cast<size_t>(Reached::kRejected1) + i] += passed.rejected[i];
    }
    // What shared memory has free may be a state next.
    const bool shared = served_->layout().pages_a_slot > 0;
    if (shared) add(Reached::kShared);
    if (problems_.empty() && !shared && stats.pages_free + stats.pages_kept != stats.pages_total) {
      problems_.push_back(
          fmt::format("of {} pages {} are free and {} kept", stats.pages_total, stats.pages_free, stats.pages_kept));
    }
  }

  // The whole, or what came before the client went away.
  void compare(size_t i) {
    const Outcome& seen = outcomes_[i];
    const Outcome right = beginning_of(*uses_[i].alone, uses_[i].max_tokens);
    const bool cut = seen.finish == FinishReason::kAbort && cancelled_[i] != 0;
    const auto who =
        fmt::format("request {} (prompt of {}, {} reused)", i, uses_[i].request->prompt.size(), seen.cached);
    const auto different = differences(who, seen, right, "alone", cut);
    problems_.insert(problems_.end(), different.begin(), different.end());
  }

  Served* served_;
  EngineClient client_;
  const std::vector<Use>& uses_;
  Reach* reach_;
  std::vector<Outcome> outcomes_;
  std::vector<SequenceId> ids_;
  std::vector<uint8_t> cancelled_;
  std::map<SequenceId, size_t> index_;
  std::set<SequenceId> readers_;  // live sequences that took pages over
  Event event_;
  size_t submitted_ = 0;
  size_t finished_ = 0;
  int32_t events_ = 0;
  int64_t evicted_ = 0;
  std::vector<std::string> problems_;
};

}  // namespace

struct Judge::Impl {
  explicit Impl(Model* model_given)
      : model(model_given),
        vocabulary(static_cast<int32_t>(model->config.vocabulary)),
        cold(model, cold_world(vocabulary)) {}

  Catalogue* catalogue_of(uint64_t seed) {
    if (!catalogue || block != seed / kBlockSchedules) {
      block = seed / kBlockSchedules;
      catalogue.emplace(block, &cold, vocabulary);
    }
    return &*catalogue;
  }

  // Pages of a unit in the machines that share memory: another number for another model, and with drafts.
  int32_t pages_a_slot(bool drafts) const {
    constexpr std::array<int32_t, 3> kPagesASlot = {1, 2, 5};
    return kPagesASlot[(static_cast<size_t>(vocabulary) + model->config.layers.size() + (drafts ? 1 : 0)) % 3];
  }

  // Those of worlds with and without drafts, a draft head changes how steps follow each other, and of worlds whose
  // pages and slots share their memory and those where each has its own.
  Machine* machine_of(World* world) {
    const bool drafts = world->limits.drafts_max > 0;
    if (world->pages_a_slot > 0) world->pages_a_slot = pages_a_slot(drafts);
    auto& machine = machines[(drafts ? 1U : 0U) + (world->pages_a_slot > 0 ? 2U : 0U)];
    if (!machine) {
      machine = std::make_unique<Machine>(model, widest(vocabulary, drafts ? kDraftsMax : 0), world->pages_a_slot);
    }
    return machine.get();
  }

  Model* model;
  bool on_cpu = model->device_text().starts_with("CPU");
  int32_t vocabulary;
  Served cold;
  std::array<std::unique_ptr<Machine>, 4> machines;
  std::optional<Catalogue> catalogue;
  uint64_t block = 0;
  Work work;
};

Judge::Judge(Model* model) : impl_(std::make_unique<Impl>(model)) {}
Judge::~Judge() = default;

bool Judge::reaches(Reached what) const {
  if (what == Reached::kHitInGenerated) return impl_->on_cpu;
  if (what >= Reached::kWithDrafts && what <= Reached::kRejected7) return impl_->model->can_draft();
  return true;
}

Work Judge::work() const {
  Work work = impl_->work;
  work.alone = impl_->cold.client().stats().admitted;
  work.alone_steps = impl_->cold.passed().steps;
  work.alone_rows = impl_->cold.passed().rows;
  return work;
}

std::vector<std::string> Judge::run(uint64_t seed, Reach* reach) {
  Random random(seed);
  World world = draw_world(&random, impl_->vocabulary, impl_->model->can_draft());
  // Prompts and generated tokens have the same bits on the CPU alone.
  world.config.reuse_generated = impl_->on_cpu;
  const std::vector<Use> uses = draw_uses(&random, world, impl_->catalogue_of(seed));
  world.limits.pages = {draw_pages(&random, world, uses)};
  // Some have a runner of their own, with no more memory than they may use.
  const bool own = one_in(&random, 100);
  // Who is to starve does so by single pages, which units of several would hide.
  const bool shares = one_in(&random, 2) && !world.starved;
  if (shares) world.pages_a_slot = static_cast<int32_t>(pick(&random, {1, 2, 5}));
  std::optional<Served> served;
  if (own) {
    served.emplace(impl_->model, world);
  } else {
    Machine* machine = impl_->machine_of(&world);
    served.emplace(machine, world);
  }
  auto problems = Schedule(&*served, uses, reach).run();
  impl_->work.steps += served->passed().steps;
  impl_->work.rows += served->passed().rows;
  return problems;
}

}  // namespace weir::equality
