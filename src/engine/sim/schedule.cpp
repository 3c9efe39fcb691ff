#include "engine/sim/schedule.h"

#include <fmt/core.h>

#include <algorithm>
#include <deque>

#include "engine/engine.h"
#include "engine/sim/draw.h"
#include "engine/sim/runners.h"
#include "engine/sim/validator.h"

namespace weir::sim {

namespace {

// A schedule of at most 20 requests of at most 260 tokens, one token a step and each recomputed a few times, ends far
// below this; one that does not has stopped making progress.
constexpr int64_t kTurnsMax = 60'000;

class Digest {
 public:
  void add(int64_t value) { value_ = (value_ ^ static_cast<uint64_t>(value)) * 1099511628211U ^ value_ >> 29; }
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 1469598103934665603U;
};

void add_plan(const StepPlan& plan, Digest* digest) {
  digest->add(static_cast<int64_t>(plan.id));
  for (const Edit& edit : plan.edits) {
    for (const int64_t value : {static_cast<int64_t>(edit.kind), int64_t{edit.row.value()}, int64_t{edit.state.value()},
                                int64_t{edit.page_class.value()}, int64_t{edit.first}, int64_t{edit.count},
                                edit.prompt_length, edit.position}) {
      digest->add(value);
    }
  }
  for (const SequenceWork& work : plan.work) {
    for (const int64_t value :
         {int64_t{work.row.value()}, static_cast<int64_t>(work.role), int64_t{work.sample}, int64_t{work.token_count},
          int64_t{work.draft_count}, int64_t{work.propose_count}, int64_t{work.first_token}, work.position}) {
      digest->add(value);
    }
  }
  for (const TokenId token : plan.tokens) digest->add(token);
  for (const PageId page : plan.pages) digest->add(page.value());
}

class Schedule {
 public:
  Schedule(uint64_t seed, bool remember_lookups)
      : random_(seed),
        world_(world(&random_, remember_lookups)),
        requests_(draw_requests(&random_, world_)),
        runner_(world_.layout, world_.limits, &clock_),
        engine_(std::move(Engine::create(world_.config, world_.layout, &runner_, &clock_, &wake_)).value()),
        client_(engine_.client()),
        validator_(rules(), &reach_) {
    runner_.set_observer([this](const StepPlan& plan, const StepResult&) { plans_.push_back(plan); });
  }

  ScheduleResult run() {
    while (!done() && validator_.violations().empty()) {
      act();
      turn();
      if (++turns_ > kTurnsMax) {
        const EngineStats stats = client_.stats();
        validator_.violate(fmt::format(
            "no end after {} turns: {} requests of {} sent, {} waiting, {} running, {} preempted, {} steps", kTurnsMax,
            next_request_, requests_.size(), stats.waiting, stats.running, stats.preempted, stats.steps));
      }
    }
    if (validator_.violations().empty()) validator_.on_idle(client_.stats(), client_.stats().faulted);
    return finish();
  }

 private:
  static World world(Random* random, bool remember_lookups) {
    World world = draw_world(random);
    world.config.remember_lookups = remember_lookups;
    return world;
  }

  Rules rules() const {
    Rules rules;
    rules.aging_us = world_.config.aging_us;
    rules.tokens_max = world_.limits.sequence_tokens_max;
    rules.vocabulary = world_.limits.vocabulary;
    rules.rows_max = world_.limits.rows_max;
    for (size_t i = 0; i < world_.layout.classes.size(); ++i) {
      const int64_t width = world_.layout.classes[i].tokens_per_page;
      rules.tokens_per_page.push_back(static_cast<int32_t>(width));
      rules.tokens_max = std::min(rules.tokens_max, width * pages_alone_max(world_.layout, world_.limits, i));
      rules.pages_a_slot += world_.layout.pages_a_slot;
      if (rules.pages_a_slot > 0) rules.shared_pages += world_.limits.pages[i];
    }
    return rules;
  }

  bool done() const {
    if (next_request_ < requests_.size() || !client_.idle()) return false;
    const EngineStats stats = client_.stats();
    // A step's result may wait for room in the event ring when nobody is left to want it.
    return (runner_.in_flight() == 0 && stats.steps_in_flight == 0) ||
           stats.faulted;  // after a fault the engine asks for no step any more
  }

