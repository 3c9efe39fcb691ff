// The sparse experts over one row, in two kernels: bound by reading the weights of its experts. Every block works out the
// routing for itself; the second kernel's stand beside those of the first one, and bring their weights while these read
// theirs. few_units.h says how weights are worked off.
#include "ops/moe/few_experts.h"

namespace weir {
namespace {

// By one warp: what choose_experts() chooses. `weigh`: weights too, and the shared expert.
template <int kEach>
WEIR_DEVICE void choose(const GpuFewExpertsArgs& args, bool weigh, OneRoutes& routes) {
  const int lane = device::lane();
  const float shared_logit = args.shared != 0 ? __ldcg(args.router + args.experts) : 0.0F;
  const Best best = best_of_row<kEach>(args.router, args.experts, args.top_k, weigh);
  const int chosen = best.expert;
  const int rank = few_slot(args, chosen);
  if (lane < args.top_k) routes.experts[rank] = chosen;
  if (!weigh) return;
  const float weight = few_weight(best.key, args.top_k);
  if (lane < args.top_k) routes.weights[rank] = weight;
  if (lane == args.top_k && args.shared != 0) {
    routes.experts[lane] = args.experts;
    routes.weights[lane] = device::sigmoid(shared_logit);
  }
}

// Memory that choose_by_all() needs.
struct Candidates {
  uint32_t most[16];   // by group of 32 experts: their largest key,
  uint32_t masks[16];  // and which are candidates
  uint32_t keys[device::kWarp];
  int32_t experts[device::kWarp];
};

// The experts of the only row, by all warps that multiply: a lane has one expert of 256. There are no fewer groups of
// 32 than the row takes experts, so the last of these reaches the smallest of the groups' largest keys: of 256 some
// twenty do, whose ranks are counted. By the first warp alone if more do than it has lanes (where a group is empty,
// all), or if the row takes more experts than there are groups.
template <int kEach>
WEIR_DEVICE void choose_by_all(const GpuFewExpertsArgs& args, Candidates& c, OneRoutes& routes) {
  constexpr int kKeys = kEach / kFewWarps;
  const int lane = device::lane();
  const int first = device::warp() * kKeys;  // group
  uint32_t keys[kKeys];
#pragma unroll
  for (int i = 0; i < kKeys; ++i) {
    const int e = (first + i) * device::kWarp + lane;
    keys[i] = e < args.experts ? route_key(__ldcg(args.router + e)) : 0;
    const uint32_t most = __reduce_max_sync(device::kAllLanes, keys[i]);
    if (lane == 0) c.most[first + i] = most;
  }
  few_barrier();
  const uint32_t reached = __reduce_min_sync(device::kAllLanes, c.most[lane % kEach]);
  uint32_t masks[kKeys];
#pragma unroll
  for (int i = 0; i < kKeys; ++i) {
    masks[i] = __ballot_sync(device::kAllLanes, keys[i] >= reached);
    if (lane == 0) c.masks[first + i] = masks[i];
  }
  few_barrier();
  const auto counted = static_cast<unsigned>(lane < kEach ? __popc(c.masks[lane]) : 0);
  const int count = static_cast<int>(__reduce_add_sync(device::kAllLanes, counted));
  const bool few = count <= device::kWarp && args.top_k <= kEach;
#pragma unroll
  for (int i = 0; i < kKeys; ++i) {
    const int before = static_cast<int>(__reduce_add_sync(device::kAllLanes, lane < first + i ? counted : 0));
    if (few && keys[i] >= reached) {
      const int at = before + __popc(masks[i] & ((1U << lane) - 1));
      c.keys[at] = keys[i];
      c.experts[at] = (first + i) * device::kWarp + lane;
    }
  }
  few_barrier();
  if (device::warp() > 0) return;
  if (!few) return choose<kEach>(args, false, routes);
  // In ascending order of experts: of equal keys the earlier one is the better.
  const uint32_t key = lane < count ? c.keys[lane] : 0;
  int rank = 0;
#pragma unroll 4
  for (int i = 0; i < count; ++i) {
    const uint32_t other = __shfl_sync(device::kAllLanes, key, i);
    rank += other > key || (other == key && i < lane) ? 1 : 0;
  }
  const bool chosen = lane < count && rank < args.top_k;
  const uint32_t all = __ballot_sync(device::kAllLanes, chosen);
  if (chosen) routes.experts[__popc(all & ((1U << lane) - 1))] = c.experts[lane];
}

// The block's shared memory: ring, rows, sums, barriers, scales.
struct OneShared {
  FewRing ring;
  uint8_t* rows;  // [count + 1][row_bytes], the last one zeros
  float* sums;    // [units][16]
  float* scales;  // [units][2]
  int row_bytes;
  int count;

