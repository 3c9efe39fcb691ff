// Up to kLinearSomeRows rows times one packed matrix of few strips, FP8 or BF16: bound by reading the weights, and for
// many rows by reading the rows from the second-level cache in every block. A block takes a strip, all of K. One warp
// has the copy engine bring four units and the rows' part of their K into a ring; each of eight warps multiplies a unit
// with half of the rows; eight others join the units' sums in order. As moe_some.cu does it.
#include "ops/linear/few_units.h"
#include "ops/linear/linear_few_args.h"
#include "ops/linear/ring_place.h"

namespace weir {
namespace {

inline constexpr int kUnits = 4;  // of a slot
inline constexpr int kSlotK = kUnits * kBlockK;
inline constexpr int kRowBytes = 2 * kSlotK + 16;          // of a row's part in a slot
inline constexpr int kTilesMax = kLinearSomeRows / 8 / 2;  // of eight rows, of a warp
inline constexpr int kJoinWarps = 8;
inline constexpr int kThreads = (kFewWarps + 1 + kJoinWarps) * device::kWarp;
inline constexpr int kTotals = kLinearSomeRows * kStripRows / (kJoinWarps * device::kWarp);  // values of a thread

// What a slot holds before its rows.
template <bool kBf16>
struct SlotSizes {
  static constexpr int kUnitBytes = kBf16 ? 2 * kFewUnitBytes : kFewUnitBytes;
  static constexpr int kWeights = kUnits * kUnitBytes;
  static constexpr int kScales = kBf16 ? 0 : kUnits * 8;
  static constexpr int kRows = kWeights + kScales;  // where these are
};

// An FP8 unit times `tiles` times eight rows, `address` being load_matrices()'s of the first; tiles a fixed distance
// apart.
WEIR_DEVICE void multiply_fp8_tiles(const uint8_t* unit, uint32_t address, int tiles, float (&d)[kTilesMax][4]) {
#pragma unroll
  for (int c = 0; c < kTilesMax; ++c) d[c][0] = d[c][1] = d[c][2] = d[c][3] = 0;
  const auto* from = reinterpret_cast<const uint4*>(unit) + device::lane();
#pragma unroll 1
  for (int tile = 0; tile < 2; ++tile) {
    const uint4 low = from[2 * tile * device::kWarp];
    const uint4 high = from[(2 * tile + 1) * device::kWarp];
    const uint32_t lows[4] = {low.x, low.y, low.z, low.w};
    const uint32_t highs[4] = {high.x, high.y, high.z, high.w};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t a[2][4];
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        device::fp8_to_f16x4(lows[2 * half + step], &a[step][0], &a[step][2]);
        device::fp8_to_f16x4(highs[2 * half + step], &a[step][1], &a[step][3]);
      }
#pragma unroll
      for (int c = 0; c < kTilesMax; ++c) {
        if (c >= tiles) break;
        uint32_t b[4];
        device::load_matrices(b, address + static_cast<uint32_t>(c * 8 * kRowBytes + (tile * kTileK + half * 32) * 2));
        device::mma_f16(d[c], a[0], b[0], b[1]);
        device::mma_f16(d[c], a[1], b[2], b[3]);
      }
    }
  }
}

// The same of a BF16 unit.
WEIR_DEVICE void multiply_bf16_tiles(const uint8_t* unit, uint32_t address, int tiles, float (&d)[kTilesMax][4]) {
#pragma unroll
  for (int c = 0; c < kTilesMax; ++c) d[c][0] = d[c][1] = d[c][2] = d[c][3] = 0;
  const auto* from = reinterpret_cast<const uint4*>(unit) + device::lane();
#pragma unroll 2
  for (int i = 0; i < 4; ++i) {
    const uint4 low = from[2 * i * device::kWarp];
    const uint4 high = from[(2 * i + 1) * device::kWarp];
    const uint32_t a0[4] = {low.x, low.y, low.z, low.w};
    const uint32_t a1[4] = {high.x, high.y, high.z, high.w};
#pragma unroll
    for (int c = 0; c < kTilesMax; ++c) {
      if (c >= tiles) break;
      uint32_t b[4];
      device::load_matrices(b, address + static_cast<uint32_t>(c * 8 * kRowBytes + i * 64));
      device::mma_bf16(d[c], a0, b[0], b[1]);
      device::mma_bf16(d[c], a1, b[2], b[3]);
    }
  }
}

