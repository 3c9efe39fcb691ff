#include "engine/engine.h"

#include <algorithm>
#include <utility>

#include "base/planted.h"
#include "engine/publisher.h"
#include "engine/shared.h"
#include "sched/scheduler.h"

namespace weir {

namespace {

// A thousand short requests between two turns; a longer prompt than half of it raises it.
constexpr int64_t kCommandRingBytes = 4 << 20;
// Prompts are copied from the ring in pieces of this many ids (16 KiB).
constexpr size_t kCopyTokens = 4096;
// The heartbeat's period when there is nothing to do.
constexpr int64_t kIdleWaitUs = 100'000;
// How soon a full event ring is looked at again: the server may have read meanwhile, and does not tell.
constexpr int64_t kStallWaitUs = 1'000;
// At the end, steps in flight and unread events are waited for this many idle waits: 60 s, the watchdog's limit too.
constexpr int32_t kShutdownWaits = 600;

SchedulerConfig scheduler_config(const EngineConfig& config) {
  SchedulerConfig out;
  out.queue_requests_max = config.queue_requests_max;
  out.queue_tokens_max = config.queue_tokens_max;
  out.prefill_chunk_max = config.prefill_chunk_max;
  out.aging_us = config.aging_us;
  out.prefix_caching = config.prefix_caching;
  out.reuse_generated = config.reuse_generated;
  out.checkpoint_interval = config.checkpoint_interval;
  out.remember_lookups = config.remember_lookups;
  out.cache_seed = config.cache_seed;
  out.adaptive_drafts = config.adaptive_drafts;
  return out;
}

// A submitted step and what it will yield.
struct Flight {
  StepPlan plan;
  StepResult result;
  std::vector<WorkOwner> owners;
};

}  // namespace

struct Engine::Impl {
  Impl(const EngineConfig& config, const CacheLayout& layout, StepRunner* runner_given, const Clock* clock_given,
       Wake* wake_given);

  bool turn();
  bool drain();
  void take_generate(int64_t payload);
  void take_cancel();
  bool retire();
  void settle(Flight* flight);
  void settle_item(Flight* flight, size_t item);
  void fail(const std::string& fault);
  bool end_all(FinishReason reason, const std::string& message);
  void end_one(int32_t index, FinishReason reason, std::string_view message);
  bool submit();
  void update_gauges();
  void shut_down();

  Flight& flight(int32_t age) { return *flights[static_cast<size_t>(first_flight + age) % flights.size()]; }
  void leave_queue(const Sequence& sequence);

