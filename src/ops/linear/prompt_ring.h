// For kernel files of Hopper: how weights and rows of x come to the warps that multiply (ops/linear/prompt_tile.h).
//
// A ring of stages, a block of K each, in shared memory. The last warpgroup of a block of threads brings them, one unit
// after the other: each of its warps asks the copy engine for the weights of two strips, and all its threads copy 16
// bytes of rows of x each. Nobody waits for a copy but who uses it: a stage is `filled` when all threads' copies and
// the copy engine's bytes have arrived, and `free` when all computing warps have read it. With the first stage of a
// unit goes its description.
#pragma once

#include "device/async.h"
#include "ops/linear/linear_prompt_args.h"
#include "ops/linear/ring_place.h"

namespace weir {

inline constexpr int kPromptComputing = 8 * device::kWarp;
inline constexpr int kPromptBringing = 4 * device::kWarp;
inline constexpr int kPromptThreads = kPromptComputing + kPromptBringing;

// Strips of a matrix times rows of x.
struct PromptUnit {
  const uint8_t* weights;   // of the first strip
  const float* scales;      // of the first strip; null: 1
  const float* row_scales;  // of the matrix; null: 1
  const uint16_t* x;
  int32_t format;
  int32_t n;  // rows of the matrix
  int32_t k;
  int32_t tiles;
  int32_t strip;    // the first
  int32_t strips;   // that are there
  int32_t first;    // row of the list of rows
  int32_t rows;     // that are there
  int32_t columns;  // that a warpgroup multiplies: 16, 32, 64 or 128; 0: there are no more units
  int32_t split;    // 1: four strips, which both warpgroups multiply with columns of their own
  int32_t index;    // of the output or the expert

  WEIR_DEVICE void take(const GpuPacked& w, int first_strip, int strips_of_unit) {
    format = w.format;
    n = w.n;
    k = w.k;
    tiles = w.tiles;
    strip = first_strip;
    strips = min(strips_of_unit, w.strips - first_strip);
    weights = w.data + static_cast<int64_t>(strip) * tiles * packed_tile_bytes(format);
    const int blocks = (tiles + 1) / 2;
    scales = w.scales != nullptr ? w.scales + static_cast<int64_t>(strip) * blocks * 2 : nullptr;
    row_scales = w.row_scales;
  }
};
static_assert(sizeof(PromptUnit) <= kPromptUnitBytes, "the ring has less room for a unit's description");

// kE4m3: of quantised rows. A row's codes of a block have the bytes of 64 numbers, so their block is one tile.
template <bool kE4m3>
struct PromptRing {
  static constexpr int kXBytes = (kE4m3 ? 1 : 2) * kPromptXBytes;
  uint8_t* x;        // [slots][2 tiles][128 rows][64 k], parts of rows exchanged as device/wgmma.h says
  uint8_t* weights;  // [slots][8 strips][2 tiles]
  float* scales;     // [slots][128 rows]: of codes
  device::Barrier* filled;
  device::Barrier* free;
  device::Barrier* product_turns;  // [2]: of the warpgroups that compute
  PromptUnit* units;               // [slots]: of the unit whose first stage it is
  int* next;                       // [2]: a unit's number on its way to the threads that bring, in turn
  uint8_t* beside;
  int slots;
  int weight_bytes;

