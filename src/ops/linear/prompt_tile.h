// For kernel files of Hopper: tiles of packed weights times rows, float32 sums as ops/linear/packed.h states them.
//
// A block works through units, one after the other: 128 rows of a weight matrix (8 strips) times 32, 64 or 128 token
// rows, all of K. Two warpgroups compute, a warp a strip: weights become registers, tokens are read by the matrix units
// from shared memory; each holds the sums of the running block of K and the total, so one joins blocks while the other
// multiplies. A third warpgroup brings both by asynchronous copies, 64 k a stage, and runs ahead over the ends of
// units. A stage is `filled` when all its threads saw their copies end, and `free` when all eight computing warps have
// read it.
#pragma once

#include "device/async.h"
#include "device/wgmma.h"
#include "ops/linear/linear_prompt_args.h"
#include "ops/linear/packed_mma.h"

namespace weir {

inline constexpr int kPromptComputing = 8 * device::kWarp;
inline constexpr int kPromptBringing = 4 * device::kWarp;
inline constexpr int kPromptThreads = kPromptComputing + kPromptBringing;
inline constexpr int kPromptWarpgroup = 4;  // warps
// A thread that brings rows keeps the places of eight of them; what is left of the registers goes to the sums.
inline constexpr int kPromptFewRegisters = 56;
inline constexpr int kPromptManyRegisters = 224;
// Stages whose copies a thread has under way at once.
inline constexpr int kPromptAhead = 3;
static_assert(kPromptAhead + 2 <= kPromptSlotsMin,
              "a stage is announced when the one kPromptAhead later was asked for");

// 128 rows of weights times `size` rows of x.
struct PromptUnit {
  GpuPacked weight;
  int strip;  // the first of eight
  int first;  // row of the list of rows
  int rows;   // that are there
  int size;   // 32, 64 or 128
  int index;  // of the output or the expert
};

struct PromptPlace {
  int slot = 0;
  uint32_t phase = 0;
  WEIR_DEVICE void advance(int slots) {
    if (++slot == slots) {
      slot = 0;
      phase ^= 1U;
    }
  }
};

struct PromptRing {
  uint8_t* x;        // [slots][128 rows][64 k] bf16, parts of rows exchanged as device/wgmma.h says
  uint8_t* weights;  // [slots][8 strips] tiles
  device::Barrier* filled;
  device::Barrier* free;
  int slots;
  int weight_bytes;

  WEIR_DEVICE PromptRing(uint8_t* shared, int ring_slots, int ring_weight_bytes)
      : slots(ring_slots), weight_bytes(ring_weight_bytes) {
    x = shared + (kPromptAlign - device::shared_address(shared) % kPromptAlign) % kPromptAlign;
    weights = x + slots * kPromptXBytes;
    filled = reinterpret_cast<device::Barrier*>(weights + slots * weight_bytes);
    free = filled + slots;
    if (threadIdx.x == 0) {
      for (int i = 0; i < slots; ++i) {
        device::barrier_init(&filled[i], kPromptBringing + 1);
        device::barrier_init(&free[i], kPromptStrips);
      }
      device::barrier_init_done();
    }
    __syncthreads();
  }
  WEIR_DEVICE uint8_t* x_slot(PromptPlace at) const { return x + at.slot * kPromptXBytes; }
  WEIR_DEVICE uint8_t* weight_slot(PromptPlace at) const { return weights + at.slot * weight_bytes; }
  WEIR_DEVICE void wait_filled(PromptPlace at) const { device::barrier_wait(&filled[at.slot], at.phase); }
  // The first round finds every slot free.
  WEIR_DEVICE void wait_free(PromptPlace at) const { device::barrier_wait(&free[at.slot], at.phase ^ 1U); }
  WEIR_DEVICE void release(PromptPlace at) const {
    __syncwarp();
    if (device::lane() == 0) device::barrier_arrive(&free[at.slot]);
  }
};

// By the first warp that brings: a tile of each of the unit's strips. Counts as one arrival.
WEIR_DEVICE void bring_weights(const PromptRing& ring, PromptPlace at, const PromptUnit& unit, int tile) {
  const GpuPacked& w = unit.weight;
  const int strips = min(kPromptStrips, w.strips - unit.strip);
  const int bytes = packed_tile_bytes(w.format);
  if (device::lane() == 0) device::barrier_expect(&ring.filled[at.slot], static_cast<uint32_t>(strips * bytes));
  __syncwarp();
  if (device::lane() < strips) {
    const int64_t from = static_cast<int64_t>(unit.strip + device::lane()) * w.tiles + tile;
    device::bulk_copy(ring.weight_slot(at) + device::lane() * bytes, w.data + from * bytes,
                      static_cast<uint32_t>(bytes), &ring.filled[at.slot]);
  }
  __syncwarp();
}

// The rows of x that a thread brings: 16 bytes of each 16th row.
struct PromptRows {
  static constexpr int kRows = kPromptTokens / (kPromptBringing / 8);
  static constexpr uint32_t kNone = 0xffffffffU;
  const uint16_t* x;
  uint32_t places[kRows];  // of this thread's rows, in units of 16 bytes
  int part;                // of the eight of a row
  int to;                  // byte of the slot

