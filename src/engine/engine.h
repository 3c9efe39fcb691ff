// The engine: one thread that turns requests into plans and results into events. The server holds an EngineClient.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "base/wake.h"
#include "engine/messages.h"
#include "engine/stats.h"
#include "plan/layout.h"
#include "plan/runner.h"

namespace weir {

// Policy. What memory allows is in RunnerLimits.
struct EngineConfig {
  int32_t queue_requests_max = 1024;     // submitted or reserved, not admitted yet (--max-num-queued-reqs)
  int64_t queue_tokens_max = 4'194'304;  // their prompt tokens (--max-num-queued-tokens); 16 MiB of ids
  int32_t prefill_chunk_max = 0;         // prompt tokens of one sequence in a step (--long-prefill-token-threshold);
                                         // 0: as many as the step has room for
  int64_t aging_us = 1'000'000;          // waiting this long weighs as much as one step of priority
  bool prefix_caching = false;           // --enable-prefix-caching
  bool reuse_generated = false;          // --reuse-generated; see SchedulerConfig
  int64_t checkpoint_interval = 0;       // --checkpoint-interval, tokens
  bool adaptive_drafts = true;           // false: always as many as RunnerLimits::drafts_max
  bool remember_lookups = true;          // see SchedulerConfig
  uint64_t cache_seed = 0;               // of the hash that finds prefixes: random where requests come from strangers
  int64_t event_ring_bytes = 8 << 20;    // raised at start to twice the largest step if that is more
};

struct EngineShared;

// The right to submit `count()` sequences, taken before a request is tokenized; gives back what was not used. Must not
// outlive the engine.
class Ticket {
 public:
  Ticket() = default;
  Ticket(Ticket&& other) noexcept;
  Ticket& operator=(Ticket&& other) noexcept;
  ~Ticket();
  int32_t count() const { return count_; }

 private:
  friend class EngineClient;
  Ticket(EngineShared* shared, int32_t count) : shared_(shared), count_(count) {}
  EngineShared* shared_ = nullptr;
  int32_t count_ = 0;
};

// The server's side. try_reserve, submit, cancel, next_id and stats may be called from any thread; poll from one.
class EngineClient {
 public:
  explicit EngineClient(EngineShared* shared) : shared_(shared) {}

  // Room for `count` more sequences in the queue. kExhausted: the queue is full (429); kUnavailable: draining or
  // faulted (503); kInvalidArgument: more than the queue could ever hold.
  Result<Ticket> try_reserve(int32_t count);

  // A name for one sequence, never given twice.
  SequenceId next_id();

  // Queues one sequence on a ticket, which it uses up by one on success only. kInvalidArgument: it could never run
  // (prompt too long for the context or the page pool, priority out of range), with the numbers; kExhausted: too many
  // queued prompt tokens. After success exactly one event with a finish reason will come for header.id.
  Status submit(Ticket* ticket, const GenerateHeader& header, std::span<const TokenId> prompt);

  // Ends a sequence within a step; its last event is kAbort unless it had ended already. Unknown ids are ignored.
  void cancel(SequenceId id);

  // Takes the next event. False: there is none, and event_fd() will become readable when there is.
  bool poll(Event* event);
  int event_fd() const;

  // Refuses new tickets from now on. Drained when idle() holds.
  void begin_drain();
  // No ticket, no queued or running sequence and no unread event.
  bool idle() const;

  EngineStats stats() const;
  // Tokens of prompt and output together that one sequence can have here: the context length, or less where the page
  // pool is smaller.
  int64_t sequence_tokens_max() const;
  // Sequences that the queue holds.
  int32_t queue_requests_max() const;
  // What stopped the engine, when stats().faulted.
  std::string fault() const;

 private:
  EngineShared* shared_;
};

// The engine's side: owned and driven by one thread. All memory is reserved in create().
class Engine {
 public:
  // Borrows runner, clock and wake; `wake` is what the runner's on_result notifies, made before both. kInvalidArgument:
  // limits that cannot work (more rows than tokens in a step, no pages, ...), with the remedy.
  static Result<Engine> create(const EngineConfig& config, const CacheLayout& layout, StepRunner* runner,
                               const Clock* clock, Wake* wake);
  Engine(Engine&&) noexcept;
  ~Engine();

  EngineClient client();

  // One turn: drain commands, retire a result, plan and submit a step if one may be in flight, publish.
  // Returns whether anything happened; false: wait for `wake`.
  bool step();

  // Turns until `stop` is set (set it, then notify wake). Sequences that still live then end with kAbort, what comes
  // later is refused, and no step is in flight when it returns. The server must go on polling until then.
  void run(const std::atomic<bool>& stop);

 private:
  struct Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace weir
