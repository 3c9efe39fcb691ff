// What the first and the last kernel of a step are launched with; shared by host code and kernels.
#pragma once

#include <cstdint>

namespace weir {

// Page-locked memory that steps are laid out in: they take turns.
inline constexpr int32_t kStepMailboxes = 2;

// What a step's tables begin with.
struct alignas(16) GpuStepHead {
  uint32_t number = 0;  // of the step: 0, 1, 2, ... 2^32 - 1, 0, ...
  uint32_t reserved = 0;
  int64_t bytes = 0;  // of the tables with this head, a multiple of 16
};

// What *fault is when the tables in page-locked memory are not those of the step that runs.
inline constexpr int32_t kStepFaultTables = -1;

// Brings the tables of step *number from its mailbox, number % kStepMailboxes, and clears *fault. Addresses are aligned
// to 16 bytes.
struct GpuStepFetchArgs {
  const uint8_t* from[kStepMailboxes] = {};  // page-locked: a head, then the rest
  uint8_t* to = nullptr;
  const uint32_t* number = nullptr;
  int32_t* fault = nullptr;
  int64_t bytes_max = 0;  // of the tables, and what can be read of a mailbox
  int64_t ahead = 0;      // so many are read before their head has said how many there are
};

// Writes *fault and the tokens to the mailbox of step *number, and makes it the next one's number.
struct GpuStepReportArgs {
  int32_t* to[kStepMailboxes] = {};  // page-locked: the fault, then [count]
  const int32_t* tokens = nullptr;
  const int32_t* fault = nullptr;
  uint32_t* number = nullptr;
  int32_t count = 0;
  int32_t reserved = 0;
};

// 16-byte loads that a thread of the fetching kernel has under way, and the most blocks: half a megabyte in one round
// trip. No more blocks than what is read ahead needs: each reads the head past the caches, and such reads of one line
// take a microsecond each, one after the other (64 blocks made every step 60 us longer than one does).
inline constexpr int32_t kStepFetchThreads = 256;
inline constexpr int32_t kStepFetchReaders =
    32;  // more, one of which reads the head, so that no copying thread waits for it
inline constexpr int32_t kStepFetchLoads = 8;
inline constexpr int32_t kStepFetchBlocks = 16;

}  // namespace weir
