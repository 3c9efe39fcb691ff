// For kernel files of Hopper: tiles of packed weights times rows, float32 sums as ops/linear/packed.h states them.
//
// A block of threads works through units, one after the other: 128 rows of a weight matrix (8 strips) times up to 128
// rows of x, all of K; or 64 rows (4 strips), and the rows of x are shared out between the warpgroups. Two warpgroups
// compute, a warp a strip: weights become registers, rows of x are read by the matrix units from shared memory. A third
// warpgroup brings both operands: ops/linear/prompt_ring.h.
#pragma once

#include "device/wgmma.h"
#include "ops/linear/packed_mma.h"
#include "ops/linear/prompt_ring.h"

namespace weir {

inline constexpr int kPromptWarpgroup = 4;  // warps
// A thread that brings keeps the places of eight rows; what is left of the registers goes to the sums.
inline constexpr int kPromptFewRegisters = 72;
inline constexpr int kPromptManyRegisters = 216;

// A computing warp's view of the ring.
struct PromptReader {
  const PromptRing& ring;
  RingPlace at;
  int strip = 0;        // of the unit, that this warp takes
  uint32_t x_byte = 0;  // of a slot: where this warpgroup's columns begin

  // The next stage is there, its rows of x ready for the matrix units.
  WEIR_DEVICE void wait_filled() const {
    ring.wait_filled(at);
    device::fence_async();
  }
  // This warp's tile, the stage's first or second, as registers.
  template <int kFormat>
  WEIR_DEVICE void take_weights(int tile, uint32_t (&a)[4][4]) const {
    PackedTile<kFormat>::load(ring.weight_slot(at) + (2 * strip + tile) * PackedTile<kFormat>::kBytes, a);
  }
};

// The products of one of the stage's tiles of k. The first of a block overwrites what stood in `sum`.
template <int kFormat, int kSize>
WEIR_DEVICE void multiply_tile(const PromptReader& reader, int tile, const uint32_t (&a)[4][4],
                               float (&sum)[kSize / 2]) {
  constexpr bool kF16 = operand_type(kFormat) == kOperandF16;
  const uint8_t* x = reader.ring.x_slot(reader.at) + tile * kPromptXBytes;
  const uint64_t columns = device::wgmma_columns(device::shared_address(x) + reader.x_byte);
  device::wgmma_fence();
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    device::wgmma<kF16, kSize>(sum, a[j], columns + static_cast<uint64_t>(2 * j), tile > 0 || j > 0);
  }
  device::wgmma_commit();
}

// The block's products have ended: its slot is free, and its sums join the total.
template <int kSize>
WEIR_DEVICE void join_block(const PromptReader& reader, RingPlace done, float2 scale, float (&sum)[kSize / 2],
                            float (&total)[kSize / 2]) {
  device::wgmma_wait<0>();
  device::wgmma_settle(sum);
  reader.ring.release(done);
#pragma unroll
  for (int i = 0; i < kSize / 2; ++i) total[i] = fmaf(sum[i], i % 4 < 2 ? scale.x : scale.y, total[i]);
}

