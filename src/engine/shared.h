// What the engine's thread and the server's threads both touch: two rings, two wakes, and counters.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "base/ring.h"
#include "base/wake.h"
#include "engine/engine.h"
#include "engine/messages.h"
#include "engine/stats.h"

namespace weir {

enum class CommandKind : int64_t { kGenerate, kCancel };

struct CancelCommand {
  CommandKind kind = CommandKind::kCancel;
  SequenceId id = 0;
};

// A generate frame leaves out the unused tail of logit_bias, which is most of its header.
inline int64_t generate_header_bytes(const SamplingParams& sampling) {
  static_assert(sizeof(SamplingParams) - offsetof(SamplingParams, logit_bias) - sizeof(SamplingParams::logit_bias) <
                alignof(SamplingParams));  // it is the last member
  static_assert(offsetof(GenerateHeader, sampling) + sizeof(SamplingParams) == sizeof(GenerateHeader));
  return static_cast<int64_t>(offsetof(GenerateHeader, sampling) + offsetof(SamplingParams, logit_bias)) +
         sampling.logit_bias_count * static_cast<int64_t>(sizeof(LogitBias));
}

// Counters that one side adds to and any thread reads. Relaxed: they order nothing.
class Counter {
 public:
  void add(int64_t value) { value_.fetch_add(value, std::memory_order_relaxed); }
  void set(int64_t value) { value_.store(value, std::memory_order_relaxed); }
  int64_t get() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> value_{0};
};

// Set by the engine at the end of a turn; fields as in EngineStats.
struct EngineGauges {
  Counter running, preempted, pages_used, pages_free, pages_kept, slots_used, checkpoints, steps_in_flight,
      token_blocks_used;
  Counter steps, prompt_tokens, generated_tokens, recomputed_tokens, matched_tokens, cached_tokens, lost_to_checkpoint,
      lost_to_eviction, lookups, comparisons, evicted_blocks, evicted_checkpoints, draft_rounds, draft_tokens,
      accepted_tokens, preemptions, admitted;
  Counter finished_stop, finished_length, finished_abort, finished_error, not_finite, overtakes, promotions,
      event_stalls;
  Counter heartbeat_us, last_step_us;
};

struct EngineShared {
  EngineShared(const EngineConfig& config_given, int64_t command_bytes, int64_t event_bytes, Wake* wake)
      : config(config_given), commands(command_bytes), events(event_bytes), engine_wake(wake) {}

  const EngineConfig config;
  int64_t sequence_tokens_max = 0;
  int64_t cancel_room = 0;  // bytes of `commands` that only cancels may use
  int64_t pages_total = 0;
  int64_t slots_total = 0;

  ByteRing commands;
  ByteRing events;
  Wake* engine_wake;
  Wake server_wake;

  std::mutex submit_mutex;          // makes one producer of the server's threads; guards `backlog` and `closed`
  std::vector<SequenceId> backlog;  // cancels that found no room; at most one per live sequence is worth keeping
  std::atomic<bool> has_backlog{false};
  bool closed = false;  // the engine's thread has ended: nobody reads commands any more

  std::atomic<SequenceId> last_id{0};
  std::atomic<int64_t> occupied{0};       // places in the queue: tickets held, and sequences not admitted yet
  std::atomic<int64_t> reserved{0};       // of them, tickets held
  std::atomic<int64_t> queued_tokens{0};  // prompt tokens of sequences not admitted yet
  std::atomic<int64_t> live{0};           // tickets held, and sequences whose last event was not read yet
  std::atomic<bool> draining{false};
  std::atomic<bool> faulted{false};
  Counter refused_full;
  EngineGauges gauges;

  mutable std::mutex fault_mutex;
  std::string fault;
};

}  // namespace weir
