// The sparse experts over at most eight rows: bound by reading the weights of each row's experts. Every block works out
// the routing for itself; every (row, slot) is on its own, so rows that share an expert read it twice (the second time
// from the second-level cache, as a rule). few_units.h says how weights are worked off.
#include "ops/linear/few_units.h"
#include "ops/moe/moe_few_args.h"
#include "ops/moe/routes.h"

namespace weir {
namespace {

// The slot's expert and its key, by lane: the best of a row in lane 0, and so on. Of equal keys the lower index is the
// better one.
struct Best {
  int expert = 0x7fffffff;
  uint32_t key = 0;
};

template <int kEach>
WEIR_DEVICE Best best_exactly(const float* logits, int experts, int top_k) {
  const int lane = device::lane();
  const float* at = logits + lane;
  uint32_t keys[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    keys[i] = device::kWarp * i < experts - lane ? route_key(__ldcg(at + device::kWarp * i)) : 0;
  }
  Best out;
#pragma unroll 1
  for (int s = 0; s < top_k; ++s) {
    uint32_t best = keys[0];
#pragma unroll
    for (int i = 1; i < kEach; ++i) best = max(best, keys[i]);
    best = __reduce_max_sync(device::kAllLanes, best);
    unsigned expert = 0xffffffffU;
#pragma unroll
    for (int i = kEach - 1; i >= 0; --i) {
      if (keys[i] == best) expert = static_cast<unsigned>(lane + device::kWarp * i);
    }
    expert = __reduce_min_sync(device::kAllLanes, expert);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (expert == static_cast<unsigned>(lane + device::kWarp * i)) keys[i] = 0;
    }
    if (lane == s) out = {static_cast<int>(expert), best};
  }
  return out;
}

// The same in shorter rounds: the index takes the place of the key's last bits, so no two are equal, and what comes
// next is the largest one below. Where two neighbours of the order, or the last and the first one left out, have the
// same other bits, this does not tell them apart: then it goes the long way. What is not there is a NaN behind all
// others.
template <int kEach>
WEIR_DEVICE Best best_of_row(const float* logits, int experts, int top_k, bool with_key) {
  constexpr uint32_t kIndex = kEach * device::kWarp - 1;
  const int lane = device::lane();
  asm volatile("" : "+l"(logits));  // else the compiler works out each address from the arguments
  float values[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    values[i] = __ldcg(logits + static_cast<unsigned>(min(lane + device::kWarp * i, experts - 1)));
  }
  uint32_t keys[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int e = lane + device::kWarp * i;
    const float value = e < experts ? values[i] : __uint_as_float(0x7fffffffU);
    keys[i] = (route_key(value) & ~kIndex) | (kIndex - static_cast<uint32_t>(e));
  }
  uint32_t best = 0xffffffffU;  // of the round before
  uint32_t mine = 0;
#pragma unroll 1
  for (int s = 0; s <= top_k; ++s) {
    uint32_t next = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) next = max(next, keys[i] < best ? keys[i] : 0);
    best = __reduce_max_sync(device::kAllLanes, next);
    if (lane == s) mine = best;
  }
  const uint32_t after = __shfl_down_sync(device::kAllLanes, mine, 1);
  if (__any_sync(device::kAllLanes, lane < top_k && (mine ^ after) <= kIndex)) {
    return best_exactly<kEach>(logits, experts, top_k);
  }
  Best out;
  if (lane < top_k) {
    out.expert = static_cast<int>(kIndex - (mine & kIndex));
    if (with_key) out.key = route_key(__ldcg(logits + out.expert));
  }
  return out;
}

// One row by one warp: what choose_experts() chooses. `weigh`: weights too, and the shared expert.
template <int kEach>
WEIR_DEVICE void choose(const GpuFewExpertsArgs& args, int row, bool weigh, FewRoutes& routes) {
  const int lane = device::lane();
  const float* logits = args.router + row * (args.experts + args.shared);
  const float shared_logit = args.shared != 0 ? __ldcg(logits + args.experts) : 0.0F;
  const Best best = best_of_row<kEach>(logits, args.experts, args.top_k, weigh);
  const int chosen = best.expert;
  int rank = 0;
#pragma unroll 2
  for (int s = 0; s < args.top_k; ++s) rank += __shfl_sync(device::kAllLanes, chosen, s) < chosen ? 1 : 0;
  if (lane < args.top_k) routes.experts[row * args.top_k + rank] = chosen;
  if (!weigh) return;
  const float value = route_value(best.key);
  const float largest = __shfl_sync(device::kAllLanes, value, 0);
  const float e = lane < args.top_k ? expf(value - largest) : 0.0F;
  const float weight = e / device::warp_sum(e);
  if (lane < args.top_k) routes.weights[row * args.top_k + rank] = weight;
  if (lane == args.top_k && args.shared != 0) {
    const int routed = args.rows * args.top_k;
    if (row == 0) routes.experts[routed] = args.experts;
    routes.weights[routed + row] = device::sigmoid(shared_logit);
  }
}

