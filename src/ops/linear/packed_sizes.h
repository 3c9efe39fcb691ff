// Sizes of what products of few rows with packed weights keep in a block's shared memory; shared by host code and
// kernels.
#pragma once

#include <cstdint>

#include "ops/linear/packed.h"

namespace weir {

inline constexpr int kPackedWarps = 8;      // that multiply: the block's first
inline constexpr int kPackedJoinWarps = 2;  // that join: the block's last
inline constexpr int kPackedUnits = 16;     // of a stage at most
inline constexpr int kScaleSlots = 4;       // stages whose scales are under way
inline constexpr int kPackedScaleBytes = kPackedJoinWarps * kScaleSlots * 2 * kPackedUnits * 4;
// Floats from column to column of a unit's sums: lanes that hold neighbouring columns write to different banks.
inline constexpr int kSumStride = 20;
inline constexpr int kPackedSlotsMax = 12;

// Units of a stage: of BF16 a unit is twice as large.
constexpr int packed_stage_units(int32_t format, int units) {
  return format == kGpuBf16 ? kPackedWarps : units;
}
constexpr int packed_unit_bytes(int32_t format) {
  return 2 * packed_tile_bytes(format);
}
// From row to row of activations in shared memory: eight rows touch different banks.
constexpr int packed_row_bytes(int k) {
  return 2 * k + 16;
}

// Of a block's shared memory, where it needs no more than `fixed` bytes beside it.
struct PackedRing {
  int units = 0;       // of a stage
  int slot_bytes = 0;  // of a stage, with what a kernel keeps beside its weights
  int slots = 0;
  int columns = 0;    // of a unit's sums
  int sum_slots = 0;  // stages whose sums may wait to be joined
};

constexpr int packed_sum_bytes(const PackedRing& ring) {
  return ring.sum_slots * ring.units * ring.columns * kSumStride * 4;
}
constexpr int packed_pipe_bytes(const PackedRing& ring) {
  return ring.slots * ring.slot_bytes + kPackedScaleBytes + packed_sum_bytes(ring) +
         2 * (ring.slots + ring.sum_slots) * static_cast<int>(sizeof(uint64_t));
}

// Sets the slots that there is room for beside `fixed` bytes. With `alone`, the multiprocessor belongs to one block;
// else another block fits beside this one, as the next kernel's does before this one has ended. Whether there are
// `least`: three hide a copy's way.
constexpr bool packed_slots(int64_t shared_bytes_max, bool alone, int64_t fixed, PackedRing* ring, int least = 3) {
  constexpr int64_t kReserved = 1024;  // that the system takes of a block's shared memory
  const int64_t half = (shared_bytes_max + kReserved) / 2 - kReserved;
  ring->slots = kPackedSlotsMax;
  while (ring->slots > 0 && fixed + packed_pipe_bytes(*ring) > (alone ? shared_bytes_max : half)) --ring->slots;
  return ring->slots >= least;
}

}  // namespace weir
