// Bugs on purpose, to show that the simulator's validator finds them. Only the program that proves it is compiled with
// WEIR_PLANTED_BUGS; everywhere else planted() is false at compile time and leaves no code.
#pragma once

namespace weir {

enum class PlantedBug {
  kNone,
  kResumeOffByOne,       // a preempted sequence is recomputed from its second token
  kSkippedDecode,        // a decoding sequence waits while a prompt advances
  kPageFreedTwice,       // what is given back is handed out twice
  kLostCancel,           // a cancel is dropped
  kStaleSlot,            // every row is told the same state slot
  kQueueJump,            // the second in the queue is admitted first
  kTokenTwice,           // an event is published twice
  kLeakedPages,          // a row that leaves keeps its last page
  kLeakedState,          // a row that leaves keeps the slots of saves that were ordered
  kUncomputedInKey,      // the last sampled token, which nobody computed, counts as known to the caches
  kCheckpointTooEarly,   // a state is found one block before the tokens that it has seen
  kSaveOverPages,        // a state is saved where pages are that a row uses
  kPageNotCopied,        // who goes on inside a page gets an empty one
  kStaleDraftPage,       // who goes on inside a page gets that of the draft head empty
  kSaltForgotten,        // tenants find what others computed
  kStaleLookup,          // what was found for the first in the queue stands although more of it became known
  kStateNotZeroed,       // a joining row finds the state of whoever had its slot before
  kBatchDependentSplit,  // large steps sum a norm's squares in another order
};

#ifdef WEIR_PLANTED_BUGS
inline PlantedBug planted_bug = PlantedBug::kNone;
inline bool planted(PlantedBug bug) {
  return planted_bug == bug;
}
#else
constexpr bool planted(PlantedBug) {
  return false;
}
#endif

}  // namespace weir