  // What the server does between two turns.
  void act() {
    if (turns_ == world_.fault_turn) runner_.fail_next();
    if (turns_ == world_.drain_turn) {
      client_.begin_drain();
      reach_.add(Reached::kDrain);
    }
    if (random_.one_in(50)) reserve_and_return();
    while (next_request_ < requests_.size() && requests_[next_request_].arrival_us <= clock_.now_us()) {
      if (!submit(&requests_[next_request_])) break;
      ++next_request_;
    }
    for (Request* request : submitted_) consider_cancel(request);
  }

  void reserve_and_return() {
    if (client_.try_reserve(static_cast<int32_t>(random_.between(1, 2))).ok()) reach_.add(Reached::kTicketReturned);
  }

  // Returns whether the request is dealt with; a full queue makes most clients come again.
  bool submit(Request* request) {
    Result<Ticket> ticket = client_.try_reserve(1);
    if (!ticket.ok()) {
      if (ticket.error().code != ErrorCode::kExhausted) return true;  // draining or faulted: never again
      reach_.add(Reached::kQueueFull);
      return random_.one_in(4);
    }
    if (request->follows >= 0) continue_conversation(request);
    GenerateHeader& header = request->header;
    header.id = client_.next_id();
    header.arrival_us = std::max(request->arrival_us, clock_.now_us() - random_.between(0, 200));
    header.sampling.seed = header.id;
    const Status status = client_.submit(&*ticket, header, request->prompt);
    const auto needed = static_cast<int64_t>(request->prompt.size()) + (header.sampling.max_tokens > 0 ? 1 : 0);
    const auto prompt_count = static_cast<int64_t>(request->prompt.size());
    const bool fits = needed <= rules().tokens_max && prompt_count <= world_.config.queue_tokens_max;
    if (status.ok()) {
      if (!fits) validator_.violate(fmt::format("a prompt of {} tokens was accepted", prompt_count));
      validator_.on_submit(header, request->prompt, request->generated_from);
      submitted_.push_back(request);
      return true;
    }
    switch (status.error().code) {
      case ErrorCode::kInvalidArgument:
        if (fits) validator_.violate("refused: " + status.error().text());
        reach_.add(Reached::kRefusedTooLong);
        return true;
      case ErrorCode::kExhausted:
        reach_.add(Reached::kQueueTokensFull);
        return random_.one_in(4);
      default:
        return true;
    }
  }

  // The prompt becomes the next turn behind a request's prompt and what came back of it.
  void continue_conversation(Request* request) {
    const Request& before = requests_[static_cast<size_t>(request->follows)];
    request->follows = -1;
    if (before.header.id == 0) return;
    std::vector<TokenId> tokens = before.prompt;
    const std::vector<TokenId> outputs = validator_.outputs(before.header.id);
    request->generated_from = static_cast<int64_t>(tokens.size());
    tokens.insert(tokens.end(), outputs.begin(), outputs.end());
    request->prompt.resize((request->prompt.size() + 3) / 4);
    tokens.insert(tokens.end(), request->prompt.begin(), request->prompt.end());
    tokens.resize(std::min(tokens.size(), static_cast<size_t>(rules().tokens_max)));
    request->prompt = std::move(tokens);
  }

  void consider_cancel(Request* request) {
    if (!request->cancels || validator_.view(request->header.id) != request->cancel_in) return;
    if (request->cancel_after-- > 0) return;
    request->cancels = random_.one_in(10);  // some clients say it twice
    client_.cancel(request->header.id);
    if (random_.one_in(20)) client_.cancel(client_.next_id());  // nobody's
    validator_.on_cancel(request->header.id);
  }

  void turn() {
    runner_.set_latency_us(random_.between(0, world_.latency_max_us));
    validator_.on_turn_begin();
    plans_.clear();
    const int64_t stalls = client_.stats().event_stalls;
    engine_.step();
    if (client_.stats().event_stalls > stalls) reach_.add(Reached::kEventStall);
    if (!world_.late || random_.one_in(200)) {
      while (client_.poll(&event_)) validator_.on_event(event_);
    }
    for (const StepPlan& plan : plans_) add_plan(plan, &digest_);
    for (const StepPlan& plan : plans_) validator_.on_plan(plan, world_.late);
    validator_.on_turn_end(client_.stats(), runner_.executor().rows(), world_.late);
    for (const std::string& violation : runner_.executor().violations()) validator_.violate(violation);
    clock_.advance_us(random_.between(0, world_.turn_max_us));
    if (runner_.in_flight() == 0 && next_request_ < requests_.size() && client_.idle()) {
      clock_.advance_us(std::max<int64_t>(0, requests_[next_request_].arrival_us - clock_.now_us()));
    }
  }