// The block's shared memory: ring, rows, sums, barriers, scales.
struct FewMoeShared {
  FewRing ring;
  uint8_t* rows;  // [count + 1][row_bytes], the last one zeros
  float* sums;    // [units][16]
  float* scales;  // [units][2]
  int row_bytes;

  WEIR_DEVICE FewMoeShared(const GpuFewExpertsArgs& args, uint8_t* shared, int count, int width, int units) {
    row_bytes = 2 * width;  // one column is a row, the others zeros: no two lanes meet in a bank
    rows = shared + args.ring_bytes;
    sums = reinterpret_cast<float*>(rows + (count + 1) * row_bytes);
    auto* barriers = reinterpret_cast<device::Barrier*>(sums + units * kStripRows);
    scales = reinterpret_cast<float*>(barriers + kFewBarriers);
    constexpr int kSlotBytes = kFewWarps * kFewUnitBytes;
    ring = {shared, barriers, barriers + 32, barriers + 64, barriers + 65, args.ring_bytes / kSlotBytes, kSlotBytes};
  }
};

// By the warp that brings, once it has asked for all of its own: what a block of the second kernel reads first, for the
// second-level cache, as nothing else is asked of the memory until that kernel has begun.
WEIR_DEVICE void ask_ahead(const GpuFewExpertsArgs& args, const FewRoutes& routes) {
  const int strip = static_cast<int>(blockIdx.x);
  const int bytes = args.f / kBlockK * kFewUnitBytes;
  if (strip * kStripRows >= args.d) return;
  for (int entry = device::lane(); entry < args.ahead; entry += device::kWarp) {
    device::bulk_prefetch(args.down + routes.experts[entry] * args.stride + static_cast<int64_t>(strip) * bytes,
                          static_cast<uint32_t>(bytes));
  }
}

