// For kernel files: how products with packed weights are worked off. Two roles, a pipeline. Eight warps multiply: a
// unit is a block of K of a strip, a group at most 16 units that lie behind each other, and of every group warp w has
// units 2w and 2w + 1. Each keeps a ring of its own filled by the copy engine and waits for no other warp. Two warps
// join the sums of a group in order and hand out what is finished.
#pragma once

#include "device/async.h"
#include "ops/linear/packed_mma.h"
#include "ops/linear/packed_sizes.h"

namespace weir {

inline constexpr int kPackedMultiplying = kPackedWarps * device::kWarp;
inline constexpr int kPackedThreads = kPackedMultiplying + kPackedJoinWarps * device::kWarp;

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

// By every lane of a warp, once it has filled its part or read for the last time.
WEIR_DEVICE void warp_arrive(device::Barrier* barrier) {
  __syncwarp();
  if (device::lane() == 0) device::barrier_arrive(barrier);
}

// The ring of weights of one warp. A slot holds a unit, of BF16 half of one; what a kernel keeps beside it follows.
struct WarpRing {
  uint8_t* data;
  device::Barrier* filled;
  int slots;
  int slot_bytes;

  WEIR_DEVICE uint8_t* slot(RingPlace at) const { return data + at.slot * slot_bytes; }
  WEIR_DEVICE void wait(RingPlace at) const { device::barrier_wait(&filled[at.slot], at.phase); }
};

// Sums of a few groups on their way to those who join: [slots][16 units][columns][kSumStride].
struct SumRing {
  float* data;
  device::Barrier* filled;
  device::Barrier* free;
  int slots;
  int columns;

  WEIR_DEVICE float* unit(RingPlace at, int u) const {
    return data + (at.slot * kPackedUnits + u) * columns * kSumStride;
  }
  WEIR_DEVICE int unit_stride() const { return columns * kSumStride; }
  WEIR_DEVICE void wait_filled(RingPlace at) const { device::barrier_wait(&filled[at.slot], at.phase); }
  // The first round finds every slot free.
  WEIR_DEVICE void wait_free(RingPlace at) const { device::barrier_wait(&free[at.slot], at.phase ^ 1U); }
};

// Shared memory of a block: the rings of its warps, the sums, and the scales that those who join read ahead.
struct Pipe {
  WarpRing ring;  // of this warp, where it multiplies
  SumRing sums;
  float* scales;  // of this warp, where it joins: [kScaleSlots][32]

  // Lays out everything at `at`, aligned to 16 bytes, and prepares the barriers; `arrivals`: of a slot that is filled.
  // Returns the first byte behind.
  WEIR_DEVICE uint8_t* make(uint8_t* at, int slots, int slot_bytes, int columns, int sum_slots, int arrivals) {
    const int warp = device::warp();
    ring.slots = slots;
    ring.slot_bytes = slot_bytes;
    ring.data = at + warp % kPackedWarps * slots * slot_bytes;
    at += kPackedWarps * slots * slot_bytes;
    scales = reinterpret_cast<float*>(at) + max(warp - kPackedWarps, 0) * kScaleSlots * 2 * kPackedUnits;
    at += kPackedScaleBytes;
    sums.data = reinterpret_cast<float*>(at);
    sums.slots = sum_slots;
    sums.columns = columns;
    at += sum_slots * packed_sum_bytes(columns);
    auto* barriers = reinterpret_cast<device::Barrier*>(at);
    ring.filled = barriers + warp % kPackedWarps * slots;
    sums.filled = barriers + kPackedWarps * slots;
    sums.free = sums.filled + sum_slots;
    const int count = kPackedWarps * slots + 2 * sum_slots;
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kPackedThreads) {
      const int own = kPackedWarps * slots;
      device::barrier_init(&barriers[i], i < own ? arrivals : (i < own + sum_slots ? kPackedWarps : kPackedJoinWarps));
    }
    device::barrier_init_done();
    __syncthreads();
    return at + packed_barrier_bytes(slots, sum_slots);
  }
};

// Brings the units of a warp, one behind the other, as far as its ring has room. Walk: more(), next(): the groups;
// units(), format(), source(u), bytes(u): of the group.
template <class Walk>
struct Bringer {
  Walk walk;
  int unit = 0;  // of this warp's two
  int room;
  RingPlace at;