  WEIR_DEVICE OneShared(const GpuFewExpertsArgs& args, uint8_t* shared, int count, int width, int units)
      : count(count) {
    row_bytes = 2 * width;  // one column is a row, the others zeros: no two lanes meet in a bank
    rows = shared + args.ring_bytes;
    sums = reinterpret_cast<float*>(rows + (count + 1) * row_bytes);
    auto* barriers = reinterpret_cast<device::Barrier*>(sums + units * kStripRows);
    scales = reinterpret_cast<float*>(barriers + kFewBarriers);
    ring = few_experts_ring(args, shared, barriers);
  }
  // The lane's part of columns of which the first one is row `row`.
  WEIR_DEVICE uint32_t column(int row) const {
    const int at = device::lane() % 8 == 0 ? row : count;
    return device::shared_address(rows + device::lane() / 8 * 16) + static_cast<uint32_t>(at * row_bytes);
  }
};

template <int kEach>
WEIR_DEVICE void gate_up(const GpuFewExpertsArgs& args, uint8_t* shared) {
  __shared__ OneRoutes routes;
  __shared__ Candidates candidates;
  const int thread = static_cast<int>(threadIdx.x);
  const int blocks = args.d / kBlockK;
  const int block_bits = log_of(blocks);
  const int strip_bits = log_of(args.f / (kStripRows / 2));
  const OneShared m(args, shared, 1, args.d, args.items_max * blocks);
  // Items: strip by strip of slot by slot.
  const unsigned total = static_cast<unsigned>(args.top_k) << strip_bits;
  const int first = static_cast<int>(total * blockIdx.x / gridDim.x);
  const int items = static_cast<int>(total * (blockIdx.x + 1) / gridDim.x) - first;
  const int count = items << block_bits;
  const int chunks = (count + kFewWarps - 1) / kFewWarps;
  const auto strip_of = [&](int item) { return (first + item) & ((1 << strip_bits) - 1); };
  const auto offset_of = [&](int item) { return routes.experts[(first + item) >> strip_bits] * args.stride; };
  device::NamedBarrier<0, kFewThreads> routes_here;
  if (few_brings()) m.ring.prepare();
  clear_row(m.rows + m.row_bytes, m.row_bytes);
  device::wait_for_previous();
  device::start_next();
  if (few_brings()) {
    if (device::lane() == 0) {
      device::barrier_expect(m.ring.rows, m.row_bytes);
      device::bulk_copy(m.rows, args.x, m.row_bytes, m.ring.rows);
    }
    __syncwarp();
  } else {
    choose_by_all<kEach>(args, candidates, routes);
  }
  routes_here.wait();
  if (few_brings()) {
    const int together = min(kFewWarps, blocks);
    const auto fill = [&](int chunk, uint8_t* slot, device::Barrier* barrier) {
      bring_chunk(args.gate_up, chunk, count, together, blocks, block_bits, slot, barrier, strip_of, offset_of);
    };
    m.ring.bring(chunks, args.under_way, fill);
  } else {
#pragma unroll 1
    for (int i = thread; i < count; i += kFewMultiply) {
      const int item = i >> block_bits;
      const auto* from =
          reinterpret_cast<const float*>(reinterpret_cast<const uint8_t*>(args.gate_up_scales) + offset_of(item));
      device::copy8(m.scales + 2 * i, from + 2 * (strip_of(item) << block_bits | (i & (blocks - 1))));
    }
    device::copies_commit();
    device::barrier_wait(m.ring.rows, 0);
    const uint32_t base = m.column(0);
    run_units(m.ring, count, [&](int unit, const uint8_t* place) {
      float d[4];
      multiply_fp8(place, base + static_cast<uint32_t>((unit & (blocks - 1)) * kBlockK * 2), d);
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

template <int kEach>
WEIR_DEVICE void down(const GpuFewExpertsArgs& args, uint8_t* shared) {
  __shared__ OneRoutes routes;
  const int thread = static_cast<int>(threadIdx.x);
  const int blocks = args.f / kBlockK;
  const int block_bits = log_of(blocks);
  const int entries = args.top_k + args.shared;
  const int count = entries << block_bits;
  const int chunks = (count + kFewWarps - 1) / kFewWarps;
  const OneShared m(args, shared, entries, args.f, count);
  const int strip = static_cast<int>(blockIdx.x);
  if (few_brings()) {
    m.ring.prepare();
  } else if (device::warp() == 0) {
    // The router's logits are of the kernel before the one before this, which has ended.
    choose<kEach>(args, true, routes);
  }
  clear_row(m.rows + entries * m.row_bytes, m.row_bytes);
  __syncthreads();
  const int together = min(kFewWarps, blocks);
  const auto fill = [&](int chunk, uint8_t* slot, device::Barrier* barrier) {
    bring_chunk(
        args.down, chunk, count, together, blocks, block_bits, slot, barrier, [&](int) { return strip; },
        [&](int item) { return routes.experts[item] * args.stride; });
  };
  const int row = thread % kStripRows;
  const int n = strip * kStripRows + row;
  const bool writes = thread < kStripRows && n < args.d;
  float* y = args.y + n;
  float before = 0;
  if (few_brings()) m.ring.bring(chunks, args.under_way, fill);
#pragma unroll 1
  for (int i = thread; i < count && !few_brings(); i += kFewMultiply) {
    const auto* from = reinterpret_cast<const float*>(reinterpret_cast<const uint8_t*>(args.down_scales) +
                                                      routes.experts[i >> block_bits] * args.stride);
    device::copy8(m.scales + 2 * i, from + 2 * (strip << block_bits | (i & (blocks - 1))));
  }
  device::copies_commit();
  if (!few_brings()) {
    device::wait_for_previous();
    device::start_next();
    copy_beside(m.rows, args.hidden, entries * m.row_bytes, thread, kFewMultiply);
    device::copies_commit();
    before = args.add != 0 && writes ? __ldcg(y) : 0.0F;
    device::copies_wait<0>();
    few_barrier();
    if (thread == 0) m.ring.note_rows();
    run_units(m.ring, count, [&](int unit, const uint8_t* place) {
      float d[4];
      multiply_fp8(place, m.column(unit >> block_bits) + static_cast<uint32_t>((unit & (blocks - 1)) * kBlockK * 2), d);
      keep_unit(m.sums + unit * kStripRows, 1, d);
    });
  }
  device::copies_wait<0>();
  __syncthreads();
  // Every entry's dot by itself, where its first sum stood; then all of them, weighed, in ascending order.
  const auto first_sum = [&](int entry) { return m.sums + (entry << block_bits) * kStripRows + row; };
#pragma unroll 1
  for (int entry = thread / kStripRows; entry < entries; entry += kFewThreads / kStripRows) {
    float* of = first_sum(entry);
    *of = join_units(of, kStripRows, m.scales + (entry << block_bits) * 2 + row / 8, blocks);
  }
  __syncthreads();
  if (!writes) return;
  *y = before + few_row_sum(args, routes.weights, args.top_k, 0, first_sum);
}

}  // namespace

// For at most 256 experts and for 512.
WEIR_KERNEL_BOUNDED(weir_one_gate_up, GpuFewExpertsArgs, kFewThreads, 1) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  gate_up<8>(args, few_shared);
}
WEIR_KERNEL_BOUNDED(weir_one_gate_up_many, GpuFewExpertsArgs, kFewThreads, 1) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  gate_up<16>(args, few_shared);
}
WEIR_KERNEL_BOUNDED(weir_one_down, GpuFewExpertsArgs, kFewThreads, 1) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  down<8>(args, few_shared);
}
WEIR_KERNEL_BOUNDED(weir_one_down_many, GpuFewExpertsArgs, kFewThreads, 1) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  down<16>(args, few_shared);
}

}  // namespace weir