template <int kEach>
WEIR_DEVICE void gate_up(const GpuFewExpertsArgs& args, uint8_t* shared, FewRoutes& routes) {
  const int thread = static_cast<int>(threadIdx.x);
  const int blocks = args.d / kBlockK;
  const int block_bits = log_of(blocks);
  const int strip_bits = log_of(args.f / (kStripRows / 2));
  const FewMoeShared m(args, shared, args.rows, args.d, args.items_max * blocks);
  // Items: strip by strip of (row, slot) by (row, slot).
  const unsigned total = static_cast<unsigned>(args.rows * args.top_k) << strip_bits;
  const int first = static_cast<int>(total * blockIdx.x / gridDim.x);
  const int items = static_cast<int>(total * (blockIdx.x + 1) / gridDim.x) - first;
  const int count = items << block_bits;
  const int chunks = (count + kFewWarps - 1) / kFewWarps;
  const auto strip_of = [&](int item) { return (first + item) & ((1 << strip_bits) - 1); };
  const auto offset_of = [&](int item) { return routes.experts[(first + item) >> strip_bits] * args.stride; };
  if (few_brings()) m.ring.prepare();
  clear_row(m.rows + args.rows * m.row_bytes, m.row_bytes);
  device::wait_for_previous();
  device::start_next();
  if (few_brings()) {
    if (device::lane() == 0) {
      device::barrier_expect(m.ring.rows, args.rows * m.row_bytes);
      device::bulk_copy(m.rows, args.x, args.rows * m.row_bytes, m.ring.rows);
    }
    __syncwarp();
  } else if (device::warp() < args.rows) {
    choose<kEach>(args, device::warp(), false, routes);
  }
  __syncthreads();
  if (few_brings()) {
    const int together = min(kFewWarps, blocks);
    const auto fill = [&](int chunk, uint8_t* slot, device::Barrier* barrier) {
      const int here = min(kFewWarps, count - chunk * kFewWarps);
      device::barrier_expect(barrier, here * kFewUnitBytes);
#pragma unroll 1
      for (int i = 0; i < here; i += together) {
        const int unit = chunk * kFewWarps + i;
        const int item = unit >> block_bits;
        const int at = strip_of(item) << block_bits | (unit & (blocks - 1));
        device::bulk_copy_once(slot + i * kFewUnitBytes,
                               args.gate_up + offset_of(item) + static_cast<int64_t>(at) * kFewUnitBytes,
                               together * kFewUnitBytes, barrier);
      }
    };
    m.ring.bring(chunks, args.under_way, fill);
    __syncwarp();  // one lane has brought
    ask_ahead(args, routes);
  } else {
    // While the first weights are on their way.
    if (args.hands_on != 0 && blockIdx.x == 0 && device::warp() < args.rows) {
      choose<kEach>(args, device::warp(), true, *reinterpret_cast<FewRoutes*>(args.routes));
    }
#pragma unroll 1
    for (int i = thread; i < count; i += kFewWarps * device::kWarp) {
      const int item = i >> block_bits;
      const auto* from =
          reinterpret_cast<const float*>(reinterpret_cast<const uint8_t*>(args.gate_up_scales) + offset_of(item));
      device::copy8(m.scales + 2 * i, from + 2 * (strip_of(item) << block_bits | (i & (blocks - 1))));
    }
    device::copies_commit();
    device::barrier_wait(m.ring.rows, 0);
    const uint32_t base = device::shared_address(m.rows + device::lane() / 8 * 16);
    const bool own = device::lane() % 8 == 0;  // column 0 is the item's row, the others zeros
    run_units(m.ring, count, [&](int unit, const uint8_t* place) {
      float d[4];
      const int row = own ? ((first + (unit >> block_bits)) >> strip_bits) / args.top_k : args.rows;
      multiply_fp8(place, base + static_cast<uint32_t>(row * m.row_bytes + (unit & (blocks - 1)) * kBlockK * 2), d);
      keep_unit(m.sums + unit * kStripRows, 1, d);
    });
    device::copies_wait<0>();
  }
  __syncthreads();
  const int values = items * kStripRows;
#pragma unroll 1
  for (int begin = device::warp() * device::kWarp; begin < values; begin += kFewThreads) {
    const int i = min(begin + device::lane(), values - 1);
    const int item = i / kStripRows;
    const int row = i % kStripRows;
    const float sum = join_units(m.sums + item * blocks * kStripRows + row, kStripRows,
                                 m.scales + item * blocks * 2 + row / 8, blocks);
    const float up = __shfl_down_sync(device::kAllLanes, sum, kStripRows / 2);
    if (begin + device::lane() >= values || row >= kStripRows / 2) continue;
    const int64_t entry = (first + item) >> strip_bits;
    args.hidden[entry * args.f + strip_of(item) * (kStripRows / 2) + row] =
        static_cast<uint16_t>(device::f16x2(device::silu(sum) * up, 0.0F));
  }
}

