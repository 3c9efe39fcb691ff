// For kernel files: how products with packed weights are worked off. Three roles, a pipeline of stages: a unit is a
// block of K of a strip, a stage at most 16 units that lie behind each other. One warp brings stages into a ring of
// shared memory by the copy engine; eight warps multiply, of every stage units w and w + 8 each, without waiting for
// each other; two warps join the sums of a stage in order and hand out what is finished.
#pragma once

#include "device/async.h"
#include "ops/linear/packed_mma.h"
#include "ops/linear/packed_sizes.h"
#include "ops/linear/ring_place.h"

namespace weir {

inline constexpr int kPackedMultiplying = kPackedWarps * device::kWarp;
inline constexpr int kPackedThreads = kPackedMultiplying + (1 + kPackedJoinWarps) * device::kWarp;
inline constexpr int kPackedJoining = kPackedMultiplying + device::kWarp;  // the first thread that joins

WEIR_DEVICE bool multiplies() {
  return device::warp() < kPackedWarps;
}
WEIR_DEVICE bool brings() {
  return device::warp() == kPackedWarps;
}

// Which of the warps that join this is.
WEIR_DEVICE int joiner() {
  return device::warp() - kPackedWarps - 1;
}

// A barrier each for "filled" and "free" of the slots of a ring.
struct RingBarriers {
  device::Barrier* filled;
  device::Barrier* free;
  WEIR_DEVICE void wait_filled(RingPlace at) const { device::barrier_wait(&filled[at.slot], at.phase); }
  // The first round finds every slot free.
  WEIR_DEVICE void wait_free(RingPlace at) const { device::barrier_wait(&free[at.slot], at.phase ^ 1U); }
};

// Shared memory of a block: the ring of weights, sums on their way to those who join, and the scales that those read
// ahead.
struct Pipe {
  PackedRing size;
  uint8_t* data;
  RingBarriers weights;
  float* sums;  // [sum_slots][units][columns][kSumStride]
  RingBarriers joined;
  float* scales;  // of this warp, where it joins: [kScaleSlots][32]

  // Lays out everything at `at`, aligned to 16 bytes, and prepares the barriers.
  WEIR_DEVICE Pipe(const PackedRing& ring, uint8_t* at) : size(ring), data(at) {
    at += size.slots * size.slot_bytes;
    scales = reinterpret_cast<float*>(at) + max(device::warp() - kPackedWarps - 1, 0) * kScaleSlots * 2 * kPackedUnits;
    at += kPackedScaleBytes;
    sums = reinterpret_cast<float*>(at);
    at += packed_sum_bytes(size);
    auto* barriers = reinterpret_cast<device::Barrier*>(at);
    weights = {barriers, barriers + size.slots};
    joined = {barriers + 2 * size.slots, barriers + 2 * size.slots + size.sum_slots};
    const int thread = static_cast<int>(threadIdx.x);
    if (thread < size.slots) {
      device::barrier_init(&weights.filled[thread], 1);
      device::barrier_init(&weights.free[thread], kPackedWarps * device::kWarpArrivals);
    } else if (thread < size.slots + size.sum_slots) {
      device::barrier_init(&joined.filled[thread - size.slots], kPackedWarps * device::kWarpArrivals);
      device::barrier_init(&joined.free[thread - size.slots], kPackedJoinWarps * device::kWarpArrivals);
    }
    device::barrier_init_done();
    __syncthreads();
  }
  WEIR_DEVICE uint8_t* behind() const {
    return reinterpret_cast<uint8_t*>(weights.filled + 2 * (size.slots + size.sum_slots));
  }
  WEIR_DEVICE uint8_t* slot(RingPlace at) const { return data + at.slot * size.slot_bytes; }
  WEIR_DEVICE int unit_stride() const { return size.columns * kSumStride; }
  WEIR_DEVICE float* unit(RingPlace to, int u) const { return sums + (to.slot * size.units + u) * unit_stride(); }
};

// Stages of one matrix, one behind the other, as a warp that multiplies sees them. Every `period`-th has `tail` units,
// the others `units`.
struct PackedRun {
  int stages;
  int period;
  int units;
  int tail;
};
// One of the two units that a warp has of every stage.
struct OwnUnit {
  int weights;     // bytes from the slot's first
  bool half;       // it has one tile
  bool half_tail;  // in the last stage of a period it has
};

// A unit's sums to shared memory: [column][kSumStride].
template <int kTiles8>
WEIR_DEVICE void keep_sums(float* sums, int columns, const float (&d)[kTiles8][4]) {
  const int g = device::lane() / 4;
  const int t = device::lane() % 4;
#pragma unroll
  for (int c = 0; c < kTiles8; ++c) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int column = 8 * c + 2 * t + i % 2;
      if (column < columns) sums[column * kSumStride + g + i / 2 * 8] = d[c][i];
    }
  }
}

template <int kFormat, int kTiles8>
WEIR_DEVICE void multiply_unit(const uint8_t* weights, bool half, const uint32_t (&columns)[kTiles8],
                               float (&d)[1][kTiles8][4]) {
  const uint8_t* const of[1] = {weights};
  uint32_t addresses[1][kTiles8];
#pragma unroll
  for (int c = 0; c < kTiles8; ++c) addresses[0][c] = columns[c];
  if (half) {
    block_products<kFormat, 1, kTiles8, 1>(of, addresses, d);
  } else {
    block_products<kFormat, 1, kTiles8, 2>(of, addresses, d);
  }
}

