// Bugs on purpose, to show that the simulator's validator finds them. Only the program that proves it is compiled with
// WEIR_PLANTED_BUGS; everywhere else planted() is false at compile time and leaves no code.
#pragma once

namespace weir {

enum class PlantedBug {
  kNone,
  kResumeOffByOne,   // a preempted sequence is recomputed from its second token
  kSkippedDecode,    // a decoding sequence waits while a prompt advances
  kPageFreedTwice,   // a page is handed out again while its row still holds it
  kLostCancel,       // a cancel is dropped
  kStaleSlot,        // a joining row gets its slot from a row that still lives
  kQueueJump,        // the second in the queue is admitted first
  kTokenTwice,       // an event is published twice
  kLeakedPages,      // a cancelled sequence keeps its pages
};

#ifdef WEIR_PLANTED_BUGS
inline PlantedBug planted_bug = PlantedBug::kNone;
inline bool planted(PlantedBug bug) { return planted_bug == bug; }
#else
constexpr bool planted(PlantedBug) { return false; }
#endif

}  // namespace weir
