// For kernel files: how products with packed weights are worked off. Three roles, a pipeline: one warp brings weights
// into a ring of shared memory by the copy engine; eight warps multiply, each one or two blocks of K of a stage,
// without waiting for each other; two warps join the sums of a stage's blocks in order and hand out what is finished.
#pragma once

#include "device/async.h"
#include "ops/linear/packed_mma.h"

namespace weir {

inline constexpr int kPackedWarps = 8;                    // that multiply: the block's first
inline constexpr int kPackedBringer = kPackedWarps;       // the warp that brings weights
inline constexpr int kPackedJoiners = 2 * device::kWarp;  // threads that join: the block's last
inline constexpr int kPackedMultiplying = kPackedWarps * device::kWarp;
inline constexpr int kPackedThreads = kPackedMultiplying + device::kWarp + kPackedJoiners;
// A unit is a block of K of a strip. A stage holds at most this many; a warp multiplies one or two of them at a time.
inline constexpr int kPackedUnits = 2 * kPackedWarps;
// Scales of a stage: at most 16 blocks of two floats, and what aligning the copy to 16 bytes adds on both sides.
inline constexpr int kScaleSlotBytes = 160;

// Counts through the slots of a ring.
struct RingPlace {
  int slot = 0;
  uint32_t phase = 0;
  WEIR_DEVICE void advance(int slots) {
    if (++slot == slots) {
      slot = 0;
      phase ^= 1U;
    }
  }
};

// A barrier each for "filled" and "free" of the slots of a ring.
struct RingBarriers {
  device::Barrier* filled;
  device::Barrier* free;

  WEIR_DEVICE void init(int slots, int fillers, int users) const {
    for (int i = 0; i < slots; ++i) {
      device::barrier_init(&filled[i], fillers);
      device::barrier_init(&free[i], users);
    }
  }
  // By who fills: the slot is free. The first round finds every slot free.
  WEIR_DEVICE void wait_free(RingPlace at) const { device::barrier_wait(&free[at.slot], at.phase ^ 1U); }
  WEIR_DEVICE void wait_filled(RingPlace at) const { device::barrier_wait(&filled[at.slot], at.phase); }
  // By every lane of a warp, once it has filled its part or read the slot for the last time.
  WEIR_DEVICE static void arrive(device::Barrier* barrier) {
    __syncwarp();
    if (device::lane() == 0) device::barrier_arrive(barrier);
  }
};

// Shared memory of a block: the ring of weights, then the sums of a few stages.
struct Pipe {
  uint8_t* data;
  uint8_t* scales;  // [slots][kScaleSlotBytes]
  int slots;
  int slot_bytes;
  RingBarriers weights;
  float* sums;  // [sum_slots][units][columns][16], then each slot's scales [units][2]
  int sum_slots;
  int sum_floats;  // of a slot
  int sum_units;
  RingBarriers joined;