// The shared expert's units are multiplied by all rows at once, a column a row; the others by the row of their entry,
// in column 0.
template <int kEach>
WEIR_DEVICE void down(const GpuFewExpertsArgs& args, uint8_t* shared, FewRoutes& routes) {
  const int thread = static_cast<int>(threadIdx.x);
  const int blocks = args.f / kBlockK;
  const int block_bits = log_of(blocks);
  const int routed = args.rows * args.top_k;
  const int entries = routed + args.rows * args.shared;
  const int count = (routed + args.shared) << block_bits;
  const int chunks = (count + kFewWarps - 1) / kFewWarps;
  const FewMoeShared m(args, shared, entries, args.f, entries << block_bits);
  const int strip = static_cast<int>(blockIdx.x);
  const auto bring_rows = [&] {
    copy_beside(m.rows, args.hidden, entries * m.row_bytes, thread, kFewWarps * device::kWarp);
    device::copies_commit();
  };
  if (few_brings()) m.ring.prepare();
  if (args.hands_on != 0) {
    // This block does not stand beside the kernel before, whose end is near then: its routes are there sooner.
    device::wait_for_previous();
    const auto* from = reinterpret_cast<const FewRoutes*>(args.routes);
    if (!few_brings()) bring_rows();
    if (thread < entries) {
      if (thread <= routed) routes.experts[thread] = __ldcg(from->experts + thread);
      routes.weights[thread] = __ldcg(from->weights + thread);
    }
  } else if (device::warp() < args.rows) {
    // The router's logits are of the kernel before the one before this, which has ended.
    choose<kEach>(args, device::warp(), true, routes);
  }
  clear_row(m.rows + entries * m.row_bytes, m.row_bytes);
  __syncthreads();
  const int together = min(kFewWarps, blocks);
  const auto fill = [&](int chunk, uint8_t* slot, device::Barrier* barrier) {
    const int here = min(kFewWarps, count - chunk * kFewWarps);
    device::barrier_expect(barrier, here * kFewUnitBytes);
#pragma unroll 1
    for (int i = 0; i < here; i += together) {
      const int unit = chunk * kFewWarps + i;
      const int at = strip << block_bits | (unit & (blocks - 1));
      device::bulk_copy_once(
          slot + i * kFewUnitBytes,
          args.down + routes.experts[unit >> block_bits] * args.stride + static_cast<int64_t>(at) * kFewUnitBytes,
          together * kFewUnitBytes, barrier);
    }
  };
  const int row = thread % kStripRows;
  const int n = strip * kStripRows + row;
  const int r = thread / kStripRows;
  const bool writes = r < args.rows && n < args.d;
  float* y = args.y + r * args.y_stride + n;
  float before = 0;
  if (few_brings()) m.ring.bring(chunks, args.under_way, fill);
#pragma unroll 1
  for (int i = thread; i < count && !few_brings(); i += kFewWarps * device::kWarp) {
    const auto* from = reinterpret_cast<const float*>(reinterpret_cast<const uint8_t*>(args.down_scales) +
                                                      routes.experts[i >> block_bits] * args.stride);
    device::copy8(m.scales + 2 * i, from + 2 * (strip << block_bits | (i & (blocks - 1))));
  }
  device::copies_commit();
  if (!few_brings()) {
    device::wait_for_previous();
    device::start_next();
    if (args.hands_on == 0) bring_rows();
    before = args.add != 0 && writes ? __ldcg(y) : 0.0F;
    // All but the scales, where these came last.
    if (args.hands_on != 0) {
      device::copies_wait<1>();
    } else {
      device::copies_wait<0>();
    }
    few_barrier();
    if (thread == 0) m.ring.note_rows();
    const uint32_t base = device::shared_address(m.rows + device::lane() / 8 * 16);
    const int column = device::lane() % 8;
    run_units(m.ring, count, [&](int unit, const uint8_t* place) {
      const int entry = unit >> block_bits;
      const int block = unit & (blocks - 1);
      const int columns = entry == routed ? args.rows : 1;
      const int at = column < columns ? entry + column : entries;
      float d[4];
      multiply_fp8(place, base + static_cast<uint32_t>(at * m.row_bytes + block * kBlockK * 2), d);
      keep_unit(m.sums + ((entry << block_bits) + block * columns) * kStripRows, columns, d);
    });
  }
  device::copies_wait<0>();
  __syncthreads();
  // Every entry's dot by itself, where its first sum stood; then those of a row, weighed, in ascending order.
  const auto first_sum = [&](int entry) {
    return m.sums + (entry < routed ? entry << block_bits : (routed << block_bits) + entry - routed) * kStripRows + row;
  };
#pragma unroll 1
  for (int entry = r; entry < entries; entry += kFewThreads / kStripRows) {
    float* of = first_sum(entry);
    *of = join_units(of, (entry < routed ? 1 : args.rows) * kStripRows,
                     m.scales + (min(entry, routed) << block_bits) * 2 + row / 8, blocks);
  }
  __syncthreads();
  if (!writes) return;
  float sum = 0;
#pragma unroll 2
  for (int slot = 0; slot < args.top_k; ++slot) {
    const int entry = r * args.top_k + slot;
    sum = fmaf(routes.weights[entry], *first_sum(entry), sum);
  }
  if (args.shared != 0) sum = fmaf(routes.weights[routed + r], *first_sum(routed + r), sum);
  *y = before + sum;
}

}  // namespace

// One for at most 256 experts, one for 512.
WEIR_KERNEL_BOUNDED(weir_few_gate_up, GpuFewExpertsArgs, kFewThreads, 1) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  __shared__ FewRoutes routes;
  gate_up<8>(args, few_shared, routes);
}
WEIR_KERNEL_BOUNDED(weir_few_gate_up_many, GpuFewExpertsArgs, kFewThreads, 1) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  __shared__ FewRoutes routes;
  gate_up<16>(args, few_shared, routes);
}
WEIR_KERNEL_BOUNDED(weir_few_down, GpuFewExpertsArgs, kFewThreads, 1) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  __shared__ FewRoutes routes;
  down<8>(args, few_shared, routes);
}
WEIR_KERNEL_BOUNDED(weir_few_down_many, GpuFewExpertsArgs, kFewThreads, 1) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  __shared__ FewRoutes routes;
  down<16>(args, few_shared, routes);
}

}  // namespace weir
