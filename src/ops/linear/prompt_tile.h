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

// The warpgroups ask for the products of a block in turn: the matrix units work off one's while the other joins sums
// and makes registers of weights. Left to themselves they share the units evenly, end at the same time and then both
// leave them idle.
struct ProductTurn {
  device::Barrier* own;
  device::Barrier* other;
  uint32_t phase;

  template <class Ring>
  WEIR_DEVICE ProductTurn(const Ring& ring, int warpgroup)
      : own(&ring.product_turns[warpgroup]),
        other(&ring.product_turns[warpgroup ^ 1]),
        phase(warpgroup == 0 ? 1U : 0U) {}
  WEIR_DEVICE void wait() {
    device::barrier_wait(own, phase);
    phase ^= 1U;
  }
  WEIR_DEVICE void pass() const { device::warp_arrive(other); }
};

// A computing warp's view of the ring.
template <bool kE4m3>
struct PromptReader {
  const PromptRing<kE4m3>& ring;
  ProductTurn turn;
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
  // This warp's codes of the block: codes[tile][row g, row g + 8].
  WEIR_DEVICE void take_codes(uint4 (&codes)[2][2]) const {
    constexpr int kBytes = packed_tile_bytes(kGpuFp8Block);
    const auto* planes = reinterpret_cast<const uint4*>(ring.weight_slot(at) + 2 * strip * kBytes) + device::lane();
#pragma unroll
    for (int i = 0; i < 4; ++i) codes[i / 2][i % 2] = planes[i * device::kWarp];
  }
  // Where the matrix units find the columns of one of the stage's tiles.
  WEIR_DEVICE uint64_t columns(int tile) const {
    const uint8_t* x = ring.x_slot(at) + tile * kPromptXBytes;
    return device::wgmma_columns(device::shared_address(x) + x_byte);
  }
  // The scales of this warpgroup's rows of x.
  WEIR_DEVICE const float* column_scales() const { return ring.scale_slot(at) + x_byte / (kTileK * 2); }
};

// The products of one of the stage's tiles of k. The first of a block overwrites what stood in `sum`.
template <int kFormat, int kSize>
WEIR_DEVICE void multiply_tile(const PromptReader<false>& reader, int tile, const uint32_t (&a)[4][4],
                               float (&sum)[kSize / 2]) {
  constexpr auto kType = operand_type(kFormat) == kOperandF16 ? device::kWgmmaF16 : device::kWgmmaBf16;
  const uint64_t columns = reader.columns(tile);
  device::wgmma_fence();
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    device::wgmma<kType, kSize>(sum, a[j], columns + static_cast<uint64_t>(2 * j), tile > 0 || j > 0);
  }
  device::wgmma_commit();
}

// The block's products have ended: its slot is free, and its sums join the total.
template <int kSize>
WEIR_DEVICE void join_block(const PromptReader<false>& reader, RingPlace done, float2 scale, float (&sum)[kSize / 2],
                            float (&total)[kSize / 2]) {
  device::wgmma_wait<0>();
  device::wgmma_settle(sum);
  reader.ring.release(done);
#pragma unroll
  for (int i = 0; i < kSize / 2; ++i) total[i] = fmaf(sum[i], i % 4 < 2 ? scale.x : scale.y, total[i]);
}

// The weights' scales of a strip, its rows g and g + 8: of a block each.
struct StripScales {
  const float2* scales;
  WEIR_DEVICE StripScales(const PromptUnit& unit, int strip, int blocks)
      : scales(reinterpret_cast<const float2*>(unit.scales)) {
    if (scales != nullptr) scales += min(strip, unit.strips - 1) * blocks;
  }
  WEIR_DEVICE float2 operator()(int block) const {
    return scales != nullptr ? __ldg(scales + block) : float2{1.0F, 1.0F};
  }
};