  // Lays out everything behind `at`, 16-byte aligned; returns the first byte behind it.
  WEIR_DEVICE uint8_t* lay_out(uint8_t* at, int ring_slots, int bytes, int units, int columns, int partial_slots) {
    slots = ring_slots;
    slot_bytes = bytes;
    data = at;
    scales = data + static_cast<int64_t>(slots) * slot_bytes;
    sums = reinterpret_cast<float*>(scales + slots * kScaleSlotBytes);
    sum_slots = partial_slots;
    sum_units = units;
    sum_floats = units * (columns * kStripRows + 2);
    auto* barriers = reinterpret_cast<device::Barrier*>(sums + sum_slots * sum_floats);
    weights = {barriers, barriers + slots};
    joined = {barriers + 2 * slots, barriers + 2 * slots + sum_slots};
    return reinterpret_cast<uint8_t*>(barriers + 2 * (slots + sum_slots));
  }
  WEIR_DEVICE void init() const {
    if (threadIdx.x == 0) {
      weights.init(slots, 1, kPackedWarps);
      joined.init(sum_slots, kPackedWarps, kPackedJoiners / device::kWarp);
      device::barrier_init_done();
    }
    __syncthreads();
  }
  WEIR_DEVICE uint8_t* slot(RingPlace at) const { return data + static_cast<int64_t>(at.slot) * slot_bytes; }
  WEIR_DEVICE float* scale_slot(RingPlace at) const {
    return reinterpret_cast<float*>(scales + at.slot * kScaleSlotBytes);
  }
  WEIR_DEVICE float* sum_slot(RingPlace at) const { return sums + at.slot * sum_floats; }
  WEIR_DEVICE float* sum_scales(RingPlace at) const { return sums + at.slot * sum_floats + sum_floats - 2 * sum_units; }
};

// Which floats of a matrix' scales a stage copies: [first, end), aligned to 16 bytes.
struct ScaleRange {
  int first;
  int end;
  WEIR_DEVICE ScaleRange(int all, int strip, int count, int block, int blocks) {
    first = (strip * all + block) / 2 * 4;
    end = ((strip + count - 1) * all + block + blocks + 1) / 2 * 4;
  }
  WEIR_DEVICE uint32_t bytes() const { return static_cast<uint32_t>(end - first) * 4U; }
};

// Columns (input rows) in shared memory, bf16 [rows + 1][K], rows `row_bytes` apart so that eight of them touch
// different banks; the last row is zeros.
struct Columns {
  uint8_t* data;
  int row_bytes;
  int rows;
  // What load_matrices() takes of row `row` (any row behind `rows` is zeros).
  WEIR_DEVICE uint32_t address(int row) const {
    return device::shared_address(data + static_cast<int64_t>(row < rows ? row : rows) * row_bytes +
                                  device::lane() / 8 * 16);
  }
  WEIR_DEVICE void zero_row(int thread, int threads) const {
    auto* row = reinterpret_cast<uint32_t*>(data + static_cast<int64_t>(rows) * row_bytes);
    for (int i = thread; i < row_bytes / 4; i += threads) row[i] = 0;
  }
};
constexpr int packed_row_bytes(int k) {
  return 2 * k + 16;
}

// A unit's sums to shared memory: [column][16].
template <int kTiles8>
WEIR_DEVICE void keep_sums(float* sums, int columns, const float (&d)[kTiles8][4]) {
  const int g = device::lane() / 4;
  const int t = device::lane() % 4;
#pragma unroll
  for (int c = 0; c < kTiles8; ++c) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int column = 8 * c + 2 * t + i % 2;
      if (column < columns) sums[column * kStripRows + g + i / 2 * 8] = d[c][i];
    }
  }
}

// Joins `blocks` sums in ascending order: `sums` `stride` apart, their scales two apart.
WEIR_DEVICE float join_blocks(float total, const float* sums, int stride, const float* scales, int blocks) {
  constexpr int kTogether = 8;
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

// One stage by a warp that multiplies: its units of `units`, of `columns` columns.
// part(u, &weights, &addresses, &scales): where unit u's weights are, this lane's addresses of its columns, and its two
// scales (null: 1). tiles_of(u): 1 or 2.
template <int kFormat, int kTiles8, class Part, class Tiles>
WEIR_DEVICE void multiply_stage(const Pipe& pipe, RingPlace at, RingPlace to, int units, int columns, const Part& part,
                                const Tiles& tiles_of) {
  const int first = device::warp();
  const int second = first + kPackedWarps;
  float* sums = pipe.sum_slot(to);
  float* kept_scales = pipe.sum_scales(to);
  const uint8_t* weights[2];
  uint32_t addresses[2][kTiles8];
  const float* scales[2];
  pipe.weights.wait_filled(at);
  const auto keep_scale = [&](int u, const float* from) {
    if (device::lane() < 2) kept_scales[2 * u + device::lane()] = from != nullptr ? from[device::lane()] : 1.0F;
  };
  // One column tile: two units side by side hide each other's waiting.
  if (kTiles8 == 1 && second < units && tiles_of(first) == 2 && tiles_of(second) == 2) {
    float d[2][kTiles8][4];
    part(first, &weights[0], addresses[0], &scales[0]);
    part(second, &weights[1], addresses[1], &scales[1]);
    block_products<kFormat, 2, kTiles8, 2>(weights, addresses, d);
    pipe.joined.wait_free(to);
    keep_sums<kTiles8>(sums + first * columns * kStripRows, columns, d[0]);
    keep_sums<kTiles8>(sums + second * columns * kStripRows, columns, d[1]);
    keep_scale(first, scales[0]);
    keep_scale(second, scales[1]);
  } else {
    pipe.joined.wait_free(to);
    for (int u = first; u < units; u += kPackedWarps) {
      const uint8_t* w[1];
      uint32_t a[1][kTiles8];
      float d[1][kTiles8][4];
      part(u, &w[0], a[0], &scales[0]);
      if (tiles_of(u) == 2) {
        block_products<kFormat, 1, kTiles8, 2>(w, a, d);
      } else {
        block_products<kFormat, 1, kTiles8, 1>(w, a, d);
      }
      keep_sums<kTiles8>(sums + u * columns * kStripRows, columns, d[0]);
      keep_scale(u, scales[0]);
    }
  }
  RingBarriers::arrive(&pipe.weights.free[at.slot]);
  RingBarriers::arrive(&pipe.joined.filled[to.slot]);
}

}  // namespace weir