// A run by a warp that multiplies. columns[i][c]: what load_matrices() takes of column tile c at the first k of unit i
// in the first stage of a period, `column_step` bytes further in each one after it; with kInSlot, of the ring's first
// slot.
template <int kFormat, int kTiles8, bool kInSlot>
WEIR_DEVICE void multiply_run(const Pipe& pipe, RingPlace& at, RingPlace& to, const PackedRun& run,
                              const OwnUnit (&own)[2], const uint32_t (&columns)[2][kTiles8], uint32_t column_step) {
  const int first = device::warp();
  const int second = first + kPackedWarps;
  int in_period = 0;
  for (int stage = 0; stage < run.stages; ++stage) {
    const uint32_t further = static_cast<uint32_t>(in_period) * column_step +
                             (kInSlot ? static_cast<uint32_t>(at.slot * pipe.size.slot_bytes) : 0U);
    const bool tail = ++in_period == run.period;
    if (tail) in_period = 0;
    const int units = tail ? run.tail : run.units;
    const uint8_t* weights[2];
    uint32_t b[2][kTiles8];
    bool half[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      weights[i] = pipe.slot(at) + own[i].weights;
      half[i] = own[i].half || (tail && own[i].half_tail);
#pragma unroll
      for (int c = 0; c < kTiles8; ++c) b[i][c] = columns[i][c] + further;
    }
    pipe.weights.wait_filled(at);
    // One column tile: two units side by side hide each other's waiting.
    if (kTiles8 == 1 && kFormat != kGpuBf16 && second < units && !half[0] && !half[1]) {
      float d[2][kTiles8][4];
      block_products<kFormat, 2, kTiles8, 2>(weights, b, d);
      device::warp_arrive(&pipe.weights.free[at.slot]);
      pipe.joined.wait_free(to);
      keep_sums<kTiles8>(pipe.unit(to, first), pipe.size.columns, d[0]);
      keep_sums<kTiles8>(pipe.unit(to, second), pipe.size.columns, d[1]);
    } else {
      float d[1][kTiles8][4];
      if (first < units) multiply_unit<kFormat, kTiles8>(weights[0], half[0], b[0], d);
      pipe.joined.wait_free(to);
      if (first < units) keep_sums<kTiles8>(pipe.unit(to, first), pipe.size.columns, d[0]);
      if (second < units) {
        multiply_unit<kFormat, kTiles8>(weights[1], half[1], b[1], d);
        keep_sums<kTiles8>(pipe.unit(to, second), pipe.size.columns, d[0]);
      }
      device::warp_arrive(&pipe.weights.free[at.slot]);
    }
    device::warp_arrive(&pipe.joined.filled[to.slot]);
    at.advance(pipe.size.slots);
    to.advance(pipe.size.sum_slots);
  }
}

// Scales of the stages to come, read ahead by each warp that joins. Walk: more(), next(): the stages;
// units(): of the stage; scale(i): where the i-th of its floats is, two a unit; null: there is none.
template <class Walk>
struct ScaleReader {
  float* slots;
  Walk walk;
  int slot = 0;

  WEIR_DEVICE ScaleReader(float* memory, const Walk& first) : slots(memory), walk(first) {
    for (int i = 0; i < kScaleSlots - 1; ++i) ask();
  }
  WEIR_DEVICE void ask() {
    if (walk.more()) {
      float* to = slots + slot * 2 * kPackedUnits + device::lane();
      const float* from = device::lane() < 2 * walk.units() ? walk.scale(device::lane()) : nullptr;
      if (from != nullptr) {
        device::copy4(to, from);
      } else {
        *to = 1.0F;
      }
      walk.next();
    }
    device::copies_commit();
    slot = (slot + 1) % kScaleSlots;
  }
  // The scales of the next stage, [unit][2]; called once a stage.
  WEIR_DEVICE const float* next() {
    __syncwarp();  // nobody reads the stage before any more
    ask();
    device::copies_wait<kScaleSlots - 1>();
    __syncwarp();
    return slots + slot * 2 * kPackedUnits;
  }
};

// Joins `blocks` sums in ascending order, kTogether of them read at once: `sums` `stride` apart, their scales two
// apart.
template <int kTogether>
WEIR_DEVICE float join_blocks(float total, const float* sums, int stride, const float* scales, int blocks) {
  for (int first = 0; first < blocks; first += kTogether) {
    float sum[kTogether];
    float scale[kTogether];
#pragma unroll
    for (int b = 0; b < kTogether; ++b) {
      const bool there = first + b < blocks;
      sum[b] = there ? sums[(first + b) * stride] : 0.0F;
      scale[b] = there ? scales[2 * (first + b)] : 0.0F;
    }
#pragma unroll
    for (int b = 0; b < kTogether; ++b) {
      if (first + b < blocks) total = fmaf(sum[b], scale[b], total);
    }
  }
  return total;
}

// What load_matrices() takes of row `row` at `k` of rows in shared memory `row_bytes` apart.
WEIR_DEVICE uint32_t column_address(const uint8_t* rows, int row_bytes, int row, int k) {
  return device::shared_address(rows + row * row_bytes + 2 * k + device::lane() / 8 * 16);
}

}  // namespace weir