  WEIR_DEVICE explicit PromptRows(const uint16_t* rows) : x(rows) {
    const int thread = static_cast<int>(threadIdx.x) - kPromptComputing;
    part = thread % 8;
    to = thread / 8 * 128 + ((part ^ (thread / 8 % 8)) * 16);
  }
  template <class Work>
  WEIR_DEVICE void choose(const Work& work, const PromptUnit& unit) {
    const int first = (static_cast<int>(threadIdx.x) - kPromptComputing) / 8;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int row = first + i * (kPromptBringing / 8);
      places[i] = row < unit.rows ? static_cast<uint32_t>(work.row(unit, row) * (work.x_stride() / 8)) : kNone;
    }
  }
  WEIR_DEVICE void copy(uint8_t* slot, const PromptUnit& unit, int tile) const {
    const int k = tile * kTileK / 8 + part;
    const bool within = k * 8 < unit.weight.k;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (i * (kPromptBringing / 8) >= unit.size) break;
      const bool valid = within && places[i] != kNone;
      device::copy16(slot + to + i * (kPromptBringing / 8) * 128,
                     x + (valid ? (static_cast<int64_t>(places[i]) + k) * 8 : 0), valid);
    }
  }
};

// Fills the ring for every unit of this block. Weights of the first unit are asked for before the kernel before this
// one has ended, where `Work::kKnownBefore` says that the units can be known then.
template <class Work>
WEIR_DEVICE void bring(const Work& work, const uint16_t* x, const PromptRing& ring) {
  const bool first_warp = device::warp() == kPromptComputing / device::kWarp;
  int early = 0;
  if constexpr (Work::kKnownBefore) {
    if (static_cast<int>(blockIdx.x) < work.count()) {
      const PromptUnit unit = work.unit(static_cast<int>(blockIdx.x));
      early = min(ring.slots, unit.weight.tiles);
      if (first_warp) {
        for (int i = 0; i < early; ++i) bring_weights(ring, PromptPlace{i, 0}, unit, i);
      }
    }
  }
  device::wait_for_previous();
  device::start_next();
  PromptRows rows(x);
  PromptPlace at;
  PromptPlace announced;
  int under_way = 0;
  const auto announce = [&] {
    device::fence_async();
    device::barrier_arrive(&ring.filled[announced.slot]);
    announced.advance(ring.slots);
    --under_way;
  };
  const int count = work.count();
  for (int i = static_cast<int>(blockIdx.x); i < count; i += static_cast<int>(gridDim.x)) {
    const PromptUnit unit = work.unit(i);
    if (unit.strip >= unit.weight.strips) continue;
    rows.choose(work, unit);
    for (int tile = 0; tile < unit.weight.tiles; ++tile) {
      ring.wait_free(at);
      if (early > 0) {
        --early;
      } else if (first_warp) {
        bring_weights(ring, at, unit, tile);
      }
      rows.copy(ring.x_slot(at), unit, tile);
      device::copies_commit();
      at.advance(ring.slots);
      if (++under_way > kPromptAhead) {
        device::copies_wait<kPromptAhead>();
        announce();
      }
    }
  }
  device::copies_wait<0>();
  while (under_way > 0) announce();
}

// The products of one stage with this warp's tile of weights. The first of a block overwrites what stood in `sum`.
template <int kSize>
WEIR_DEVICE void multiply_stage(const PromptRing& ring, PromptPlace at, const uint32_t (&a)[4][4], bool first,
                                float (&sum)[kSize / 2]) {
  const uint64_t columns = device::wgmma_columns(device::shared_address(ring.x_slot(at)));
  device::wgmma_fence();
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    device::wgmma<kSize>(sum, a[j], columns + static_cast<uint64_t>(2 * j), !first || j > 0);
  }
  device::wgmma_commit();
}

template <int kFormat>
WEIR_DEVICE void take_weights(const PromptRing& ring, PromptPlace at, uint32_t (&a)[4][4]) {
  ring.wait_filled(at);
  PackedTile<kFormat>::load(ring.weight_slot(at) + device::warp() * PackedTile<kFormat>::kBytes, a);
}

