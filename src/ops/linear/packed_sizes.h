// Sizes of what products of few rows with packed weights keep in a block's shared memory; shared by host code and
// kernels.
#pragma once

#include <algorithm>
#include <cstdint>

#include "ops/linear/packed.h"

namespace weir {

inline constexpr int kPackedWarps = 8;      // that multiply: the block's first
inline constexpr int kPackedJoinWarps = 2;  // that join: the block's last
inline constexpr int kPackedUnits = 16;     // of a group
inline constexpr int kPieceBytes = 2048;    // of weights in a slot: a unit of FP8, half a unit of BF16
inline constexpr int kScaleSlots = 4;       // groups whose scales are under way
inline constexpr int kPackedScaleBytes = kPackedJoinWarps * kScaleSlots * 2 * kPackedUnits * 4;
// Floats from column to column of a unit's sums: lanes that hold neighbouring columns write to different banks.
inline constexpr int kSumStride = 20;
// Slots of a warp's ring: fewer would not hide a copy's way, or could not hold two units of BF16.
inline constexpr int kPackedSlotsMin = 4;
inline constexpr int kPackedSlotsMax = 12;

// Slots that a unit takes.
constexpr int packed_pieces(int32_t format) {
  return format == kGpuBf16 ? 2 : 1;
}
constexpr int packed_sum_bytes(int columns) {
  return kPackedUnits * columns * kSumStride * 4;
}
constexpr int packed_barrier_bytes(int slots, int sum_slots) {
  return (kPackedWarps * slots + 2 * sum_slots + 1) / 2 * 16;
}
constexpr int packed_pipe_bytes(int slots, int slot_bytes, int columns, int sum_slots) {
  return kPackedWarps * slots * slot_bytes + kPackedScaleBytes + sum_slots * packed_sum_bytes(columns) +
         packed_barrier_bytes(slots, sum_slots);
}
// From row to row of activations in shared memory: eight rows touch different banks.
constexpr int packed_row_bytes(int k) {
  return 2 * k + 16;
}

// How many slots there is room for beside `fixed` bytes: so that another block fits beside this one, as the next
// kernel's does before this one has ended, or, where those are too few, so that the multiprocessor belongs to one
// block. 0: too few even then.
constexpr int packed_slots(int64_t shared_bytes_max, int64_t fixed, int slot_bytes, int columns, int sum_slots) {
  constexpr int64_t kReserved = 1024;  // that the system takes of a block's shared memory
  const int64_t half = (shared_bytes_max + kReserved) / 2 - kReserved;
  for (const int64_t room : {half, shared_bytes_max}) {
    int slots = kPackedSlotsMax;
    while (slots >= kPackedSlotsMin && fixed + packed_pipe_bytes(slots, slot_bytes, columns, sum_slots) > room) --slots;
    if (slots >= kPackedSlotsMin) return slots;
  }
  return 0;
}

}  // namespace weir