  // `shared`: aligned to kPromptAlign; `beside_bytes`: for other use.
  WEIR_DEVICE PromptRing(uint8_t* shared, int ring_slots, int ring_weight_bytes, int beside_bytes)
      : slots(ring_slots), weight_bytes(ring_weight_bytes) {
    if (device::shared_address(shared) % kPromptAlign != 0) __trap();
    x = shared;
    weights = x + slots * kXBytes;
    beside = weights + slots * weight_bytes;
    scales = reinterpret_cast<float*>(beside);
    if constexpr (kE4m3) beside += slots * kPromptScaleBytes;
    next = reinterpret_cast<int*>(beside + beside_bytes);
    units = reinterpret_cast<PromptUnit*>(next + 4);
    filled = reinterpret_cast<device::Barrier*>(reinterpret_cast<uint8_t*>(units) + slots * kPromptUnitBytes);
    free = filled + slots;
    product_turns = free + slots;
    if (threadIdx.x == 0) {
      for (int i = 0; i < slots; ++i) {
        device::barrier_init(&filled[i], kPromptBringing + 1);
        device::barrier_init(&free[i], kPromptComputing / device::kWarp * device::kWarpArrivals);
      }
      for (int i = 0; i < 2; ++i) {
        device::barrier_init(&product_turns[i], kPromptComputing / device::kWarp / 2 * device::kWarpArrivals);
      }
      device::barrier_init_done();
    }
    __syncthreads();
  }
  WEIR_DEVICE uint8_t* x_slot(RingPlace at) const { return x + at.slot * kXBytes; }
  WEIR_DEVICE uint8_t* weight_slot(RingPlace at) const { return weights + at.slot * weight_bytes; }
  WEIR_DEVICE float* scale_slot(RingPlace at) const { return scales + at.slot * kPromptTokens; }
  WEIR_DEVICE PromptUnit& unit(RingPlace at) const {
    return *reinterpret_cast<PromptUnit*>(reinterpret_cast<uint8_t*>(units) + at.slot * kPromptUnitBytes);
  }
  WEIR_DEVICE void wait_filled(RingPlace at) const { device::barrier_wait(&filled[at.slot], at.phase); }
  WEIR_DEVICE bool is_filled(RingPlace at) const { return device::barrier_passed(&filled[at.slot], at.phase); }
  // The first round finds every slot free.
  WEIR_DEVICE void wait_free(RingPlace at) const { device::barrier_wait(&free[at.slot], at.phase ^ 1U); }
  WEIR_DEVICE void release(RingPlace at) const { device::warp_arrive(&free[at.slot]); }
};

inline constexpr int kPromptStripsAWarp = kPromptStrips / (kPromptBringing / device::kWarp);

// By every warp that brings: the tiles [2 block, 2 block + tiles) of two of the unit's strips. Counts as one arrival.
template <class Ring>
WEIR_DEVICE void bring_weights(const Ring& ring, RingPlace at, const PromptUnit& unit, int block, int tiles) {
  if (device::lane() != 0) return;
  const int bytes = packed_tile_bytes(unit.format);
  const int warp = device::warp() - kPromptComputing / device::kWarp;
  if (warp == 0) {
    if (block == 0) ring.unit(at) = unit;
    device::barrier_expect(&ring.filled[at.slot], static_cast<uint32_t>(unit.strips * tiles * bytes));
  }
#pragma unroll
  for (int i = 0; i < kPromptStripsAWarp; ++i) {
    const int strip = kPromptStripsAWarp * warp + i;
    if (strip >= unit.strips) break;
    device::bulk_copy(ring.weight_slot(at) + strip * 2 * bytes,
                      unit.weights + (static_cast<int64_t>(strip) * unit.tiles + 2 * block) * bytes,
                      static_cast<uint32_t>(tiles * bytes), &ring.filled[at.slot]);
  }
}

// The rows of x that a thread brings: 16 bytes of each 16th row. Codes are copied as half as many 16-bit numbers.
struct PromptRows {
  static constexpr int kApart = kPromptBringing / 8;
  static constexpr int kRows = kPromptTokens / kApart;
  const uint16_t* from[kRows];
  uint32_t there;  // bit i: there is a row i
  int part;        // of the eight of a row
  int to;          // byte of the slot

  WEIR_DEVICE PromptRows() {
    const int thread = static_cast<int>(threadIdx.x) - kPromptComputing;
    part = thread % 8;
    to = thread / 8 * 128 + ((part ^ (thread / 8 % 8)) * 16);
  }
  template <class Work>
  WEIR_DEVICE void choose(const Work& work, const PromptUnit& unit) {
    const int first = (static_cast<int>(threadIdx.x) - kPromptComputing) / 8;
    there = 0;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int row = first + i * kApart;
      from[i] = unit.x + 8 * part;
      if (row >= unit.rows) continue;
      from[i] += work.row(unit, row) * work.x_stride();
      there |= 1U << i;
    }
  }
  // One tile of k of all rows, the tiles in turn.
  WEIR_DEVICE void copy(uint8_t* slot, const PromptUnit& unit, int tile) {
    const int k = tile * kTileK;
    const int rows = unit.columns << unit.split;
    slot += to;
    if (unit.rows == kPromptTokens && k + kTileK <= unit.k) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        device::copy16(slot + i * kApart * 128, from[i]);
        from[i] += kTileK;
      }
      return;
    }
    const bool within = k + 8 * part < unit.k;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (i * kApart >= rows) break;
      const bool valid = within && (there >> i & 1U) != 0;
      device::copy16(slot + i * kApart * 128, from[i], valid);
      from[i] += valid ? kTileK : 0;
    }
  }
};