  ScheduleResult finish() {
    const EngineStats stats = client_.stats();
    ScheduleResult result;
    result.violations = validator_.violations();
    result.turns = turns_;
    result.steps = stats.steps;
    for (const int64_t count : {stats.matched_tokens, stats.cached_tokens, stats.lost_to_checkpoint,
                                stats.lost_to_eviction, stats.evicted_blocks, stats.evicted_checkpoints}) {
      digest_.add(count);
    }
    result.plans = digest_.value();
    result.lookups = stats.lookups;
    result.comparisons = stats.comparisons;
    reach_.add(Reached::kStopOvershoot, runner_.executor().overshoots());
    reach_.add(Reached::kPriorityOvertakes, stats.overtakes);
    reach_.add(Reached::kAgingPromotes, stats.promotions);
    const auto& accepted = runner_.executor().accepted();
    for (size_t i = 0; i < accepted.size(); ++i) {
      if (i > 0) reach_.add(Reached::kDraftsAccepted, accepted[i][0]);
      const auto last = static_cast<size_t>(Reached::kDraft4OrLaterRejected);
      reach_.add(static_cast<Reached>(std::min(static_cast<size_t>(Reached::kDraft1Rejected) + i, last)),
                 accepted[i][1]);
    }
    reach_.add(Reached::kStateLost, stats.lost_to_checkpoint > 0 ? 1 : 0);
    reach_.add(Reached::kEvictedThenMissed, stats.lost_to_eviction > 0 ? 1 : 0);
    reach_.add(Reached::kStateEvicted, stats.evicted_checkpoints);
    // A late reader's view of where sequences are is late too: only what it was made for counts.
    if (world_.late) {
      result.reach.add(Reached::kEventStall, reach_.of(Reached::kEventStall));
    } else {
      result.reach = reach_;
    }
    return result;
  }

  Random random_;
  World world_;
  std::vector<Request> requests_;
  ManualClock clock_;
  Wake wake_;
  ScriptedRunner runner_;
  Engine engine_;
  EngineClient client_;
  Reach reach_;
  Validator validator_;
  std::vector<StepPlan> plans_;
  Digest digest_;
  std::vector<Request*> submitted_;
  size_t next_request_ = 0;
  int64_t turns_ = 0;
  Event event_;
};

}  // namespace

ScheduleResult run_schedule(uint64_t seed, bool remember_lookups) {
  return Schedule(seed, remember_lookups).run();
}

LookupComparison compare_lookups(uint64_t first_seed, int64_t count) {
  const auto add = [](const ScheduleResult& one, ScheduleResult* total) {
    total->turns += one.turns;
    total->steps += one.steps;
    total->lookups += one.lookups;
    total->comparisons += one.comparisons;
  };
  LookupComparison out;
  for (uint64_t seed = first_seed; seed < first_seed + static_cast<uint64_t>(count); ++seed) {
    const ScheduleResult remembered = run_schedule(seed, true);
    const ScheduleResult repeated = run_schedule(seed, false);
    add(remembered, &out.remembered);
    add(repeated, &out.repeated);
    if (remembered.plans == repeated.plans && remembered.turns == repeated.turns) continue;
    out.differs = seed;
    break;
  }
  return out;
}

SweepResult run_schedules(uint64_t first_seed, int64_t count) {
  SweepResult sweep;
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t seed = first_seed + static_cast<uint64_t>(i);
    ScheduleResult one = run_schedule(seed);
    sweep.total.reach.add_all(one.reach);
    sweep.total.turns += one.turns;
    sweep.total.steps += one.steps;
    if (one.violations.empty()) continue;
    sweep.total.violations = std::move(one.violations);
    sweep.failed_seed = seed;
    break;
  }
  return sweep;
}

}  // namespace weir::sim
