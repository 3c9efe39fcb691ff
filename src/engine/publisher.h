// Writes events into the ring that the server reads. Never waits: callers ask for room first.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "engine/shared.h"
#include "plan/step.h"
#include "sched/scheduler.h"

namespace weir {

// Longest message of an event, in bytes: a sentence with numbers. Longer ones are cut.
inline constexpr int64_t kMessageBytesMax = 1024;

// What a sequence ends with whose logits are not finite.
inline constexpr std::string_view kNotFiniteMessage =
    "the model's output is not finite: its weights are damaged, or belong to another config.json";

// Ring bytes that the events of the largest possible step occupy.
int64_t step_event_bytes_max(const RunnerLimits& limits);
// Ring bytes that the events of this result occupy at most.
int64_t result_event_bytes(const StepResult& result);

class Publisher {
 public:
  explicit Publisher(EngineShared* shared) : shared_(shared) {}

  bool has_room(int64_t bytes) const { return shared_->events.free_bytes() >= bytes; }
  // Room for one event without tokens.
  bool has_room_for_end() const;

  // The last event of a sequence that ended without a token.
  void end(const Sequence& sequence, FinishReason reason, std::string_view message, int64_t now_us,
           ErrorCode error = ErrorCode::kInternal);
  // The last event of a sequence that StopReason::kNotFinite ended.
  void end_not_finite(const Sequence& sequence, int64_t now_us);
  // What one work item yielded: `skip` of its prompt rows went out earlier, the first of the others is about position
  // `prompt_first`. Nothing is written if there is nothing new.
  void advance(const Sequence& sequence, const StepResult& result, const SequenceResult& item, int32_t prompt_first,
               int32_t skip, StopReason stop, int64_t now_us);
  // Tells the server, if anything was written since the last call. Returns whether.
  bool flush();

 private:
  EventHeader header_of(const Sequence& sequence, FinishReason reason, int64_t now_us);
  void put_rows(const StepResult& result, std::span<const LogprobRow> rows, int32_t* next);
  void put_logprobs(const StepResult& result, std::span<const LogprobRow> rows);

  EngineShared* shared_;
  bool written_ = false;
};

}  // namespace weir