// The scales that a thread brings: of one row of codes.
struct PromptScales {
  static_assert(kPromptBringing == kPromptTokens);
  const float* from = nullptr;  // null: there is no such row
  int64_t stride = 0;
  int row;

  WEIR_DEVICE PromptScales() : row(static_cast<int>(threadIdx.x) - kPromptComputing) {}
  template <class Work>
  WEIR_DEVICE void choose(const Work& work, const PromptUnit& unit) {
    stride = work.scale_stride();
    from = row < unit.rows ? work.x_scales() + work.row(unit, row) : nullptr;
  }
  // Of one block of all rows, the blocks in turn.
  WEIR_DEVICE void copy(float* slot) {
    if (from == nullptr) return;
    device::copy4(slot + row, from);
    from += stride;
  }
};

inline constexpr int kPromptBringBarrier = 3;

// The numbers of this block's units: every so manieth, or, where units differ (`Work::kCounted`), the next that no
// block has yet; work.counter() stands at 0 when the kernel begins.
template <class Work>
struct PromptTurns {
  const Work& work;
  int* next;
  int now = static_cast<int>(blockIdx.x);
  int after = 0;  // of the first thread
  int turn = 0;

  WEIR_DEVICE static bool first() { return static_cast<int>(threadIdx.x) == kPromptComputing; }
  // Asks for the unit after this one.
  WEIR_DEVICE void ask() {
    if constexpr (Work::kCounted) {
      if (first()) after = atomicAdd(work.counter(), 1) + static_cast<int>(gridDim.x);
    }
  }
  WEIR_DEVICE void advance() {
    if constexpr (Work::kCounted) {
      if (first()) next[turn] = after;
      device::threads_barrier(kPromptBringBarrier, kPromptBringing);
      now = next[turn];
      turn ^= 1;
    } else {
      now += static_cast<int>(gridDim.x);
    }
  }
};

// Fills the ring for every unit of this block of threads. Weights of the first unit are asked for before the kernel
// before this one has ended, where `Work::kKnownBefore` says that the units can be known then.
template <class Work>
WEIR_DEVICE void bring(const Work& work, const PromptRing<Work::kE4m3>& ring) {
  int early = 0;
  if constexpr (Work::kKnownBefore) {
    if (static_cast<int>(blockIdx.x) < work.count()) {
      const PromptUnit unit = work.unit(static_cast<int>(blockIdx.x));
      early = min(ring.slots, (unit.tiles + 1) / 2);
      for (int i = 0; i < early; ++i) bring_weights(ring, RingPlace{i, 0}, unit, i, min(2, unit.tiles - 2 * i));
    }
  }
  device::wait_for_previous();
  device::start_next();
  PromptRows rows;
  PromptScales scales;
  RingPlace at;
  const int count = work.count();
  PromptTurns<Work> turns{work, ring.next};
#pragma unroll 1
  for (; turns.now < count; turns.advance()) {
    turns.ask();
    const PromptUnit unit = work.unit(turns.now);
    if (unit.strips <= 0) continue;
    rows.choose(work, unit);
    if constexpr (Work::kE4m3) scales.choose(work, unit);
    for (int tile = 0; tile < unit.tiles; tile += 2) {
      const int tiles = min(2, unit.tiles - tile);
      ring.wait_free(at);
      if (early > 0) {
        --early;
      } else {
        bring_weights(ring, at, unit, tile / 2, tiles);
      }
      if constexpr (Work::kE4m3) {
        rows.copy(ring.x_slot(at), unit, tile / 2);
        scales.copy(ring.scale_slot(at));
      } else {
        rows.copy(ring.x_slot(at), unit, tile);
        if (tiles == 2) rows.copy(ring.x_slot(at) + kPromptXBytes, unit, tile + 1);
      }
      device::copies_arrive(&ring.filled[at.slot]);
      at.advance(ring.slots);
    }
  }
  // The end goes the way of a unit.
  ring.wait_free(at);
  if (static_cast<int>(threadIdx.x) == kPromptComputing) {
    ring.unit(at).columns = 0;
    device::barrier_arrive(&ring.filled[at.slot]);
  }
  device::barrier_arrive(&ring.filled[at.slot]);
  device::copies_commit();
  device::copies_wait<0>();
}

}  // namespace weir
