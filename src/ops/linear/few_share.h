// Launches of kernels of few rows; for host code.
//
// One block of a kernel on every multiprocessor, and beside it, from early on, one of the next kernel (but beside the
// experts of several rows, which take all the room). Left to itself
// the device puts two of a kernel's blocks on half of them, as the blocks before end two by two. So every second kernel
// asks for more than half of the shared memory, and the ones between are small enough to fit beside it. All kernels of
// such a step have the same split of the memory beside a multiprocessor: another one could be made only between two
// kernels.
#pragma once

#include <algorithm>
#include <cstdint>

#include "device/device.h"
#include "ops/linear/linear_few_args.h"

namespace weir {

inline constexpr int kFewSplit = 228;  // KiB of shared memory beside a multiprocessor
inline constexpr int64_t kFewSharedMin = 115 * 1024;
inline constexpr int64_t kFewRingMax = 112 * 1024;

// Bytes of the ring of a block that brings `bytes` of units, in slots of `slot_bytes`, and has `room`: `most` of it.
inline int32_t few_ring_bytes(int64_t bytes, int64_t slot_bytes, int64_t room, int64_t most = kFewRingMax) {
  const int64_t all = (bytes + slot_bytes - 1) / slot_bytes * slot_bytes;
  return static_cast<int32_t>(std::min(all, std::min(most, std::max(room, slot_bytes)) / slot_bytes * slot_bytes));
}

// Whether a ring of so many bytes hides the reads of `bytes`: three slots, or all of them.
inline bool few_ring_hides(int64_t ring_bytes, int64_t bytes, int64_t slot_bytes) {
  return ring_bytes >= std::min(3 * slot_bytes, (bytes + slot_bytes - 1) / slot_bytes * slot_bytes);
}

// `alone`: asks for more than half of the shared memory. The others are launched while blocks of such a kernel fill
// every multiprocessor.
inline device::Grid few_grid(int64_t blocks, int64_t shared_bytes, bool alone) {
  device::Grid grid;
  grid.x = blocks;
  grid.threads = kFewThreads;
  grid.shared_bytes = alone ? std::max(shared_bytes, kFewSharedMin) : shared_bytes;
  grid.shared_split = kFewSplit;
  grid.overlap = true;
  return grid;
}

}  // namespace weir
