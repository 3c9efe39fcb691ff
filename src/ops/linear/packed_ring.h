// For kernel files: one warp brings weights into a ring of shared memory by the copy engine while eight warps compute.
#pragma once

#include "device/async.h"
#include "ops/linear/packed_mma.h"

namespace weir {

inline constexpr int kPackedWarps = 8;  // that compute; one more brings weights
inline constexpr int kPackedComputing = kPackedWarps * device::kWarp;
inline constexpr int kPackedThreads = kPackedComputing + device::kWarp;
// Scales of a stage: at most eight blocks of two floats, and what aligning the copy to 16 bytes adds on both sides.
inline constexpr int kScaleSlotBytes = 96;

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

// A ring of `slots` stages with a barrier each for "filled" and "free".
struct Ring {
  uint8_t* data;
  uint8_t* scales;  // [slots][kScaleSlotBytes]
  device::Barrier* filled;
  device::Barrier* free;
  int slots;
  int slot_bytes;

  WEIR_DEVICE void init() const {
    if (threadIdx.x == 0) {
      for (int i = 0; i < slots; ++i) {
        device::barrier_init(&filled[i], 1);
        device::barrier_init(&free[i], kPackedWarps);
      }
      device::barrier_init_done();
    }
    __syncthreads();
  }
  WEIR_DEVICE uint8_t* slot(RingPlace at) const { return data + static_cast<int64_t>(at.slot) * slot_bytes; }
  WEIR_DEVICE float* scale_slot(RingPlace at) const {
    return reinterpret_cast<float*>(scales + at.slot * kScaleSlotBytes);
  }
  // By the warp that brings weights: the slot is free. The first round finds every slot free.
  WEIR_DEVICE void wait_free(RingPlace at) const { device::barrier_wait(&free[at.slot], at.phase ^ 1U); }
  WEIR_DEVICE void wait_filled(RingPlace at) const { device::barrier_wait(&filled[at.slot], at.phase); }
  // By every computing warp once it has read the slot for the last time.
  WEIR_DEVICE void release(RingPlace at) const {
    __syncwarp();
    if (device::lane() == 0) device::barrier_arrive(&free[at.slot]);
  }
};

// Which floats of a matrix' scales a stage copies: [first, end), aligned to 16 bytes.
struct ScaleRange {
  int64_t first;
  int64_t end;
  WEIR_DEVICE ScaleRange(const GpuPacked& w, int strip, int count, int block, int blocks) {
    const int64_t all = (w.tiles + 1) / 2;
    first = (strip * all + block) * 2 / 4 * 4;
    end = (((strip + count - 1) * all + block + blocks) * 2 + 3) / 4 * 4;
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

// The sums of the eight warps of a stage: [warp][column][16].
template <int kTiles8>
WEIR_DEVICE void keep_partials(float* partials, int columns, const float (&d)[kTiles8][4]) {
  const int g = device::lane() / 4;
  const int t = device::lane() % 4;
#pragma unroll
  for (int c = 0; c < kTiles8; ++c) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int column = 8 * c + 2 * t + i % 2;
      if (column < columns) partials[(device::warp() * columns + column) * kStripRows + g + i / 2 * 8] = d[c][i];
    }
  }
}

}  // namespace weir
