// The sparse experts over up to 64 rows with packed FP8 or MXFP4 weights: bound by reading the weights of the experts
// that the rows chose, once. One block works out the routing; an entry is an expert and up to eight of its rows, the
// columns of its products. few_units.h says how weights come and are multiplied; here the rows come beside them. Loops
// stay rolled for the reason given there.
#include "ops/moe/few_experts.h"

namespace weir {
namespace {

inline constexpr int kColumns = 8;
inline constexpr int kUnitSums = kColumns * kStripRows;
inline constexpr int kRouteThreads = 1024;
// Of a slot of the ring: weights, their scales, rows.
template <int kFormat>
inline constexpr int kSlotScales = few_has_scales(kFormat) ? few_chunk_units(kFormat) * 8 : 0;

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

// Scales of a unit (null: 1) stand behind its sums: [units][8][16], [units][2].
WEIR_DEVICE float join_columns(const float* sums, const float* scales, int unit, int units, int column, int row) {
  return join_units(sums + (unit * kColumns + column) * kStripRows + row, kUnitSums,
                    scales != nullptr ? scales + 2 * unit + row / 8 : nullptr, units);
}

// Entries stored like the first: those behind them are the shared expert's.
template <int kFormat>
WEIR_DEVICE int like_entries(const GpuFewExpertsArgs& args, int entries) {
  return few_apart<kFormat>(args) ? entries - route_words(args.rows) : entries;
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

namespace {

// Strips of gate and up that a block takes: a contiguous share of (entry, strip), by the bytes of their weights.
struct SomeShare {
  int first;
  int end;

  template <int kFormat>
  WEIR_DEVICE static SomeShare of(const GpuFewExpertsArgs& args, int entries, int strip_bits) {
    constexpr int kWorth = (few_unit_bytes(kFewApartFormat) + few_unit_bytes(kFormat) / 2) / few_unit_bytes(kFormat);
    const int like = like_entries<kFormat>(args, entries) << strip_bits;
    const int apart = (entries << strip_bits) - like;
    const auto total = static_cast<uint64_t>(like + apart * kWorth);
    const auto item = [&](unsigned block) {
      const int worth = static_cast<int>(total * block / gridDim.x);
      return worth <= like ? worth : like + (worth - like + kWorth - 1) / kWorth;
    };
    return {item(blockIdx.x), item(blockIdx.x + 1)};
  }
};

// A block's shared memory in the first product: ring; rows of the entry in one of two places; sums and scales likewise.
template <int kFormat>
struct SomeUp {
  static constexpr int kSlotBytes = few_chunk_bytes(kFormat) + kSlotScales<kFormat>;
  uint8_t* ring;
  uint8_t* rows;  // [2][8][row_bytes]
  float* sums;    // [2][blocks][8][16]
  float* scales;  // [2][blocks][2]
  device::Barrier* filled;
  device::Barrier* free;
  device::Barrier* rows_filled;
  device::Barrier* rows_free;
  device::Barrier* routes_here;
  device::Barrier* sums_filled;  // [2]
  device::Barrier* sums_free;
  uint8_t* routes;
  int slots;
  int row_bytes;
  int blocks;

  WEIR_DEVICE SomeUp(const GpuFewExpertsArgs& args, uint8_t* shared)
      : ring(shared), slots(args.ring_bytes / kSlotBytes), row_bytes(2 * args.d + 16), blocks(args.d / kBlockK) {
    rows = shared + slots * kSlotBytes;
    sums = reinterpret_cast<float*>(rows + 2 * kColumns * row_bytes);
    scales = sums + 2 * blocks * kUnitSums;
    auto* barriers = reinterpret_cast<device::Barrier*>(scales + 4 * blocks);
    filled = barriers;
    free = barriers + 32;
    rows_filled = barriers + 64;
    rows_free = barriers + 66;
    routes_here = barriers + 68;
    sums_filled = barriers + 69;
    sums_free = barriers + 71;
    routes = reinterpret_cast<uint8_t*>(barriers + kSomeBarriers);
  }

  // A strip of an expert, by a thread of the warp that brings.
  template <int kOf>
  WEIR_DEVICE void bring(RingPlace& turn, const uint8_t* weights, const uint8_t* of_scales, int strip) const {
    constexpr int kUnits = few_chunk_units(kOf);
    constexpr int kBytes = few_unit_bytes(kOf);
    const int64_t strip_at = static_cast<int64_t>(strip) * blocks;
#pragma unroll 1
    for (int unit = 0; unit < blocks; unit += kUnits) {
      const int here = min(kUnits, blocks - unit);
      device::barrier_wait(&free[turn.slot], turn.phase ^ 1U);
      uint8_t* slot = ring + turn.slot * kSlotBytes;
      device::barrier_expect(&filled[turn.slot], here * (kBytes + (few_has_scales(kOf) ? 8 : 0)));
      device::bulk_copy_once(slot, weights + (strip_at + unit) * kBytes, here * kBytes, &filled[turn.slot]);
      if constexpr (few_has_scales(kOf)) {
        device::bulk_copy(slot + few_chunk_bytes(kOf), of_scales + (strip_at + unit) * 8, here * 8, &filled[turn.slot]);
      }
      turn.advance(slots);
    }
  }

  // The same times the columns at `columns`, `count` of them, by the warps that multiply.
  template <int kOf>
  WEIR_DEVICE void multiply(RingPlace& turn, uint32_t columns, int count, float* to, float* to_scales) const {
    constexpr int kUnits = few_chunk_units(kOf);
#pragma unroll 1
    for (int first = 0; first < blocks; first += kUnits) {
      device::barrier_wait(&filled[turn.slot], turn.phase);
      const uint8_t* slot = ring + turn.slot * kSlotBytes;
      run_chunk<kOf>(
          slot, min(kUnits, blocks - first),
          [&](int i) { return columns + static_cast<uint32_t>((first + i) * kBlockK * 2); },
          [&](int i, const float (&d)[4]) {
            const int unit = first + i;
            keep_unit(to + unit * kUnitSums, count, d);
            if (few_has_scales(kOf) && device::lane() < 2) {
              to_scales[2 * unit + device::lane()] =
                  reinterpret_cast<const float*>(slot + few_chunk_bytes(kOf))[2 * i + device::lane()];
            }
          });
      device::warp_arrive(&free[turn.slot]);
      turn.advance(slots);
    }
  }
};

template <int kFormat>
WEIR_DEVICE void gate_up(const GpuFewExpertsArgs& args, uint8_t* shared) {
  const int thread = static_cast<int>(threadIdx.x);
  const SomeUp<kFormat> m(args, shared);
  const int strip_bits = log_of(args.f / (kStripRows / 2));
  const RoutesHere routes(m.routes);
  if (experts_bring<kFormat>()) {
    const int lane = device::lane();
    if (lane < m.slots) {
      device::barrier_init(&m.filled[lane], 1);
      device::barrier_init(&m.free[lane], few_warps(kFormat) * device::kWarpArrivals);
    }
    if (lane < 2) {
      device::barrier_init(&m.rows_filled[lane], 1);
      device::barrier_init(&m.rows_free[lane], few_warps(kFormat) * device::kWarpArrivals);
      device::barrier_init(&m.sums_filled[lane], few_warps(kFormat) * device::kWarpArrivals);
      device::barrier_init(&m.sums_free[lane], kSomeUpJoinWarps * device::kWarpArrivals);
    }
    if (lane == 0) device::barrier_init(m.routes_here, 1);
    device::barrier_init_done();
  }
  __syncthreads();
  device::wait_for_previous();
  device::start_next();
  if (thread == 0) {
    device::barrier_expect(m.routes_here, args.routes_bytes);
    device::bulk_copy(m.routes, args.routes, args.routes_bytes, m.routes_here);
  }
  __syncwarp();
  device::barrier_wait(m.routes_here, 0);
  const SomeShare share = SomeShare::of<kFormat>(args, *routes.total, strip_bits);
  const int strip_mask = (1 << strip_bits) - 1;
  const auto is_apart = [&](const RouteEntry& entry) {
    return few_apart<kFormat>(args) && entry.expert == args.experts;
  };
  if (experts_bring<kFormat>()) {
    if (device::lane() != 0) return;
    RingPlace turn;
    RingPlace place;
    int current = -1;
#pragma unroll 1
    for (int item = share.first; item < share.end; ++item) {
      const int index = item >> strip_bits;
      const RouteEntry& entry = routes.entries[index];
      if (index != current) {
        current = index;
        device::barrier_wait(&m.rows_free[place.slot], place.phase ^ 1U);
        device::barrier_expect(&m.rows_filled[place.slot], entry.count * args.d * 2);
#pragma unroll 1
        for (int c = 0; c < entry.count; ++c) {
          device::bulk_copy(m.rows + (place.slot * kColumns + c) * m.row_bytes,
                            args.x + int64_t{entry.rows[c]} * args.d, args.d * 2, &m.rows_filled[place.slot]);
        }
        place.advance(2);
      }
      const int strip = item & strip_mask;
      if (is_apart(entry)) {
        m.template bring<kFewApartFormat>(turn, args.shared_gate_up, nullptr, strip);
      } else {
        const int64_t offset = entry.expert * args.stride;
        m.template bring<kFormat>(turn, args.gate_up + offset,
                                  reinterpret_cast<const uint8_t*>(args.gate_up_scales) + offset, strip);
      }
    }
    return;
  }
  RingPlace to;
  if (device::warp() > few_warps(kFormat)) {
    const int i = thread - few_threads(kFormat);
    const int row = i % kStripRows;
    const int c = i / kStripRows;
#pragma unroll 1
    for (int item = share.first; item < share.end; ++item) {
      const RouteEntry& entry = routes.entries[item >> strip_bits];
      const float* scales = !few_has_scales(kFormat) || is_apart(entry) ? nullptr : m.scales + to.slot * m.blocks * 2;
      device::barrier_wait(&m.sums_filled[to.slot], to.phase);
      // A thread's gate is a row of the strip, its up eight rows on.
      if (i / device::kWarp < (entry.count + 1) / 2) {
        const float sum =
            join_columns(m.sums + to.slot * m.blocks * kUnitSums, scales, 0, m.blocks, min(c, entry.count - 1), row);
        const float up = __shfl_down_sync(device::kAllLanes, sum, kStripRows / 2);
        if (row < kStripRows / 2 && c < entry.count) {
          const int64_t at = int64_t{entry.rows[c]} * (args.top_k + args.shared) + slot_of(entry, c);
          args.hidden[at * args.f + (item & strip_mask) * (kStripRows / 2) + row] =
              few_operand<kFormat>(device::silu(sum) * up);
        }
      }
      device::warp_arrive(&m.sums_free[to.slot]);
      to.advance(2);
    }
    return;
  }
  RingPlace turn;
  RingPlace place;
  int current = -1;
  uint32_t columns = 0;
  const uint32_t lane_at = static_cast<uint32_t>(device::lane() % 8 * m.row_bytes + device::lane() / 8 * 16);
#pragma unroll 1
  for (int item = share.first; item < share.end; ++item) {
    const int index = item >> strip_bits;
    const RouteEntry& entry = routes.entries[index];
    if (index != current) {
      if (current >= 0) {
        device::warp_arrive(&m.rows_free[place.slot]);
        place.advance(2);
      }
      current = index;
      device::barrier_wait(&m.rows_filled[place.slot], place.phase);
      columns = device::shared_address(m.rows + place.slot * kColumns * m.row_bytes) + lane_at;
    }
    device::barrier_wait(&m.sums_free[to.slot], to.phase ^ 1U);
    float* sums = m.sums + to.slot * m.blocks * kUnitSums;
    float* scales = m.scales + to.slot * m.blocks * 2;
    if (is_apart(entry)) {
      m.template multiply<kFewApartFormat>(turn, columns, entry.count, sums, scales);
    } else {
      m.template multiply<kFormat>(turn, columns, entry.count, sums, scales);
    }
    device::warp_arrive(&m.sums_filled[to.slot]);
    to.advance(2);
  }
}

inline constexpr int kTotals = kPackedMoeRows * kStripRows / (kSomeDownJoinWarps * device::kWarp);  // sums of a thread

// A block takes a strip, of all entries; the rows of hidden values come in the ring's slots beside the weights. Eight
// warps join what the others have multiplied. A slot holds the strip of as many entries as make a chunk, or of one of
// the shared expert's that is stored otherwise.
template <int kFormat>
WEIR_DEVICE void down(const GpuFewExpertsArgs& args, uint8_t* shared) {
  constexpr int kUnits = few_chunk_units(kFormat);
  constexpr bool kScales = few_has_scales(kFormat);
  const int thread = static_cast<int>(threadIdx.x);
  const int blocks = args.f / kBlockK;  // at most eight
  const int block_bits = log_of(blocks);
  const int together = kUnits >> block_bits;  // entries of a slot
  const int row_bytes = 2 * args.f + 16;
  const int slot_weights =
      max(few_chunk_bytes(kFormat), few_may_be_apart(kFormat) ? blocks * few_unit_bytes(kFewApartFormat) : 0);
  const int slot_rows = slot_weights + kSlotScales<kFormat>;
  const int slot_bytes = slot_rows + together * kColumns * row_bytes;
  const int slots = args.ring_bytes / slot_bytes;
  auto* sums = reinterpret_cast<float*>(shared + slots * slot_bytes);  // [2][units][8][16]
  float* scales = sums + 2 * kUnits * kUnitSums;                       // [2][units][2]
  auto* barriers = reinterpret_cast<device::Barrier*>(scales + 4 * kUnits);
  device::Barrier* filled = barriers;
  device::Barrier* free = barriers + 32;
  device::Barrier* routes_here = barriers + 64;
  device::Barrier* sums_filled = barriers + 65;
  device::Barrier* sums_free = barriers + 67;
  uint8_t* routes_at = reinterpret_cast<uint8_t*>(barriers + kSomeBarriers);
  const RoutesHere routes(routes_at);
  const int strip = static_cast<int>(blockIdx.x);
  if (experts_bring<kFormat>()) {
    const int lane = device::lane();
    if (lane < slots) {
      device::barrier_init(&filled[lane], 1);
      device::barrier_init(&free[lane], few_warps(kFormat) * device::kWarpArrivals);
    }
    if (lane < 2) {
      device::barrier_init(&sums_filled[lane], few_warps(kFormat) * device::kWarpArrivals);
      device::barrier_init(&sums_free[lane], kSomeDownJoinWarps * device::kWarpArrivals);
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
  const int like = like_entries<kFormat>(args, entries);
  const auto here_of = [&](int begin) {
    return !few_may_be_apart(kFormat) || begin < like ? min(together, like - begin) : 1;
  };
  const int slots_of_row = args.top_k + args.shared;
  if (experts_bring<kFormat>()) {
    const int lane = device::lane();
    const int e = lane / kColumns;
    const int c = lane % kColumns;
    RingPlace turn;
    bool waited = false;
#pragma unroll 1
    for (int begin = 0, here = 0; begin < entries; begin += here) {
      here = here_of(begin);
      const bool apart = begin >= like;
      const int unit_bytes = apart ? few_unit_bytes(kFewApartFormat) : few_unit_bytes(kFormat);
      uint8_t* slot = shared + turn.slot * slot_bytes;
      device::barrier_wait(&free[turn.slot], turn.phase ^ 1U);
      int bytes = 0;
      if (lane < here) {
        bytes = blocks * (unit_bytes + (kScales ? 8 : 0)) + routes.entries[begin + lane].count * args.f * 2;
      }
      bytes = static_cast<int>(__reduce_add_sync(device::kAllLanes, static_cast<unsigned>(bytes)));
      if (lane == 0) device::barrier_expect(&filled[turn.slot], bytes);
      __syncwarp();
      if (lane < here) {
        const int64_t offset = routes.entries[begin + lane].expert * args.stride;
        const int64_t at = static_cast<int64_t>(strip) << block_bits;
        const uint8_t* weights = apart ? args.shared_down : args.down + offset;
        device::bulk_copy_once(slot + lane * blocks * unit_bytes, weights + at * unit_bytes, blocks * unit_bytes,
                               &filled[turn.slot]);
        if constexpr (kScales) {
          device::bulk_copy(slot + slot_weights + lane * blocks * 8,
                            reinterpret_cast<const uint8_t*>(args.down_scales) + offset + at * 8, blocks * 8,
                            &filled[turn.slot]);
        }
      }
      if (!waited) device::wait_for_previous();
      waited = true;
      // Lanes have a row of an entry each, of four entries at a time.
#pragma unroll 1
      for (int i = e; i < here; i += device::kWarp / kColumns) {
        const RouteEntry& entry = routes.entries[begin + i];
        if (c >= entry.count) continue;
        const int64_t from = int64_t{entry.rows[c]} * slots_of_row + slot_of(entry, c);
        device::bulk_copy(slot + slot_rows + (i * kColumns + c) * row_bytes, args.hidden + from * args.f, args.f * 2,
                          &filled[turn.slot]);
      }
      __syncwarp();
      turn.advance(slots);
    }
    return;
  }
  if (device::warp() < few_warps(kFormat)) {
    RingPlace turn;
    RingPlace to;
    const uint32_t lane_at =
        static_cast<uint32_t>(slot_rows + device::lane() % 8 * row_bytes + device::lane() / 8 * 16);
#pragma unroll 1
    for (int begin = 0, here = 0; begin < entries; begin += here) {
      here = here_of(begin);
      const uint8_t* slot = shared + turn.slot * slot_bytes;
      const uint32_t columns = device::shared_address(slot) + lane_at;
      device::barrier_wait(&filled[turn.slot], turn.phase);
      device::barrier_wait(&sums_free[to.slot], to.phase ^ 1U);
      const auto columns_of = [&](int unit) {
        return columns +
               static_cast<uint32_t>((unit >> block_bits) * kColumns * row_bytes + (unit & (blocks - 1)) * kBlockK * 2);
      };
      const auto keep = [&](int unit, const float (&d)[4]) {
        keep_unit(sums + (to.slot * kUnits + unit) * kUnitSums, routes.entries[begin + (unit >> block_bits)].count, d);
        if (kScales && device::lane() < 2) {
          scales[(to.slot * kUnits + unit) * 2 + device::lane()] =
              reinterpret_cast<const float*>(slot + slot_weights)[2 * unit + device::lane()];
        }
      };
      if (!few_may_be_apart(kFormat) || begin < like) {
        run_chunk<kFormat>(slot, here << block_bits, columns_of, keep);
      } else {
        run_chunk<kFewApartFormat>(slot, blocks, columns_of, keep);
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
  const int joiner = thread - few_threads(kFormat);
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
  for (int begin = 0, here = 0; begin < entries; begin += here) {
    here = here_of(begin);
    const float* mine = sums + from.slot * kUnits * kUnitSums;
    const float* my_scales = kScales ? scales + from.slot * kUnits * 2 : nullptr;
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

}  // namespace

WEIR_KERNEL_BOUNDED(weir_some_gate_up, GpuFewExpertsArgs, some_threads(kGpuFp8Block, kSomeUpJoinWarps), 1) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  gate_up<kGpuFp8Block>(args, few_shared);
}
WEIR_KERNEL_BOUNDED(weir_some_gate_up_mxfp4, GpuFewExpertsArgs, some_threads(kGpuMxfp4, kSomeUpJoinWarps), 1) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  gate_up<kGpuMxfp4>(args, few_shared);
}
WEIR_KERNEL_BOUNDED(weir_some_down, GpuFewExpertsArgs, some_threads(kGpuFp8Block, kSomeDownJoinWarps), 1) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  down<kGpuFp8Block>(args, few_shared);
}
WEIR_KERNEL_BOUNDED(weir_some_down_mxfp4, GpuFewExpertsArgs, some_threads(kGpuMxfp4, kSomeDownJoinWarps), 1) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  down<kGpuMxfp4>(args, few_shared);
}

}  // namespace weir