template <bool kBf16>
WEIR_DEVICE void linear_some(const GpuFewArgs& args, uint8_t* few_shared) {
  using Sizes = SlotSizes<kBf16>;
  const int thread = static_cast<int>(threadIdx.x);
  const GpuPackedOutput& out = args.outputs[0];
  const int strip = static_cast<int>(blockIdx.x);
  const int blocks = args.k / kBlockK;
  const int tiles = (args.rows + 7) / 8;
  const int columns = 8 * tiles;
  const int slot_bytes = Sizes::kRows + columns * kRowBytes;
  const int slots = args.ring_bytes / slot_bytes;
  auto* sums = reinterpret_cast<float*>(few_shared + slots * slot_bytes);  // [2][kUnits][columns][16]
  float* scales = sums + 2 * kUnits * columns * kStripRows;                // [2][kUnits][2]
  auto* barriers = reinterpret_cast<device::Barrier*>(scales + 4 * kUnits);
  device::Barrier* filled = barriers;
  device::Barrier* free = barriers + 32;
  device::Barrier* sums_filled = barriers + 64;
  device::Barrier* sums_free = barriers + 66;
  if (few_brings()) {
    const int lane = device::lane();
    if (lane < slots) {
      device::barrier_init(&filled[lane], 1);
      device::barrier_init(&free[lane], kFewWarps * device::kWarpArrivals);
    }
    if (lane < 2) {
      device::barrier_init(&sums_filled[lane], kFewWarps * device::kWarpArrivals);
      device::barrier_init(&sums_free[lane], kJoinWarps * device::kWarpArrivals);
    }
    device::barrier_init_done();
  }
  __syncthreads();
  if (few_brings()) {
    const int lane = device::lane();
    const uint8_t* weights = args.weights + static_cast<int64_t>(strip) * blocks * Sizes::kUnitBytes;
    [[maybe_unused]] const float* of_scales = args.scales + static_cast<int64_t>(strip) * blocks * 2;
    const uint16_t* x = kBf16 ? args.x_bf16 : args.x_f16;
    const auto start = [&](int slot, int block) {
      uint8_t* to = few_shared + slot * slot_bytes;
      device::barrier_expect(&filled[slot], Sizes::kRows + args.rows * kSlotK * 2);
      device::bulk_copy_once(to, weights + block * Sizes::kUnitBytes, Sizes::kWeights, &filled[slot]);
      if constexpr (!kBf16) {
        device::bulk_copy(to + Sizes::kWeights, of_scales + block * 2, Sizes::kScales, &filled[slot]);
      }
    };
    // Weights of the first slots are under way before the rows are known.
    const int chunks = blocks / kUnits;
    if (lane < min(slots, chunks)) start(lane, lane * kUnits);
    __syncwarp();
    device::wait_for_previous();
    RingPlace turn;
#pragma unroll 1
    for (int chunk = 0; chunk < chunks; ++chunk) {
      device::barrier_wait(&free[turn.slot], turn.phase ^ 1U);
      if (chunk >= slots && lane == 0) start(turn.slot, chunk * kUnits);
      __syncwarp();
      uint8_t* rows = few_shared + turn.slot * slot_bytes + Sizes::kRows;
#pragma unroll 1
      for (int r = lane; r < args.rows; r += device::kWarp) {
        device::bulk_copy(rows + r * kRowBytes, x + r * args.x_stride + chunk * kSlotK, kSlotK * 2, &filled[turn.slot]);
      }
      __syncwarp();
      turn.advance(slots);
    }
    return;
  }
  if (device::warp() < kFewWarps) {
    const int unit = device::warp() % kUnits;
    const int first = device::warp() < kUnits ? 0 : (tiles + 1) / 2;  // of this warp's tiles
    const int count = device::warp() < kUnits ? (tiles + 1) / 2 : tiles / 2;
    const uint32_t lane_at = static_cast<uint32_t>(Sizes::kRows + (8 * first + device::lane() % 8) * kRowBytes +
                                                   device::lane() / 8 * 16 + unit * kBlockK * 2);
    RingPlace turn;
    RingPlace to;
#pragma unroll 1
    for (int block = 0; block < blocks; block += kUnits) {
      const uint8_t* slot = few_shared + turn.slot * slot_bytes;
      device::barrier_wait(&filled[turn.slot], turn.phase);
      float d[kTilesMax][4];
      float scale = 1;
      if constexpr (kBf16) {
        multiply_bf16_tiles(slot + unit * Sizes::kUnitBytes, device::shared_address(slot) + lane_at, count, d);
      } else {
        multiply_fp8_tiles(slot + unit * Sizes::kUnitBytes, device::shared_address(slot) + lane_at, count, d);
        scale = reinterpret_cast<const float*>(slot + Sizes::kWeights)[2 * unit + device::lane() % 2];
      }
      device::warp_arrive(&free[turn.slot]);
      device::barrier_wait(&sums_free[to.slot], to.phase ^ 1U);
      float* mine = sums + ((to.slot * kUnits + unit) * columns + 8 * first) * kStripRows;
#pragma unroll
      for (int c = 0; c < kTilesMax; ++c) {
        if (c < count) keep_unit(mine + c * 8 * kStripRows, 8, d[c]);
      }
      if (device::warp() < kUnits && device::lane() < 2) scales[(to.slot * kUnits + unit) * 2 + device::lane()] = scale;
      device::warp_arrive(&sums_filled[to.slot]);
      turn.advance(slots);
      to.advance(2);
    }
    return;
  }
  device::wait_for_previous();
  device::start_next();
  const int joiner = thread - (kFewWarps + 1) * device::kWarp;
  const int row = joiner % kStripRows;
  const int first_column = joiner / kStripRows;
  const int n = strip * kStripRows + row;
  auto* y = static_cast<float*>(out.y) + n;
  float totals[kTotals];
  float before[kTotals];
#pragma unroll
  for (int j = 0; j < kTotals; ++j) {
    const int column = first_column + j * kStripRows;
    totals[j] = 0;
    const bool adds = out.kind == kPackedAdd && column < args.rows && n < out.weight.n;
    before[j] = adds ? __ldcg(y + column * out.y_stride) : 0.0F;
  }
  RingPlace from;
#pragma unroll 1
  for (int block = 0; block < blocks; block += kUnits) {
    device::barrier_wait(&sums_filled[from.slot], from.phase);
#pragma unroll
    for (int unit = 0; unit < kUnits; ++unit) {
      const float scale = scales[(from.slot * kUnits + unit) * 2 + row / 8];
      const float* of = sums + (from.slot * kUnits + unit) * columns * kStripRows + row;
#pragma unroll
      for (int j = 0; j < kTotals; ++j) {
        const int column = first_column + j * kStripRows;
        if (column < args.rows) totals[j] = fmaf(of[column * kStripRows], scale, totals[j]);
      }
    }
    device::warp_arrive(&sums_free[from.slot]);
    from.advance(2);
  }
#pragma unroll
  for (int j = 0; j < kTotals; ++j) {
    const int column = first_column + j * kStripRows;
    if (column < args.rows && n < out.weight.n) y[column * out.y_stride] = before[j] + totals[j];
  }
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_linear_some, GpuFewArgs, kThreads, 1) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  linear_some<false>(args, few_shared);
}
WEIR_KERNEL_BOUNDED(weir_linear_some_bf16, GpuFewArgs, kThreads, 1) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  linear_some<true>(args, few_shared);
}

}  // namespace weir
