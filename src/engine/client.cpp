#include <algorithm>
#include <utility>

#include "engine/engine.h"
#include "engine/shared.h"

namespace weir {

namespace {

Error full(EngineShared* shared, std::string message) {
  shared->refused_full.add(1);
  return Error{ErrorCode::kExhausted, std::move(message), "try again later"};
}

Status check_request(const EngineShared& shared, const GenerateHeader& header, int64_t prompt_count) {
  if (prompt_count < 1) return Error{ErrorCode::kInvalidArgument, "the prompt has no tokens", ""};
  const int64_t needed = prompt_count + (header.sampling.max_tokens > 0 ? 1 : 0);
  if (needed > shared.sequence_tokens_max) {
    return with_remedy(
        make_error(ErrorCode::kInvalidArgument,
                   "the prompt has {} tokens, but one sequence can have {} tokens here, prompt and output together",
                   prompt_count, shared.sequence_tokens_max),
        "shorten the prompt");
  }
  if (prompt_count > shared.config.queue_tokens_max) {
    return with_remedy(make_error(ErrorCode::kInvalidArgument, "the prompt has {} tokens, but the queue holds {}",
                                  prompt_count, shared.config.queue_tokens_max),
                       "shorten the prompt or raise --max-num-queued-tokens");
  }
  if (header.priority < kPriorityMin || header.priority > kPriorityMax) {
    return make_error(ErrorCode::kInvalidArgument, "priority {} is not within {} to {}", header.priority, kPriorityMin,
                      kPriorityMax);
  }
  const SamplingParams& sampling = header.sampling;
  if (sampling.max_tokens < 0 || sampling.stop_id_count < 0 || sampling.stop_id_count > kStopIdsMax ||
      sampling.logit_bias_count < 0 || sampling.logit_bias_count > kLogitBiasMax ||
      sampling.logprobs > kTopLogprobsMax || sampling.prompt_logprobs > kTopLogprobsMax) {
    return Error{ErrorCode::kInvalidArgument, "a sampling parameter is out of range", ""};
  }
  return Ok{};
}

bool write_cancel(EngineShared* shared, SequenceId id) {
  const CancelCommand command{CommandKind::kCancel, id};
  if (shared->commands.free_bytes() < ByteRing::frame_bytes(sizeof(command))) return false;
  shared->commands.begin(sizeof(command));
  shared->commands.put(&command, sizeof(command));
  shared->commands.commit();
  return true;
}

// With submit_mutex held.
void flush_backlog(EngineShared* shared) {
  size_t sent = 0;
  while (sent < shared->backlog.size() && write_cancel(shared, shared->backlog[sent])) ++sent;
  shared->backlog.erase(shared->backlog.begin(), shared->backlog.begin() + static_cast<int64_t>(sent));
  shared->has_backlog.store(!shared->backlog.empty(), std::memory_order_relaxed);
}

}  // namespace

Ticket::Ticket(Ticket&& other) noexcept
    : shared_(std::exchange(other.shared_, nullptr)), count_(std::exchange(other.count_, 0)) {}

Ticket& Ticket::operator=(Ticket&& other) noexcept {
  std::swap(shared_, other.shared_);
  std::swap(count_, other.count_);
  return *this;
}

Ticket::~Ticket() {
  if (count_ == 0) return;
  shared_->reserved.fetch_sub(count_, std::memory_order_relaxed);
  shared_->occupied.fetch_sub(count_, std::memory_order_relaxed);
  shared_->live.fetch_sub(count_, std::memory_order_release);
}

Result<Ticket> EngineClient::try_reserve(int32_t count) {
  const int64_t limit = shared_->config.queue_requests_max;
  if (count < 1 || count > limit) {
    return with_remedy(
        make_error(ErrorCode::kInvalidArgument, "{} sequences wanted at once, but the queue holds {}", count, limit),
        "send fewer at once, or raise --max-num-queued-reqs");
  }
  if (shared_->faulted.load()) return Error{ErrorCode::kUnavailable, "the engine stopped: " + fault(), "restart it"};
  // Counted as live before draining is looked at: whoever sees draining and then idle has missed nobody.
  shared_->live.fetch_add(count);
  const auto give_up = [&](Error error) {
    shared_->live.fetch_sub(count);
    return error;
  };
  if (shared_->draining.load()) {
    return give_up(Error{ErrorCode::kUnavailable, "shutting down", "use another instance"});
  }
  int64_t occupied = shared_->occupied.load(std::memory_order_relaxed);
  do {
    if (occupied + count > limit) {
      return give_up(full(shared_, fmt::format("the queue is full: {} of {} requests wait", occupied, limit)));
    }
  } while (!shared_->occupied.compare_exchange_weak(occupied, occupied + count, std::memory_order_relaxed));
  shared_->reserved.fetch_add(count, std::memory_order_relaxed);
  return Ticket(shared_, count);
}

SequenceId EngineClient::next_id() {
  return shared_->last_id.fetch_add(1, std::memory_order_relaxed) + 1;
}

Status EngineClient::submit(Ticket* ticket, const GenerateHeader& header, std::span<const TokenId> prompt) {
  WEIR_CHECK(ticket->count_ > 0 && ticket->shared_ == shared_, "submit without a ticket");
  const auto prompt_count = static_cast<int64_t>(prompt.size());
  WEIR_RETURN_IF_ERROR(check_request(*shared_, header, prompt_count));
  if (shared_->faulted.load()) return Error{ErrorCode::kUnavailable, "the engine stopped: " + fault(), "restart it"};
  const CommandKind kind = CommandKind::kGenerate;
  const int64_t header_bytes = generate_header_bytes(header.sampling);
  const int64_t prompt_bytes = prompt_count * static_cast<int64_t>(sizeof(TokenId));
  const int64_t payload = static_cast<int64_t>(sizeof(kind)) + header_bytes + prompt_bytes;
  {
    const std::scoped_lock lock(shared_->submit_mutex);
    if (shared_->closed) return Error{ErrorCode::kUnavailable, "shutting down", "use another instance"};
    flush_backlog(shared_);
    const int64_t queued = shared_->queued_tokens.load(std::memory_order_relaxed);
    if (queued + prompt_count > shared_->config.queue_tokens_max) {
      return full(shared_, fmt::format("the queue is full: {} prompt tokens wait, {} more would pass the limit of {}",
                                       queued, prompt_count, shared_->config.queue_tokens_max));
    }
    if (shared_->commands.free_bytes() - shared_->cancel_room < ByteRing::frame_bytes(payload)) {
      return full(shared_, "the queue is full: the engine has not read the last requests yet");
    }
    shared_->queued_tokens.fetch_add(prompt_count, std::memory_order_relaxed);
    GenerateHeader sent = header;
    sent.prompt_count = static_cast<int32_t>(prompt_count);
    shared_->commands.begin(payload);
    shared_->commands.put(&kind, sizeof(kind));
    shared_->commands.put(&sent, header_bytes);
    shared_->commands.put(prompt.data(), prompt_bytes);
    shared_->commands.commit();
  }
  --ticket->count_;
  shared_->reserved.fetch_sub(1, std::memory_order_relaxed);
  shared_->engine_wake->notify();
  return Ok{};
}

void EngineClient::cancel(SequenceId id) {
  {
    const std::scoped_lock lock(shared_->submit_mutex);
    flush_backlog(shared_);
    auto& backlog = shared_->backlog;
    if (!backlog.empty() || !write_cancel(shared_, id)) {
      // Full of cancels that the engine has not read: the same id twice adds nothing.
      if (std::find(backlog.begin(), backlog.end(), id) == backlog.end()) backlog.push_back(id);
      shared_->has_backlog.store(true, std::memory_order_relaxed);
    }
  }
  shared_->engine_wake->notify();
}

bool EngineClient::poll(Event* event) {
  if (shared_->has_backlog.load(std::memory_order_relaxed)) {
    const std::scoped_lock lock(shared_->submit_mutex);
    flush_backlog(shared_);
  }
  ByteRing& ring = shared_->events;
  if (ring.front() < 0) {
    // Look once more after clearing: what came in between has not set the wake again.
    shared_->server_wake.clear();
    if (ring.front() < 0) return false;
  }
  EventHeader& header = event->header;
  ring.take(&header, sizeof(header));
  const auto take_all = [&ring](auto* values, int32_t count) {
    values->resize(static_cast<size_t>(count));
    ring.take(values->data(), count * static_cast<int64_t>(sizeof((*values)[0])));
  };
  take_all(&event->tokens, header.token_count);
  take_all(&event->rows, header.row_count);
  take_all(&event->logprobs, header.logprob_count);
  take_all(&event->message, header.message_bytes);
  ring.pop();
  if (header.finish != FinishReason::kNone) shared_->live.fetch_sub(1, std::memory_order_release);
  return true;
}

int EngineClient::event_fd() const {
  return shared_->server_wake.fd();
}

void EngineClient::begin_drain() {
  shared_->draining.store(true);
}

bool EngineClient::idle() const {
  return shared_->live.load() == 0;
}

int32_t EngineClient::queue_requests_max() const {
  return shared_->config.queue_requests_max;
}

int64_t EngineClient::sequence_tokens_max() const {
  return shared_->sequence_tokens_max;
}

std::string EngineClient::fault() const {
  const std::scoped_lock lock(shared_->fault_mutex);
  return shared_->fault;
}

EngineStats EngineClient::stats() const {
  const EngineGauges& gauges = shared_->gauges;
  EngineStats stats;
  stats.reserved = shared_->reserved.load(std::memory_order_relaxed);
  // Submitted and not admitted is known here before the engine has read it.
  stats.waiting = shared_->occupied.load(std::memory_order_relaxed) - stats.reserved + gauges.preempted.get();
  stats.waiting_tokens = shared_->queued_tokens.load(std::memory_order_relaxed);
  stats.running = gauges.running.get();
  stats.preempted = gauges.preempted.get();
  stats.pages_total = shared_->pages_total;
  stats.pages_used = gauges.pages_used.get();
  stats.pages_free = gauges.pages_free.get();
  stats.pages_kept = gauges.pages_kept.get();
  stats.slots_total = shared_->slots_total;
  stats.slots_used = gauges.slots_used.get();
  stats.checkpoints = gauges.checkpoints.get();
  stats.steps_in_flight = gauges.steps_in_flight.get();
  stats.token_blocks_used = gauges.token_blocks_used.get();
  stats.steps = gauges.steps.get();
  stats.prompt_tokens = gauges.prompt_tokens.get();
  stats.generated_tokens = gauges.generated_tokens.get();
  stats.recomputed_tokens = gauges.recomputed_tokens.get();
  stats.lookups = gauges.lookups.get();
  stats.comparisons = gauges.comparisons.get();
  stats.matched_tokens = gauges.matched_tokens.get();
  stats.cached_tokens = gauges.cached_tokens.get();
  stats.lost_to_checkpoint = gauges.lost_to_checkpoint.get();
  stats.lost_to_eviction = gauges.lost_to_eviction.get();
  stats.draft_rounds = gauges.draft_rounds.get();
  stats.draft_tokens = gauges.draft_tokens.get();
  stats.accepted_tokens = gauges.accepted_tokens.get();
  stats.evicted_blocks = gauges.evicted_blocks.get();
  stats.evicted_checkpoints = gauges.evicted_checkpoints.get();
  stats.preemptions = gauges.preemptions.get();
  stats.admitted = gauges.admitted.get();
  stats.refused_full = shared_->refused_full.get();
  stats.finished_stop = gauges.finished_stop.get();
  stats.finished_length = gauges.finished_length.get();
  stats.finished_abort = gauges.finished_abort.get();
  stats.finished_error = gauges.finished_error.get();
  stats.not_finite = gauges.not_finite.get();
  stats.overtakes = gauges.overtakes.get();
  stats.promotions = gauges.promotions.get();
  stats.event_stalls = gauges.event_stalls.get();
  stats.heartbeat_us = gauges.heartbeat_us.get();
  stats.last_step_us = gauges.last_step_us.get();
  stats.busy = stats.steps_in_flight > 0;
  stats.draining = shared_->draining.load();
  stats.faulted = shared_->faulted.load();
  return stats;
}

}  // namespace weir
