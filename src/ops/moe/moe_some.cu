// The sparse experts over up to 64 rows with packed FP8 weights: bound by reading the weights of the experts that the
// rows chose, once. One block works out the routing; an entry is an expert and up to eight of its rows, the columns of
// its products. few_units.h says how weights come and are multiplied; here the rows come beside them. Loops stay rolled
// for the reason given there.
#include "ops/linear/few_units.h"
#include "ops/moe/moe_few_args.h"
#include "ops/moe/routes.h"

namespace weir {
namespace {

inline constexpr int kColumns = 8;
inline constexpr int kUnitSums = kColumns * kStripRows;
inline constexpr int kRouteThreads = 1024;
// Of a slot of the ring: weights, their scales, rows.
inline constexpr int kSlotWeights = kFewWarps * kFewUnitBytes;
inline constexpr int kSlotScales = kFewWarps * 8;

inline constexpr int kRouteHead = 16;  // bytes ahead of the routing: the number of entries

// The routing, as the first kernel leaves it, once it is in shared memory.
struct RoutesHere {
  const int* total;      // entries, the shared expert's among them
  const float* weights;  // [kPackedMoeRows][kRouteSlots]
  const RouteEntry* entries;

  WEIR_DEVICE explicit RoutesHere(const uint8_t* at)
      : total(reinterpret_cast<const int*>(at)),
        weights(reinterpret_cast<const float*>(at + kRouteHead)),
        entries(reinterpret_cast<const RouteEntry*>(at + kRouteHead + kPackedMoeRows * kRouteSlots * 4)) {}
};

WEIR_DEVICE int slot_of(const RouteEntry& entry, int column) {
  return static_cast<int>((entry.slots >> (4 * column)) & 15U);
}

// Scales of a unit stand behind its sums: [units][8][16], [units][2].
WEIR_DEVICE float join_columns(const float* sums, const float* scales, int unit, int units, int column, int row) {
  return join_units(sums + (unit * kColumns + column) * kStripRows + row, kUnitSums, scales + 2 * unit + row / 8,
                    units);
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_some_routes, GpuFewExpertsArgs, kRouteThreads, 1) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  GpuExpertsArgs routing;
  routing.router = args.router;
  routing.rows = args.rows;
  routing.experts = args.experts;
  routing.top_k = args.top_k;
  routing.shared = args.shared;
  const Routes routes(few_shared, args.rows, args.experts, args.top_k);
  device::wait_for_previous();
  device::start_next();
  const int total = make_routes<kRouteThreads>(routing, routes, true);
  const int thread = static_cast<int>(threadIdx.x);
  auto* weights = reinterpret_cast<float*>(args.routes + kRouteHead);
  auto* entries = reinterpret_cast<uint32_t*>(weights + kPackedMoeRows * kRouteSlots);
  if (thread == 0) *reinterpret_cast<int*>(args.routes) = total;
  for (int i = thread; i < args.rows * kRouteSlots; i += kRouteThreads) weights[i] = routes.weights[i];
  const auto* from = reinterpret_cast<const uint32_t*>(routes.entries);
  for (int i = thread; i < total * static_cast<int>(sizeof(RouteEntry) / 4); i += kRouteThreads) entries[i] = from[i];
}

// A block takes a contiguous share of (entry, strip). Rows of the entry stand in one of two places.
WEIR_KERNEL_BOUNDED(weir_some_gate_up, GpuFewExpertsArgs, kFewThreads, 1) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  const int thread = static_cast<int>(threadIdx.x);
  const int blocks = args.d / kBlockK;
  const int block_bits = log_of(blocks);
  const int strip_bits = log_of(args.f / (kStripRows / 2));
  const int row_bytes = 2 * args.d + 16;
  constexpr int kSlotBytes = kSlotWeights + kSlotScales;
  const int slots = args.ring_bytes / kSlotBytes;
  uint8_t* rows = few_shared + slots * kSlotBytes;                         // [2][8][row_bytes]
  auto* sums = reinterpret_cast<float*>(rows + 2 * kColumns * row_bytes);  // [2][blocks][8][16]
  float* scales = sums + 2 * blocks * kUnitSums;                           // [2][blocks][2]
  auto* barriers = reinterpret_cast<device::Barrier*>(scales + 4 * blocks);
  device::Barrier* filled = barriers;
  device::Barrier* free = barriers + 32;
  device::Barrier* rows_filled = barriers + 64;
  device::Barrier* rows_free = barriers + 66;
  device::Barrier* routes_here = barriers + 68;
  uint8_t* routes_at = reinterpret_cast<uint8_t*>(barriers + kFewBarriers + 4);
  const RoutesHere routes(routes_at);
  if (few_brings()) {
    const int lane = device::lane();
    if (lane < slots) {
      device::barrier_init(&filled[lane], 1);
      device::barrier_init(&free[lane], kFewWarps * device::kWarpArrivals);
    }
    if (lane < 2) {
      device::barrier_init(&rows_filled[lane], 1);
      device::barrier_init(&rows_free[lane], kFewWarps * device::kWarpArrivals);
    }
    if (lane == 0) device::barrier_init(routes_here, 1);
    device::barrier_init_done();
  }
  __syncthreads();
  device::wait_for_previous();
  device::start_next();
  if (thread == 0) {
    device::barrier_expect(routes_here, args.routes_bytes);
    device::bulk_copy(routes_at, args.routes, args.routes_bytes, routes_here);
  }
  __syncwarp();
  device::barrier_wait(routes_here, 0);
  const unsigned total = static_cast<unsigned>(*routes.total) << strip_bits;
  const int first = static_cast<int>(static_cast<uint64_t>(total) * blockIdx.x / gridDim.x);
  const int end = static_cast<int>(static_cast<uint64_t>(total) * (blockIdx.x + 1) / gridDim.x);
  const int strip_mask = (1 << strip_bits) - 1;
  if (few_brings()) {
    if (device::lane() != 0) return;
    RingPlace turn;
    RingPlace place;
    int current = -1;
#pragma unroll 1
    for (int item = first; item < end; ++item) {
      const int index = item >> strip_bits;
      const RouteEntry& entry = routes.entries[index];
      if (index != current) {
        current = index;
        device::barrier_wait(&rows_free[place.slot], place.phase ^ 1U);
        device::barrier_expect(&rows_filled[place.slot], entry.count * args.d * 2);
#pragma unroll 1
        for (int c = 0; c < entry.count; ++c) {
          device::bulk_copy(rows + (place.slot * kColumns + c) * row_bytes, args.x + int64_t{entry.rows[c]} * args.d,
                            args.d * 2, &rows_filled[place.slot]);
        }
        place.advance(2);
      }
      const int64_t offset = entry.expert * args.stride;
      const uint8_t* weights = args.gate_up + offset;
      const auto* of_scales = reinterpret_cast<const uint8_t*>(args.gate_up_scales) + offset;
      const int64_t strip_at = static_cast<int64_t>(item & strip_mask) << block_bits;
#pragma unroll 1
      for (int unit = 0; unit < blocks; unit += kFewWarps) {
        device::barrier_wait(&free[turn.slot], turn.phase ^ 1U);
        uint8_t* slot = few_shared + turn.slot * kSlotBytes;
        device::barrier_expect(&filled[turn.slot], kSlotBytes);
        device::bulk_copy_once(slot, weights + (strip_at + unit) * kFewUnitBytes, kSlotWeights, &filled[turn.slot]);
        device::bulk_copy(slot + kSlotWeights, of_scales + (strip_at + unit) * 8, kSlotScales, &filled[turn.slot]);
        turn.advance(slots);
      }
    }
    return;
  }
  RingPlace turn;
  RingPlace place;
  int current = -1;
  uint32_t columns = 0;
  const uint32_t lane_at = static_cast<uint32_t>(device::lane() % 8 * row_bytes + device::lane() / 8 * 16);
#pragma unroll 1
  for (int item = first, half = 0; item < end; ++item, half ^= 1) {
    const int index = item >> strip_bits;
    const RouteEntry& entry = routes.entries[index];
    if (index != current) {
      if (current >= 0) {
        device::warp_arrive(&rows_free[place.slot]);
        place.advance(2);
      }
      current = index;
      device::barrier_wait(&rows_filled[place.slot], place.phase);
      columns = device::shared_address(rows + place.slot * kColumns * row_bytes) + lane_at;
    }
    float* mine = sums + half * blocks * kUnitSums;
    float* my_scales = scales + half * blocks * 2;
    const int count = entry.count;
#pragma unroll 1
    for (int unit = device::warp(); unit < blocks; unit += kFewWarps) {
      device::barrier_wait(&filled[turn.slot], turn.phase);
      const uint8_t* slot = few_shared + turn.slot * kSlotBytes;
      float d[4];
      multiply_fp8(slot + device::warp() * kFewUnitBytes, columns + static_cast<uint32_t>(unit * kBlockK * 2), d);
      keep_unit(mine + unit * kUnitSums, count, d);
      if (device::lane() < 2) {
        my_scales[2 * unit + device::lane()] =
            reinterpret_cast<const float*>(slot + kSlotWeights)[2 * device::warp() + device::lane()];
      }
      device::warp_arrive(&free[turn.slot]);
      turn.advance(slots);
    }
    few_barrier();
    // At most 128 values: a thread's gate is a row of the strip, its up eight rows on.
    if (thread < count * kStripRows) {
      const int row = thread % kStripRows;
      const int c = thread / kStripRows;
      const unsigned lanes = __activemask();
      const float sum = join_columns(mine, my_scales, 0, blocks, c, row);
      const float up = __shfl_down_sync(lanes, sum, kStripRows / 2);
      if (row < kStripRows / 2) {
        const int64_t to = int64_t{entry.rows[c]} * (args.top_k + args.shared) + slot_of(entry, c);
        args.hidden[to * args.f + (item & strip_mask) * (kStripRows / 2) + row] =
            static_cast<uint16_t>(device::f16x2(device::silu(sum) * up, 0.0F));
      }
    }
  }
}

