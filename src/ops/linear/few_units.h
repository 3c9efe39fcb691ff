// For kernel files: products of at most eight rows with packed FP8 or BF16 weights. A unit is a block of K of a
// strip. One warp has the copy engine bring units into a ring of shared memory, eight at a time, from before the rows
// are known; each of eight warps multiplies one of the eight and leaves its sums in shared memory, where they are
// joined once at the end. few_share.h says how blocks of kernels that follow each other stand beside each other.
//
// A decode step runs through more instructions than the caches near a multiprocessor hold: fetching them takes longer
// than these kernels' arithmetic. So loops stay rolled, and what one instruction of the copy engine does no loop does.
#pragma once

#include "device/async.h"
#include "ops/linear/linear_few_args.h"
#include "ops/linear/packed_mma.h"
#include "ops/linear/ring_place.h"

namespace weir {

static_assert(device::kWarp == 32, "kFewThreads counts on it");

// The warps that multiply wait for each other.
WEIR_DEVICE void few_barrier() {
  device::threads_barrier(1, kFewWarps * device::kWarp);
}

// log2 of a power of two.
WEIR_DEVICE int log_of(int power) {
  return 31 - __clz(power);
}

WEIR_DEVICE bool few_brings() {
  return device::warp() == kFewWarps;
}

// The ring, and a barrier for what comes beside it (rows).
struct FewRing {
  uint8_t* data;
  device::Barrier* filled;
  device::Barrier* free;
  device::Barrier* rows;
  device::Barrier* has_rows;
  int slots;       // at most 32
  int slot_bytes;  // of a chunk of units

  // By the warp that brings; the others, of which `warps` multiply, may use the barriers after the block's next
  // barrier.
  WEIR_DEVICE void prepare(int warps = kFewWarps) const {
    if (device::lane() < slots) {
      device::barrier_init(&filled[device::lane()], 1);
      device::barrier_init(&free[device::lane()], warps * device::kWarpArrivals);
    }
    if (device::lane() == 0) {
      device::barrier_init(rows, 1);
      device::barrier_init(has_rows, 1);
    }
    device::barrier_init_done();
    __syncwarp();
  }

  // By the same, one lane: how far it has come. Each call brings so many chunks of units, eight of them or as many as
  // the kernel has; `fill(chunk, slot, barrier)` announces and copies them. `under_way` of them at a time, as what the
  // block, or the kernel before, waits for meanwhile would queue behind more; once the block has its rows, all that
  // fit.
  struct Bringing {
    int slot = 0;
    uint32_t phase = 1;  // of `free`: the first round finds every slot free
    int on_their_way = 0;
    int there_slot = 0;  // the first of these, and its phase
    uint32_t there_phase = 0;
  };
  template <class Fill>
  WEIR_DEVICE void bring(Bringing& at, int chunks, int under_way, const Fill& fill) const {
#pragma unroll 1
    for (int chunk = 0; chunk < chunks; ++chunk) {
      device::barrier_wait(&free[at.slot], at.phase);
      while (at.on_their_way >= (device::barrier_passed(has_rows, 0) ? slots : min(under_way, slots))) {
        device::barrier_wait(&filled[at.there_slot], at.there_phase);
        --at.on_their_way;
        if (++at.there_slot == slots) {
          at.there_slot = 0;
          at.there_phase ^= 1U;
        }
      }
      fill(chunk, data + at.slot * slot_bytes, &filled[at.slot]);
      ++at.on_their_way;
      if (++at.slot == slots) {
        at.slot = 0;
        at.phase ^= 1U;
      }
    }
  }
  template <class Fill>
  WEIR_DEVICE void bring(int chunks, int under_way, const Fill& fill) const {
    if (device::lane() != 0) return;
    Bringing at;
    bring(at, chunks, under_way, fill);
  }
  // By one thread, once the block has its rows.
  WEIR_DEVICE void note_rows() const { device::barrier_arrive(has_rows); }
};

// One unit in shared memory times the columns at `address` (as load_matrices() takes them), from zero.
WEIR_DEVICE void multiply_fp8(const uint8_t* unit, uint32_t address, float (&d)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) d[i] = 0;
  const auto* from = reinterpret_cast<const uint4*>(unit) + device::lane();
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
    const uint4 low = from[2 * tile * device::kWarp];
    const uint4 high = from[(2 * tile + 1) * device::kWarp];
    const uint32_t lows[4] = {low.x, low.y, low.z, low.w};
    const uint32_t highs[4] = {high.x, high.y, high.z, high.w};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t b[4];
      device::load_matrices(b, address + static_cast<uint32_t>(tile * kTileK + half * 32) * 2U);
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        uint32_t a[4];
        device::fp8_to_f16x4(lows[2 * half + step], &a[0], &a[2]);
        device::fp8_to_f16x4(highs[2 * half + step], &a[1], &a[3]);
        device::mma_f16(d, a, b[2 * step], b[2 * step + 1]);
      }
    }
  }
}