  StepRunner* runner;
  const Clock* clock;
  Wake* wake;
  Scheduler scheduler;
  std::unique_ptr<EngineShared> shared;
  Publisher publisher;
  std::vector<std::unique_ptr<Flight>> flights;  // a ring of steps_in_flight
  int32_t first_flight = 0;
  int32_t flight_count = 0;
  bool oldest_complete = false;  // the oldest step's result is here, not published yet
  StepId last_step = 0;
  int64_t now_us = 0;
  bool stalled = false;
  int64_t admitted_seen = 0;
  int64_t admitted_tokens_seen = 0;
  std::vector<TokenId> copy;
  GenerateHeader incoming;
};

Engine::Impl::Impl(const EngineConfig& config, const CacheLayout& layout, StepRunner* runner_given,
                   const Clock* clock_given, Wake* wake_given)
    : runner(runner_given),
      clock(clock_given),
      wake(wake_given),
      scheduler(scheduler_config(config), layout, runner->limits()),
      publisher(nullptr),
      copy(kCopyTokens) {
  const RunnerLimits& limits = runner->limits();
  const int64_t sequences = static_cast<int64_t>(config.queue_requests_max) + limits.rows_max;
  // Two cancels for each sequence that can be live; what comes beyond waits on the client's side.
  const int64_t cancel_room = 2 * sequences * ByteRing::frame_bytes(sizeof(CancelCommand));
  const int64_t longest =
      ByteRing::frame_bytes(static_cast<int64_t>(sizeof(CommandKind) + sizeof(GenerateHeader)) +
                            scheduler.sequence_tokens_max() * static_cast<int64_t>(sizeof(TokenId)));
  shared = std::make_unique<EngineShared>(config, std::max(kCommandRingBytes, 2 * longest) + cancel_room,
                                          std::max(config.event_ring_bytes, 2 * step_event_bytes_max(limits)), wake);
  shared->sequence_tokens_max = scheduler.sequence_tokens_max();
  shared->cancel_room = cancel_room;
  shared->pages_total = scheduler.cache().pages_total();
  shared->slots_total = scheduler.cache().slots_total();
  shared->backlog.reserve(static_cast<size_t>(sequences));
  publisher = Publisher(shared.get());
  const auto rows = static_cast<size_t>(limits.rows_max) + static_cast<size_t>(limits.step_tokens_max);
  for (int32_t i = 0; i < limits.steps_in_flight; ++i) {
    Flight& made = *flights.emplace_back(std::make_unique<Flight>());
    scheduler.reserve(&made.plan, &made.owners);
    made.result.sequences.reserve(static_cast<size_t>(limits.rows_max));
    made.result.tokens.reserve(static_cast<size_t>(limits.rows_max * (1 + limits.drafts_max)));
    made.result.rows.reserve(rows);
    made.result.logprobs.reserve(rows * (1 + kTopLogprobsMax));
  }
}

// One turn, in phases. Commands come first, so that a cancelled sequence is in no plan made after its cancel; results
// before the plan, so that it knows as much as can be known.
bool Engine::Impl::turn() {
  now_us = clock->now_us();
  shared->gauges.heartbeat_us.set(now_us);
  stalled = false;
  bool moved = drain();
  moved |= retire();
  if (shared->faulted.load(std::memory_order_relaxed)) {
    moved |= end_all(FinishReason::kError, shared->fault);  // written by this thread alone
  } else {
    moved |= submit();
  }
  if (stalled) shared->gauges.event_stalls.add(1);
  update_gauges();
  moved |= publisher.flush();
  return moved;
}

bool Engine::Impl::drain() {
  bool moved = false;
  for (int64_t payload = shared->commands.front(); payload >= 0; payload = shared->commands.front()) {
    // A cancel ends a sequence, and its last event must have a place.
    if (!publisher.has_room_for_end()) {
      stalled = true;
      return moved;
    }
    CommandKind kind{};
    shared->commands.take(&kind, sizeof(kind));
    if (kind == CommandKind::kGenerate) {
      take_generate(payload - static_cast<int64_t>(sizeof(kind)));
    } else {
      take_cancel();
    }
    shared->commands.pop();
    moved = true;
  }
  return moved;
}

void Engine::Impl::take_generate(int64_t payload) {
  // The header's used part is as long as what the prompt leaves of the frame; its counts are read from its fixed part.
  constexpr auto kFixed =
      static_cast<int64_t>(offsetof(GenerateHeader, sampling) + offsetof(SamplingParams, logit_bias));
  shared->commands.take(&incoming, kFixed);
  const int64_t biases = generate_header_bytes(incoming.sampling) - kFixed;
  shared->commands.take(&incoming.sampling.logit_bias, biases);
  int64_t left = incoming.prompt_count;
  WEIR_CHECK(payload == kFixed + biases + left * static_cast<int64_t>(sizeof(TokenId)), "a request of {} bytes",
             payload);
  const int32_t index = scheduler.add(
      {incoming.id, incoming.arrival_us, incoming.priority, &incoming.sampling, incoming.salt, incoming.suffix_count});
  while (left > 0) {
    const int64_t count = std::min(left, static_cast<int64_t>(kCopyTokens));
    shared->commands.take(copy.data(), count * static_cast<int64_t>(sizeof(TokenId)));
    scheduler.append_prompt(index, std::span(copy).first(static_cast<size_t>(count)));
    left -= count;
  }
}

void Engine::Impl::take_cancel() {
  SequenceId id = 0;
  shared->commands.take(&id, sizeof(id));
  if (planted(PlantedBug::kLostCancel)) return;
  const int32_t index = scheduler.end(id);
  if (index >= 0) end_one(index, FinishReason::kAbort, {});
}

// A sequence that was never admitted ends: its place in the queue is free again.
void Engine::Impl::leave_queue(const Sequence& sequence) {
  if (sequence.admitted) return;
  shared->occupied.fetch_sub(1, std::memory_order_relaxed);
  shared->queued_tokens.fetch_sub(sequence.prompt_count, std::memory_order_relaxed);
}

void Engine::Impl::end_one(int32_t index, FinishReason reason, std::string_view message) {
  const Sequence& ended = scheduler.sequence(index);
  leave_queue(ended);
  publisher.end(ended, reason, message, now_us);
  scheduler.forget(index);
}

bool Engine::Impl::retire() {
  bool moved = false;
  while (flight_count > 0) {
    Flight& oldest = flight(0);
    if (!oldest_complete) {
      const StepId done = runner->poll();
      if (done == 0) return moved;
      WEIR_CHECK(done == oldest.plan.id, "step {} came back, {} is the oldest", done, oldest.plan.id);
      oldest_complete = true;
    }
    if (!oldest.result.fault.empty()) {
      fail(oldest.result.fault);
      return true;
    }
    const int64_t bytes = result_event_bytes(oldest.result);
    WEIR_CHECK(bytes <= shared->events.capacity(), "step {} has {} bytes of events, the ring {}", oldest.plan.id, bytes,
               shared->events.capacity());
    if (!publisher.has_room(bytes)) {
      stalled = true;
      return moved;
    }
    settle(&oldest);
    first_flight = (first_flight + 1) % static_cast<int32_t>(flights.size());
    --flight_count;
    oldest_complete = false;
    moved = true;
  }
  return moved;
}

void Engine::Impl::settle(Flight* done) {
  WEIR_CHECK(done->result.id == done->plan.id && done->result.sequences.size() == done->plan.work.size(),
             "step {}: {} results for {} items", done->plan.id, done->result.sequences.size(), done->plan.work.size());
  for (size_t item = 0; item < done->owners.size(); ++item) settle_item(done, item);
  shared->gauges.steps.add(1);
  shared->gauges.last_step_us.set(now_us);
}

void Engine::Impl::settle_item(Flight* done, size_t item) {
  const SequenceResult& yielded = done->result.sequences[item];
  const auto tokens = std::span<const TokenId>(done->result.tokens)
                          .subspan(yielded.token_count > 0 ? static_cast<size_t>(yielded.first_token) : 0,
                                   static_cast<size_t>(yielded.token_count));
  StopReason stop = StopReason::kNone;
  const int32_t index = scheduler.settle(done->owners[item], yielded, tokens, now_us, &stop);
  if (index < 0) return;
  Sequence& owner = scheduler.sequence(index);
  if (stop == StopReason::kNotFinite) {
    publisher.end_not_finite(owner, now_us);
    scheduler.forget(index);
    return;
  }
  // After a preemption the prompt is computed again, perhaps in other chunks: rows that went out before stay in.
  const int64_t position = done->plan.work[item].position;
  const auto skip = static_cast<int32_t>(std::max<int64_t>(0, owner.prompt_rows_published - position));
  publisher.advance(owner, done->result, yielded, static_cast<int32_t>(position) + 1 + skip, skip, stop, now_us);
  if (planted(PlantedBug::kTokenTwice)) {
    publisher.advance(owner, done->result, yielded, static_cast<int32_t>(position) + 1 + skip, skip, stop, now_us);
  }
  owner.prompt_rows_published += std::max(0, yielded.prompt_row_count - skip);
  shared->gauges.generated_tokens.add(yielded.token_count);
  if (stop != StopReason::kNone) scheduler.forget(index);
}

// A rank stopped: nothing in flight will come back, and every sequence ends with an error.
void Engine::Impl::fail(const std::string& fault) {
  {
    const std::scoped_lock lock(shared->fault_mutex);
    shared->fault = fault;
  }
  shared->faulted.store(true);
  flight_count = 0;
  oldest_complete = false;
}

// Ends what lives, as far as the event ring has room.
bool Engine::Impl::end_all(FinishReason reason, const std::string& message) {
  bool moved = false;
  for (int32_t index = scheduler.any_live(); index >= 0; index = scheduler.any_live()) {
    if (!publisher.has_room_for_end()) {
      stalled = true;
      return moved;
    }
    scheduler.end(scheduler.sequence(index).key.id);
    end_one(index, reason, message);
    moved = true;
  }
  return moved;
}

bool Engine::Impl::submit() {
  bool moved = false;
  while (flight_count < static_cast<int32_t>(flights.size())) {
    Flight& next = flight(flight_count);
    next.plan.clear();
    next.result.clear();
    if (!scheduler.plan(now_us, &next.plan, &next.owners)) break;
    next.plan.id = ++last_step;
    ++flight_count;
    runner->submit(&next.plan, &next.result);
    moved = true;
  }
  // Who was admitted has left the queue.
  const SchedulerCounters& counters = scheduler.counters();
  shared->occupied.fetch_sub(counters.admitted - std::exchange(admitted_seen, counters.admitted));
  shared->queued_tokens.fetch_sub(counters.admitted_prompt_tokens -
                                  std::exchange(admitted_tokens_seen, counters.admitted_prompt_tokens));
  return moved;
}

void Engine::Impl::update_gauges() {
  EngineGauges& gauges = shared->gauges;
  const SchedulerCounters& counters = scheduler.counters();
  gauges.running.set(scheduler.running());
  gauges.preempted.set(scheduler.preempted());
  gauges.pages_used.set(scheduler.cache().pages_used());
  gauges.pages_free.set(scheduler.cache().pages_free());
  gauges.pages_kept.set(scheduler.cache().pages_kept());
  gauges.slots_used.set(scheduler.cache().slots_used());
  gauges.checkpoints.set(scheduler.cache().checkpoints());
  gauges.evicted_blocks.set(scheduler.cache().evicted_blocks());
  gauges.evicted_checkpoints.set(scheduler.cache().evicted_checkpoints());
  gauges.steps_in_flight.set(flight_count);
  gauges.token_blocks_used.set(scheduler.token_blocks_used());
  gauges.prompt_tokens.set(counters.admitted_prompt_tokens);
  gauges.lookups.set(counters.lookups);
  gauges.comparisons.set(counters.comparisons);
  gauges.matched_tokens.set(counters.matched_tokens);
  gauges.cached_tokens.set(counters.reused_tokens);
  gauges.lost_to_checkpoint.set(counters.lost_to_checkpoint);
  gauges.lost_to_eviction.set(counters.lost_to_eviction);
  gauges.draft_rounds.set(counters.draft_rounds);
  gauges.draft_tokens.set(counters.draft_tokens);
  gauges.accepted_tokens.set(counters.accepted_tokens);
  gauges.recomputed_tokens.set(counters.recomputed_tokens);
  gauges.preemptions.set(counters.preemptions);
  gauges.admitted.set(counters.admitted);
  gauges.overtakes.set(counters.overtakes);
  gauges.promotions.set(counters.promotions);
}

void Engine::Impl::shut_down() {
  shared->draining.store(true);
  for (int32_t waits = 0; waits < kShutdownWaits; ++waits) {
    now_us = clock->now_us();
    shared->gauges.heartbeat_us.set(now_us);
    drain();
    end_all(FinishReason::kAbort, {});
    retire();
    update_gauges();
    publisher.flush();
    if (flight_count == 0 && scheduler.any_live() < 0) {
      const std::scoped_lock lock(shared->submit_mutex);
      shared->closed = shared->commands.empty();
      if (shared->closed) return;
    }
    wake->wait(kIdleWaitUs);
  }
  WEIR_CHECK(flight_count == 0, "step {} did not come back", flight(0).plan.id);
}

Result<Engine> Engine::create(const EngineConfig& config, const CacheLayout& layout, StepRunner* runner,
                              const Clock* clock, Wake* wake) {
  WEIR_RETURN_IF_ERROR(Scheduler::check(scheduler_config(config), layout, runner->limits()));
  return Engine(std::make_unique<Impl>(config, layout, runner, clock, wake));
}

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Engine::Engine(Engine&&) noexcept = default;
Engine::~Engine() = default;

EngineClient Engine::client() {
  return EngineClient(impl_->shared.get());
}

bool Engine::step() {
  return impl_->turn();
}

void Engine::run(const std::atomic<bool>& stop) {
  while (!stop.load(std::memory_order_acquire)) {
    if (!impl_->turn()) impl_->wake->wait(impl_->stalled ? kStallWaitUs : kIdleWaitUs);
  }
  impl_->shut_down();
}

}  // namespace weir