namespace {

inline constexpr int kJoinWarps = 8;
inline constexpr int kDownThreads = (kFewWarps + 1 + kJoinWarps) * device::kWarp;
inline constexpr int kTotals = kPackedMoeRows * kStripRows / (kJoinWarps * device::kWarp);  // sums of a thread

}  // namespace

// A block takes a strip, of all entries; the rows of hidden values come in the ring's slots beside the weights. Eight
// warps join what eight others have multiplied.
WEIR_KERNEL_BOUNDED(weir_some_down, GpuFewExpertsArgs, kDownThreads, 1) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  const int thread = static_cast<int>(threadIdx.x);
  const int blocks = args.f / kBlockK;  // at most eight
  const int block_bits = log_of(blocks);
  const int together = kFewWarps >> block_bits;  // entries of a slot
  const int row_bytes = 2 * args.f + 16;
  const int slot_bytes = kSlotWeights + kSlotScales + together * kColumns * row_bytes;
  const int slots = args.ring_bytes / slot_bytes;
  auto* sums = reinterpret_cast<float*>(few_shared + slots * slot_bytes);  // [2][8 units][8][16]
  float* scales = sums + 2 * kFewWarps * kUnitSums;                        // [2][8][2]
  auto* barriers = reinterpret_cast<device::Barrier*>(scales + 4 * kFewWarps);
  device::Barrier* filled = barriers;
  device::Barrier* free = barriers + 32;
  device::Barrier* routes_here = barriers + 64;
  device::Barrier* sums_filled = barriers + 65;
  device::Barrier* sums_free = barriers + 67;
  uint8_t* routes_at = reinterpret_cast<uint8_t*>(barriers + kFewBarriers + 4);
  const RoutesHere routes(routes_at);
  const int strip = static_cast<int>(blockIdx.x);
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
    if (lane == 0) device::barrier_init(routes_here, 1);
    device::barrier_init_done();
    __syncwarp();
    // The routing is of the kernel before the one before this, which has ended.
    if (lane == 0) {
      device::barrier_expect(routes_here, args.routes_bytes);
      device::bulk_copy(routes_at, args.routes, args.routes_bytes, routes_here);
    }
  }
  __syncthreads();
  device::barrier_wait(routes_here, 0);
  const int entries = *routes.total;
  const int slots_of_row = args.top_k + args.shared;
  if (few_brings()) {
    const int lane = device::lane();
    const int e = lane / kColumns;
    const int c = lane % kColumns;
    RingPlace turn;
    bool waited = false;
#pragma unroll 1
    for (int begin = 0; begin < entries; begin += together) {
      const int here = min(together, entries - begin);
      uint8_t* slot = few_shared + turn.slot * slot_bytes;
      device::barrier_wait(&free[turn.slot], turn.phase ^ 1U);
      int bytes = 0;
      if (lane < here) {
        bytes = blocks * (kFewUnitBytes + 8) + routes.entries[begin + lane].count * args.f * 2;
      }
      bytes = static_cast<int>(__reduce_add_sync(device::kAllLanes, static_cast<unsigned>(bytes)));
      if (lane == 0) device::barrier_expect(&filled[turn.slot], bytes);
      __syncwarp();
      if (lane < here) {
        const int64_t offset = routes.entries[begin + lane].expert * args.stride;
        const int64_t at = static_cast<int64_t>(strip) << block_bits;
        device::bulk_copy_once(slot + lane * blocks * kFewUnitBytes, args.down + offset + at * kFewUnitBytes,
                               blocks * kFewUnitBytes, &filled[turn.slot]);
        device::bulk_copy(slot + kSlotWeights + lane * blocks * 8,
                          reinterpret_cast<const uint8_t*>(args.down_scales) + offset + at * 8, blocks * 8,
                          &filled[turn.slot]);
      }
      if (!waited) device::wait_for_previous();
      waited = true;
      // Lanes have a row of an entry each, of four entries at a time.
#pragma unroll 1
      for (int i = e; i < here; i += device::kWarp / kColumns) {
        const RouteEntry& entry = routes.entries[begin + i];
        if (c >= entry.count) continue;
        const int64_t from = int64_t{entry.rows[c]} * slots_of_row + slot_of(entry, c);
        device::bulk_copy(slot + kSlotWeights + kSlotScales + (i * kColumns + c) * row_bytes,
                          args.hidden + from * args.f, args.f * 2, &filled[turn.slot]);
      }
      __syncwarp();
      turn.advance(slots);
    }
    return;
  }
  if (device::warp() < kFewWarps) {
    RingPlace turn;
    RingPlace to;
    const int own = device::warp() >> block_bits;
    const int block = device::warp() & (blocks - 1);
    const uint32_t lane_at =
        static_cast<uint32_t>(kSlotWeights + kSlotScales + (own * kColumns + device::lane() % 8) * row_bytes +
                              device::lane() / 8 * 16 + block * kBlockK * 2);
#pragma unroll 1
    for (int begin = 0; begin < entries; begin += together) {
      const uint8_t* slot = few_shared + turn.slot * slot_bytes;
      device::barrier_wait(&filled[turn.slot], turn.phase);
      device::barrier_wait(&sums_free[to.slot], to.phase ^ 1U);
      if (begin + own < entries) {
        float d[4];
        multiply_fp8(slot + device::warp() * kFewUnitBytes, device::shared_address(slot) + lane_at, d);
        keep_unit(sums + (to.slot * kFewWarps + device::warp()) * kUnitSums, routes.entries[begin + own].count, d);
        if (device::lane() < 2) {
          scales[(to.slot * kFewWarps + device::warp()) * 2 + device::lane()] =
              reinterpret_cast<const float*>(slot + kSlotWeights)[2 * device::warp() + device::lane()];
        }
      }
      __syncwarp();
      device::together_arrive(&free[turn.slot]);
      device::together_arrive(&sums_filled[to.slot]);
      turn.advance(slots);
      to.advance(2);
    }
    return;
  }
  device::wait_for_previous();
  device::start_next();
  const int joiner = thread - (kFewWarps + 1) * device::kWarp;
  const int row = joiner % kStripRows;
  const int first_m = joiner / kStripRows;
  const int n = strip * kStripRows + row;
  float totals[kTotals];
  float before[kTotals];