// The same of a BF16 unit, twice the size.
WEIR_DEVICE void multiply_bf16(const uint8_t* unit, uint32_t address, float (&d)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) d[i] = 0;
  const auto* from = reinterpret_cast<const uint4*>(unit) + device::lane();
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    uint32_t b[4];
    device::load_matrices(b, address + static_cast<uint32_t>(i) * 64U);
    const uint4 low = from[2 * i * device::kWarp];
    const uint4 high = from[(2 * i + 1) * device::kWarp];
    const uint32_t a0[4] = {low.x, low.y, low.z, low.w};
    const uint32_t a1[4] = {high.x, high.y, high.z, high.w};
    device::mma_bf16(d, a0, b[0], b[1]);
    device::mma_bf16(d, a1, b[2], b[3]);
  }
}

// The sums of a unit's first `columns` columns: [column][16].
WEIR_DEVICE void keep_unit(float* sums, int columns, const float (&d)[4]) {
  const int column = 2 * (device::lane() % 4);
  float* to = sums + column * kStripRows + device::lane() / 4;
  if (column < columns) {
    to[0] = d[0];
    to[8] = d[2];
  }
  if (column + 1 < columns) {
    to[kStripRows] = d[1];
    to[kStripRows + 8] = d[3];
  }
}

// By a warp that multiplies: its unit of every eight of `count`, `work(unit, place)`.
template <class Work>
WEIR_DEVICE void run_units(const FewRing& ring, int count, const Work& work) {
  RingPlace at;
#pragma unroll 1
  for (int first = 0; first < count; first += kFewWarps) {
    const int unit = first + device::warp();
    device::barrier_wait(&ring.filled[at.slot], at.phase);
    if (unit < count)
      work(unit, ring.data + at.slot * ring.slot_bytes + device::warp() * (ring.slot_bytes / kFewWarps));
    device::warp_arrive(&ring.free[at.slot]);
    at.advance(ring.slots);
  }
}

// Joins `blocks` sums in ascending order, `stride` apart; scales (null: 1) two apart.
WEIR_DEVICE float join_units(const float* sums, int stride, const float* scales, int blocks) {
  constexpr int kTogether = 4;
  float total = 0;
#pragma unroll 1
  for (int first = 0; first < blocks; first += kTogether) {
    float part[kTogether];
    float scale[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const bool there = first + i < blocks;
      part[i] = there ? sums[(first + i) * stride] : 0.0F;
      scale[i] = there && scales != nullptr ? scales[2 * (first + i)] : 1.0F;
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      if (first + i < blocks) total = fmaf(part[i], scale[i], total);
    }
  }
  return total;
}

// Part `part` of `parts` threads' of what lies in memory as it is to lie in shared memory: `bytes` of 16. Not by the
// copy engine, where it would queue behind weights.
WEIR_DEVICE void copy_beside(uint8_t* to, const void* from, int bytes, int part, int parts) {
#pragma unroll 4
  for (int i = 16 * part; i < bytes; i += 16 * parts) {
    device::copy16(to + i, static_cast<const uint8_t*>(from) + i);
  }
}

// Zeros behind the rows in shared memory, for columns that are not there.
WEIR_DEVICE void clear_row(uint8_t* row, int row_bytes, int threads = kFewThreads) {
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < row_bytes / 16; i += threads) {
    reinterpret_cast<uint4*>(row)[i] = uint4{0, 0, 0, 0};
  }
}

}  // namespace weir
