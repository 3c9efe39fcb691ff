// What passes between server and engine: frames of trivially copyable headers followed by arrays, through two bounded
// rings, so that an engine can become a process of its own without a new interface.
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "base/result.h"
#include "plan/ids.h"
#include "plan/sampling.h"
#include "plan/step.h"

namespace weir {

// Lower is served earlier. Waiting one EngineConfig::aging_us counts as one step of priority.
inline constexpr int32_t kPriorityMin = -100;
inline constexpr int32_t kPriorityMax = 100;

// Server -> engine: one sequence to generate (n > 1 is n sequences), followed by prompt_count token ids.
struct GenerateHeader {
  SequenceId id = 0;         // from EngineClient::next_id()
  int64_t arrival_us = 0;    // the engine's clock, when the request's headers were read
  int32_t priority = 0;      // [kPriorityMin, kPriorityMax]
  int32_t prompt_count = 0;  // >= 1; set by EngineClient::submit
  int32_t suffix_count = 0;  // last tokens of the prompt that the next turn will render differently: what a chat
                             // template adds to make the model answer
  CacheSalt salt{};
  SamplingParams sampling;  // max_tokens 0: compute the prompt (and its log-probabilities) and end with kLength
};
static_assert(std::is_trivially_copyable_v<GenerateHeader>);

enum class FinishReason : uint8_t {
  kNone,    // the sequence goes on
  kStop,    // its last token is a stop id
  kLength,  // max_tokens or the end of the context
  kAbort,   // cancelled
  kError,   // see EventHeader::error and Event::message
};

// Engine -> server. Events of one sequence arrive in order; exactly one has a finish reason, and it is the last.
// Followed by token_count ids, row_count rows, logprob_count logprobs and message_bytes characters.
struct EventHeader {
  SequenceId id = 0;
  FinishReason finish = FinishReason::kNone;
  ErrorCode error = ErrorCode::kInternal;  // valid for kError
  int32_t token_count = 0;                 // output tokens in this event, a stop id included
  int32_t first_index = 0;                 // of tokens[0] among the sequence's output tokens
  int32_t prompt_row_count = 0;            // prompt log-probability rows; they come before the tokens' rows
  int32_t prompt_first = 0;                // the prompt position that the first of them is about (>= 1)
  int32_t row_count = 0;                   // prompt_row_count, plus token_count if logprobs were asked for
  int32_t logprob_count = 0;
  int32_t message_bytes = 0;
  int32_t prompt_count = 0;      // prompt tokens of the sequence
  int32_t cached_count = 0;      // prompt tokens that were not computed but found in the cache
  int32_t matched_count = 0;     // prompt tokens that the cache knew, those without a state at their end included
  int32_t evicted_count = 0;     // prompt tokens behind these that it had known until memory ran out
  int32_t preemption_count = 0;  // so far
  int64_t arrival_us = 0;        // as given
  int64_t admitted_us = 0;       // first planned; 0: not yet
  int64_t first_token_us = 0;    // 0: not yet
  int64_t now_us = 0;            // when the engine learned of this event
};
static_assert(std::is_trivially_copyable_v<EventHeader>);

// An event as the server reads it; the vectors keep their memory from poll to poll.
struct Event {
  EventHeader header;
  std::vector<TokenId> tokens;
  std::vector<LogprobRow> rows;  // `first` is an index into this event's logprobs
  std::vector<TokenLogprob> logprobs;
  std::string message;
};

}  // namespace weir