#pragma unroll
  for (int j = 0; j < kTotals; ++j) {
    const int m = first_m + j * kStripRows;
    totals[j] = 0;
    before[j] = args.add != 0 && m < args.rows && n < args.d ? __ldcg(args.y + m * args.y_stride + n) : 0.0F;
  }
  RingPlace from;
#pragma unroll 1
  for (int begin = 0; begin < entries; begin += together) {
    const int here = min(together, entries - begin);
    const float* mine = sums + from.slot * kFewWarps * kUnitSums;
    const float* my_scales = scales + from.slot * kFewWarps * 2;
    device::barrier_wait(&sums_filled[from.slot], from.phase);
#pragma unroll 1
    for (int e = 0; e < here; ++e) {
      const RouteEntry& entry = routes.entries[begin + e];
      const uint64_t mask = entry.mask[0] | static_cast<uint64_t>(entry.mask[1]) << 32;
#pragma unroll
      for (int j = 0; j < kTotals; ++j) {
        const int m = first_m + j * kStripRows;
        if ((mask >> m & 1U) == 0) continue;
        const int c = __popcll(mask & ((uint64_t{1} << m) - 1));
        const float dot = join_columns(mine, my_scales, e << block_bits, blocks, c, row);
        totals[j] = fmaf(routes.weights[m * kRouteSlots + slot_of(entry, c)], dot, totals[j]);
      }
    }
    device::warp_arrive(&sums_free[from.slot]);
    from.advance(2);
  }
#pragma unroll
  for (int j = 0; j < kTotals; ++j) {
    const int m = first_m + j * kStripRows;
    if (m < args.rows && n < args.d) args.y[m * args.y_stride + n] = before[j] + totals[j];
  }
}

}  // namespace weir