// All of K: total[4 j + 2 h + e] is row g + 8 h of this warp's strip, column 8 j + 2 t + e of its warpgroup's. The
// unit's first stage is there. While the matrix units work on a tile, the weights of the next become registers.
template <int kFormat, int kSize>
WEIR_DEVICE void multiply_unit(PromptReader<false>& reader, const PromptUnit& unit, float (&total)[kSize / 2]) {
  const int blocks = (unit.tiles + 1) / 2;
  const StripScales scale_of(unit, reader.strip, blocks);
  float sum[kSize / 2];
#pragma unroll
  for (int i = 0; i < kSize / 2; ++i) sum[i] = total[i] = 0;
  uint32_t even[4][4];
  uint32_t odd[4][4];
  reader.take_weights<kFormat>(0, even);
  for (int block = 0; block < unit.tiles / 2; ++block) {
    const float2 scale = scale_of(block);
    const RingPlace now = reader.at;
    reader.turn.wait();
    multiply_tile<kFormat, kSize>(reader, 0, even, sum);
    reader.take_weights<kFormat>(1, odd);
    multiply_tile<kFormat, kSize>(reader, 1, odd, sum);
    reader.turn.pass();
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
  reader.turn.wait();
  multiply_tile<kFormat, kSize>(reader, 0, even, sum);
  reader.turn.pass();
  join_block<kSize>(reader, reader.at, scale, sum, total);
  reader.at.advance(reader.ring.slots);
}

// The products of a block of quantised rows. Both operands have their k in the order of packed weights, so that codes
// are registers as they lie.
template <int kSize>
WEIR_DEVICE void multiply_codes(const PromptReader<true>& reader, const uint4 (&codes)[2][2], float (&sum)[kSize / 2]) {
  const uint64_t columns = reader.columns(0);
  uint32_t a[4][4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const uint4 low = codes[j / 2][0];
    const uint4 high = codes[j / 2][1];
    a[j][0] = j % 2 == 0 ? low.x : low.z;
    a[j][1] = j % 2 == 0 ? high.x : high.z;
    a[j][2] = j % 2 == 0 ? low.y : low.w;
    a[j][3] = j % 2 == 0 ? high.y : high.w;
  }
  device::wgmma_fence();
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    device::wgmma<device::kWgmmaE4m3, kSize>(sum, a[j], columns + static_cast<uint64_t>(2 * j), j > 0);
  }
  device::wgmma_commit();
}

// Its sums join the total. kSame: both rows have one scale, which saves half of the multiplications.
template <int kSize, bool kSame>
WEIR_DEVICE void join_codes(float2 scale, const float2 (&columns)[kSize / 8], const float (&sum)[kSize / 2],
                            float (&total)[kSize / 2]) {
#pragma unroll
  for (int j = 0; j < kSize / 8; ++j) {
    const float2 low = {scale.x * columns[j].x, scale.x * columns[j].y};
    const float2 high = kSame ? low : float2{scale.y * columns[j].x, scale.y * columns[j].y};
    total[4 * j] = fmaf(sum[4 * j], low.x, total[4 * j]);
    total[4 * j + 1] = fmaf(sum[4 * j + 1], low.y, total[4 * j + 1]);
    total[4 * j + 2] = fmaf(sum[4 * j + 2], high.x, total[4 * j + 2]);
    total[4 * j + 3] = fmaf(sum[4 * j + 3], high.y, total[4 * j + 3]);
  }
}