// All of K: total[4 j + 2 h + e] is row g + 8 h of this warp's strip, column 8 j + 2 t + e of its warpgroup's. The
// unit's first stage is there. While the matrix units work on a tile, the weights of the next become registers.
template <int kFormat, int kSize>
WEIR_DEVICE void multiply_unit(PromptReader& reader, const PromptUnit& unit, float (&total)[kSize / 2]) {
  const int blocks = (unit.tiles + 1) / 2;
  const auto* scales = reinterpret_cast<const float2*>(unit.scales);
  if (scales != nullptr) scales += min(reader.strip, unit.strips - 1) * blocks;
  const auto scale_of = [&](int block) { return scales != nullptr ? __ldg(scales + block) : float2{1.0F, 1.0F}; };
  float sum[kSize / 2];
#pragma unroll
  for (int i = 0; i < kSize / 2; ++i) sum[i] = total[i] = 0;
  uint32_t even[4][4];
  uint32_t odd[4][4];
  reader.take_weights<kFormat>(0, even);
  for (int block = 0; block < unit.tiles / 2; ++block) {
    const float2 scale = scale_of(block);
    const RingPlace now = reader.at;
    multiply_tile<kFormat, kSize>(reader, 0, even, sum);
    reader.take_weights<kFormat>(1, odd);
    multiply_tile<kFormat, kSize>(reader, 1, odd, sum);
    device::wgmma_wait<1>();
    reader.at.advance(reader.ring.slots);
    if (block + 1 < blocks) {
      reader.wait_filled();
      reader.take_weights<kFormat>(0, even);
    }
    join_block<kSize>(reader, now, scale, sum, total);
  }
  if (unit.tiles % 2 == 0) return;
  const float2 scale = scale_of(blocks - 1);
  multiply_tile<kFormat, kSize>(reader, 0, even, sum);
  join_block<kSize>(reader, reader.at, scale, sum, total);
  reader.at.advance(reader.ring.slots);
}

// Where a warp's totals belong: its strip of the matrix, maybe behind the last; its first row among the unit's.
struct PromptPart {
  int strip;
  int row;
};

template <int kFormat, int kSize, class Work>
WEIR_DEVICE void compute_unit(const Work& work, PromptReader& reader, const PromptUnit& unit) {
  float total[kSize / 2];
  multiply_unit<kFormat, kSize>(reader, unit, total);
  const int warpgroup = device::warp() / kPromptWarpgroup;
  const PromptPart part{unit.strip + reader.strip, unit.split != 0 ? warpgroup * kSize : 0};
  if (part.row < unit.rows) work.template finish<kSize>(unit, part, total, reader.ring.beside);
}

template <class Work>
WEIR_DEVICE void compute(const Work& work, const PromptRing& ring) {
  device::wait_for_previous();
  device::start_next();
  PromptReader reader{ring, {}};
  while (true) {
    reader.wait_filled();
    const PromptUnit unit = ring.unit(reader.at);
    if (unit.columns == 0) break;
    const int warpgroup = device::warp() / kPromptWarpgroup;
    reader.strip = unit.split != 0 ? device::warp() % kPromptWarpgroup : device::warp();
    reader.x_byte = unit.split != 0 ? static_cast<uint32_t>(warpgroup * unit.columns * kTileK * 2) : 0;
    with_packed_format(unit.format, [&]<int kFormat>() {
      switch (unit.columns) {
        case 128:
          return compute_unit<kFormat, 128>(work, reader, unit);
        case 64:
          return compute_unit<kFormat, 64>(work, reader, unit);
        case 32:
          return compute_unit<kFormat, 32>(work, reader, unit);
        default:
          return compute_unit<kFormat, 16>(work, reader, unit);
      }
    });
  }
  device::bulk_stores_wait();
}

// What a kernel of this kind does. Work: kKnownBefore; kCounted, counter(); count(), unit(i): the units, the same for
// every thread, passed over where they have no strips; row(unit, r), x_stride(): which row of x is row r of the unit;
// finish<size>(unit, part, total, beside): by the warps of each warpgroup that has rows; kBeside: bytes of shared
// memory at `beside`.
template <class Work>
WEIR_DEVICE void prompt_products(const Work& work, int slots, int weight_bytes) {
  extern __shared__ __align__(1024) uint8_t shared[];
  const PromptRing ring(shared, slots, weight_bytes, Work::kBeside);
  if (static_cast<int>(threadIdx.x) >= kPromptComputing) {
    device::fewer_registers<kPromptFewRegisters>();
    bring(work, ring);
  } else {
    device::more_registers<kPromptManyRegisters>();
    compute(work, ring);
  }
}

}  // namespace weir