// The block's products have ended: its last slot is free, and its sums join the total.
template <int kSize>
WEIR_DEVICE void join_block(const PromptRing& ring, PromptPlace last, float2 scale, float (&sum)[kSize / 2],
                            float (&total)[kSize / 2]) {
  device::wgmma_wait<0>();
  device::wgmma_settle(sum);
  ring.release(last);
#pragma unroll
  for (int i = 0; i < kSize / 2; ++i) total[i] = fmaf(sum[i], i % 4 < 2 ? scale.x : scale.y, total[i]);
}

// All of K: total[4 j + 2 h + e] is row g + 8 h of this warp's strip, token 8 j + 2 t + e. While the matrix units work
// on a stage, the weights of the next become registers.
template <int kFormat, int kSize>
WEIR_DEVICE void multiply_unit(const PromptRing& ring, PromptPlace& at, const PromptUnit& unit,
                               float (&total)[kSize / 2]) {
  const GpuPacked& w = unit.weight;
  const int blocks = (w.tiles + 1) / 2;
  const auto* scales = reinterpret_cast<const float2*>(w.scales);
  if (scales != nullptr) scales += static_cast<int64_t>(min(unit.strip + device::warp(), w.strips - 1)) * blocks;
  const auto scale_of = [&](int block) { return scales != nullptr ? __ldg(scales + block) : float2{1.0F, 1.0F}; };
  float sum[kSize / 2];
#pragma unroll
  for (int i = 0; i < kSize / 2; ++i) sum[i] = total[i] = 0;
  uint32_t even[4][4];
  uint32_t odd[4][4];
  take_weights<kFormat>(ring, at, even);
  for (int block = 0; block < w.tiles / 2; ++block) {
    const float2 scale = scale_of(block);
    const PromptPlace first = at;
    multiply_stage<kSize>(ring, first, even, true, sum);
    at.advance(ring.slots);
    const PromptPlace second = at;
    take_weights<kFormat>(ring, second, odd);
    multiply_stage<kSize>(ring, second, odd, false, sum);
    at.advance(ring.slots);
    device::wgmma_wait<1>();
    ring.release(first);
    if (2 * block + 2 < w.tiles) take_weights<kFormat>(ring, at, even);
    join_block<kSize>(ring, second, scale, sum, total);
  }
  if (w.tiles % 2 == 0) return;
  const float2 scale = scale_of(blocks - 1);
  multiply_stage<kSize>(ring, at, even, true, sum);
  join_block<kSize>(ring, at, scale, sum, total);
  at.advance(ring.slots);
}

template <int kFormat, int kSize, class Work>
WEIR_DEVICE void compute_unit(const Work& work, const PromptRing& ring, PromptPlace& at, const PromptUnit& unit) {
  float total[kSize / 2];
  multiply_unit<kFormat, kSize>(ring, at, unit, total);
  if (unit.strip + device::warp() < unit.weight.strips) work.template finish<kSize>(unit, total);
}

template <class Work>
WEIR_DEVICE void compute(const Work& work, const PromptRing& ring) {
  device::wait_for_previous();
  device::start_next();
  PromptPlace at;
  const int count = work.count();
  for (int i = static_cast<int>(blockIdx.x); i < count; i += static_cast<int>(gridDim.x)) {
    const PromptUnit unit = work.unit(i);
    if (unit.strip >= unit.weight.strips) continue;
    with_packed_format(unit.weight.format, [&]<int kFormat>() {
      if (unit.size == 128) return compute_unit<kFormat, 128>(work, ring, at, unit);
      if (unit.size == 64) return compute_unit<kFormat, 64>(work, ring, at, unit);
      return compute_unit<kFormat, 32>(work, ring, at, unit);
    });
  }
}

// What a kernel of this kind does. Work: kKnownBefore; count(), unit(i): the units, the same for every thread;
// row(unit, r), x_stride(): which row of x is token row r of the unit; finish<size>(unit, total): by each warp.
template <class Work>
WEIR_DEVICE void prompt_products(const Work& work, const uint16_t* x, int slots, int weight_bytes) {
  extern __shared__ __align__(1024) uint8_t shared[];
  const PromptRing ring(shared, slots, weight_bytes);
  if (static_cast<int>(threadIdx.x) >= kPromptComputing) {
    device::fewer_registers<kPromptFewRegisters>();
    bring(work, x, ring);
  } else {
    device::more_registers<kPromptManyRegisters>();
    compute(work, ring);
  }
}

}  // namespace weir