// The same of quantised rows. Their weights need no work, so that a block is one chain of products, and while its sums
// join the total the matrix units work for the other warpgroup. The stage's scales are registers before the chain ends,
// and its slot is free with it.
template <int kFormat, int kSize>
WEIR_DEVICE void multiply_unit(PromptReader<true>& reader, const PromptUnit& unit, float (&total)[kSize / 2]) {
  static_assert(kFormat == kGpuFp8Block);
  const int blocks = unit.tiles / 2;
  const StripScales scale_of(unit, reader.strip, blocks);
  float sum[kSize / 2];
#pragma unroll
  for (int i = 0; i < kSize / 2; ++i) sum[i] = total[i] = 0;
  uint4 codes[2][2];
  reader.take_codes(codes);
  float2 scale = scale_of(0);
#pragma unroll 1
  for (int block = 0; block < blocks; ++block) {
    const bool more = block + 1 < blocks;
    reader.turn.wait();
    multiply_codes<kSize>(reader, codes, sum);
    reader.turn.pass();
    const float2 next_scale = more ? scale_of(block + 1) : scale;
    const auto* of_columns = reinterpret_cast<const float2*>(reader.column_scales()) + device::lane() % 4;
    float2 column_scales[kSize / 8];
#pragma unroll
    for (int j = 0; j < kSize / 8; ++j) column_scales[j] = of_columns[4 * j];
    device::wgmma_wait<0>();
    device::wgmma_settle(sum);
    reader.ring.release(reader.at);
    reader.at.advance(reader.ring.slots);
    // Weights that are there come while sums are joined; those that are not keep no sums waiting.
    const bool there = __all_sync(device::kAllLanes, more && reader.ring.is_filled(reader.at)) != 0;
    if (there) {
      reader.wait_filled();
      reader.take_codes(codes);
    }
    if (scale.x == scale.y) {
      join_codes<kSize, true>(scale, column_scales, sum, total);
    } else {
      join_codes<kSize, false>(scale, column_scales, sum, total);
    }
    scale = next_scale;
    if (more && !there) {
      reader.wait_filled();
      reader.take_codes(codes);
    }
  }
}

// Where a warp's totals belong: its strip of the matrix, maybe behind the last; its first row among the unit's.
struct PromptPart {
  int strip;
  int row;
};

template <int kFormat, int kSize, class Work>
WEIR_DEVICE void compute_unit(const Work& work, PromptReader<Work::kE4m3>& reader, const PromptUnit& unit) {
  float total[kSize / 2];
  multiply_unit<kFormat, kSize>(reader, unit, total);
  const int warpgroup = device::warp() / kPromptWarpgroup;
  const PromptPart part{unit.strip + reader.strip, unit.split != 0 ? warpgroup * kSize : 0};
  if (part.row < unit.rows) work.template finish<kSize>(unit, part, total, reader.ring.beside);
}

template <class Work>
WEIR_DEVICE void compute(const Work& work, const PromptRing<Work::kE4m3>& ring) {
  device::wait_for_previous();
  device::start_next();
  PromptReader<Work::kE4m3> reader{ring, ProductTurn(ring, device::warp() / kPromptWarpgroup), {}};
  while (true) {
    reader.wait_filled();
    const PromptUnit unit = ring.unit(reader.at);
    if (unit.columns == 0) break;
    const int warpgroup = device::warp() / kPromptWarpgroup;
    reader.strip = unit.split != 0 ? device::warp() % kPromptWarpgroup : device::warp();
    reader.x_byte = unit.split != 0 ? static_cast<uint32_t>(warpgroup * unit.columns * kTileK * 2) : 0;
    const auto compute_columns = [&]<int kFormat>() {
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
    };
    if constexpr (Work::kE4m3) {
      compute_columns.template operator()<kGpuFp8Block>();
    } else {
      with_packed_format(unit.format, compute_columns);
    }
  }
  device::bulk_stores_wait();
}

// What a kernel of this kind does. Work: kE4m3, whether rows are quantised, with x_scales(), scale_stride() where they
// are (x_stride() is then of half as many 16-bit numbers); kKnownBefore; kCounted, counter(); count(), unit(i): the
// units, the same for every thread, passed over where they have no strips; row(unit, r), x_stride(): which row of x is
// row r of the unit; finish<size>(unit, part, total, beside): by the warps of each warpgroup that has rows; kBeside:
// bytes of shared memory at `beside`.
template <class Work>
WEIR_DEVICE void prompt_products(const Work& work, int slots, int weight_bytes) {
  extern __shared__ __align__(1024) uint8_t shared[];
  const PromptRing<Work::kE4m3> ring(shared, slots, weight_bytes, Work::kBeside);
  if (static_cast<int>(threadIdx.x) >= kPromptComputing) {
    device::fewer_registers<kPromptFewRegisters>();
    bring(work, ring);
  } else {
    device::more_registers<kPromptManyRegisters>();
    compute(work, ring);
  }
}

}  // namespace weir
