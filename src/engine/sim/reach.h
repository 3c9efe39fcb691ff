// What schedules reached: a simulator that never gets somewhere proves nothing about it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace weir::sim {

enum class Reached : size_t {
  kRequest,
  kFinishedStop,
  kFinishedLength,
  kContextEnd,
  kPromptOnly,
  kChunkedPrompt,
  kChunkEndsOnPageBorder,
  kMixedStep,
  kPreemptedInPrefill,
  kPreemptedInDecode,
  kPreemptedTwice,
  kReplayedGenerated,
  kEndedWhilePreempted,
  kStopOvershoot,
  kCancelledQueued,
  kCancelledInPrefill,
  kCancelledInDecode,
  kCancelledPreempted,
  kCancelledTwice,
  kCancelledAfterEnd,
  kQueueFull,
  kQueueTokensFull,
  kTicketReturned,
  kRefusedTooLong,
  kPriorityOvertakes,
  kAgingPromotes,
  kPromptLogprobs,
  kPromptLogprobsReplayed,
  kHitOnPageBorder,
  kHitInsidePage,
  kHitInGenerated,
  kHitOfPreempted,
  kStateLost,
  kEvictedThenMissed,
  kEvictionUnderReader,
  kStateEvicted,
  kDraftsAccepted,
  kDraft1Rejected,
  kDraft2Rejected,
  kDraft3Rejected,
  kDraft4OrLaterRejected,
  kEventStall,
  kDrain,
  kFault,
  kCount,
};

inline constexpr std::array<const char*, static_cast<size_t>(Reached::kCount)> kReachedNames = {
    "requests",
    "finished by stop id",
    "finished by max_tokens",
    "finished by the end of the context",
    "prompt only (max_tokens 0)",
    "prompt in several chunks",
    "chunk ends on a page border",
    "prefill and decode in one step",
    "preempted in prefill, mid-prompt",
    "preempted in decode",
    "preempted twice or more",
    "generated tokens recomputed",
    "ended by a step in flight while preempted",
    "stop id overshot by the next step",
    "cancelled while queued",
    "cancelled in prefill",
    "cancelled in decode",
    "cancelled while preempted",
    "cancelled twice",
    "cancelled after its end",
    "queue full in requests",
    "queue full in tokens",
    "ticket given back unused",
    "refused: too long",
    "overtaken by priority",
    "promoted by age",
    "prompt log-probabilities",
    "prompt log-probabilities computed twice, sent once",
    "went on from a state at the end of a page",
    "went on from a state inside a page (a prompt's end)",
    "went on from a state in generated text",
    "went on from a state after a preemption",
    "pages were known, their state was not",
    "tokens missed that had been evicted",
    "evicted while a row had taken pages over",
    "state evicted",
    "all drafts of a step accepted",
    "first draft rejected",
    "second draft rejected",
    "third draft rejected",
    "fourth or later draft rejected",
    "server did not read: engine waited",
    "drain",
    "ended by a rank fault",
};

struct Reach {
  std::array<int64_t, static_cast<size_t>(Reached::kCount)> counts{};
  void add(Reached what, int64_t count = 1) { counts[static_cast<size_t>(what)] += count; }
  int64_t of(Reached what) const { return counts[static_cast<size_t>(what)]; }
  void add_all(const Reach& other) {
    for (size_t i = 0; i < counts.size(); ++i) counts[i] += other.counts[i];
  }
};

}  // namespace weir::sim