  WEIR_DEVICE Bringer(const Walk& first, int slots) : walk(first), room(slots) { skip(); }
  WEIR_DEVICE void skip() {
    while (walk.more() && 2 * device::warp() + unit >= walk.units()) {
      walk.next();
      unit = 0;
    }
  }
  WEIR_DEVICE void next() {
    if (++unit == 2) {
      walk.next();
      unit = 0;
    }
    skip();
  }
  // `beside(walk, u, at)`: what else a slot needs.
  template <class Beside>
  WEIR_DEVICE void bring(const WarpRing& ring, const Beside& beside) {
    while (walk.more()) {
      const int pieces = packed_pieces(walk.format());
      if (room < pieces) return;
      room -= pieces;
      const int u = 2 * device::warp() + unit;
      const uint8_t* from = walk.source(u);
      int left = walk.bytes(u);
      for (int i = 0; i < pieces; ++i) {
        // A slot that stays empty (of BF16, where the last block of K is half a block) is filled all the same.
        const int bytes = min(left, kPieceBytes);
        if (device::lane() == 0) {
          if (bytes > 0) {
            device::barrier_expect(&ring.filled[at.slot], static_cast<uint32_t>(bytes));
            device::bulk_copy(ring.slot(at), from, static_cast<uint32_t>(bytes), &ring.filled[at.slot]);
          } else {
            device::barrier_arrive(&ring.filled[at.slot]);
          }
        }
        beside(walk, u, at);
        from += bytes;
        left -= bytes;
        at.advance(ring.slots);
      }
      next();
    }
  }
  WEIR_DEVICE void bring(const WarpRing& ring) {
    bring(ring, [](const Walk&, int, RingPlace) {});
  }
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

// This warp's units of a group: `units` of them, one or two, unit i of tile_counts[i] tiles. addresses[i][c]: what
// load_matrices() takes of column tile c at the first k of unit i.
template <int kFormat, int kTiles8>
WEIR_DEVICE void multiply_units(const WarpRing& ring, RingPlace& at, const SumRing& sums, RingPlace to, int units,
                                const int (&tile_counts)[2], int columns, const uint32_t (&addresses)[2][kTiles8]) {
  const int u = 2 * device::warp();
  const uint8_t* tiles[2][2] = {};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (i >= units) break;
    ring.wait(at);
    tiles[i][0] = ring.slot(at);
    tiles[i][1] = tiles[i][0] + PackedTile<kFormat>::kBytes;
    at.advance(ring.slots);
    if constexpr (packed_pieces(kFormat) == 2) {
      ring.wait(at);
      tiles[i][1] = ring.slot(at);
      at.advance(ring.slots);
    }
  }
  // One column tile: two units side by side hide each other's waiting.
  if (kTiles8 == 1 && units == 2 && tile_counts[0] + tile_counts[1] == 4) {
    float d[2][kTiles8][4];
    block_products<kFormat, 2, kTiles8, 2>(tiles, addresses, d);
    sums.wait_free(to);
    keep_sums<kTiles8>(sums.unit(to, u), columns, d[0]);
    keep_sums<kTiles8>(sums.unit(to, u + 1), columns, d[1]);
    return;
  }
  sums.wait_free(to);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (i >= units) break;
    const uint8_t* const one[1][2] = {{tiles[i][0], tiles[i][1]}};
    uint32_t address[1][kTiles8];
#pragma unroll
    for (int c = 0; c < kTiles8; ++c) address[0][c] = addresses[i][c];
    float d[1][kTiles8][4];
    if (tile_counts[i] == 2) {
      block_products<kFormat, 1, kTiles8, 2>(one, address, d);
    } else {
      block_products<kFormat, 1, kTiles8, 1>(one, address, d);
    }
    keep_sums<kTiles8>(sums.unit(to, u + i), columns, d[0]);
  }
}

// The groups of a warp that multiplies. addresses(walk, at, out): of the B operands of its two units, the first of
// which stands at `at` of the ring; called only where it has any. Walk further: tiles(u), columns(): of the group.
template <int kTiles8, class Walk, class Addresses, class Beside>
WEIR_DEVICE void multiply_groups(const Pipe& pipe, Walk walk, Bringer<Walk>& bringer, const Addresses& addresses,
                                 const Beside& beside) {
  RingPlace at;
  RingPlace to;
  const int first = 2 * device::warp();
  for (; walk.more(); walk.next()) {
    const int units = min(2, walk.units() - first);
    if (units > 0) {
      uint32_t columns[2][kTiles8];
      addresses(walk, at, columns);
      const int tiles[2] = {walk.tiles(first), units == 2 ? walk.tiles(first + 1) : 0};
      with_packed_format(walk.format(), [&]<int kFormat>() {
        multiply_units<kFormat, kTiles8>(pipe.ring, at, pipe.sums, to, units, tiles, walk.columns(), columns);
      });
    } else {
      pipe.sums.wait_free(to);
    }
    warp_arrive(&pipe.sums.filled[to.slot]);
    to.advance(pipe.sums.slots);
    if (units > 0) {
      bringer.room += units * packed_pieces(walk.format());
      bringer.bring(pipe.ring, beside);
    }
  }
}

// Scales of the groups to come, read ahead by each warp that joins. Walk further: scale(i): where the i-th of the
// group's floats is, two a unit; null: there is none.
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
  // The scales of the next group, [unit][2]; called once a group.
  WEIR_DEVICE const float* next() {
    __syncwarp();  // nobody reads the group before any more
    ask();
    device::copies_wait<kScaleSlots - 1>();
    __syncwarp();
    return slots + slot * 2 * kPackedUnits;
  }
};

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

// What load_matrices() takes of row `row` at `k` of rows in shared memory `row_bytes` apart.
WEIR_DEVICE uint32_t column_address(const uint8_t* rows, int row_bytes, int row, int k) {
  return device::shared_address(rows + row * row_bytes + 2 * k + device::lane() / 8 * 16);
}

}  // namespace weir
