// The sparse experts over one row, in two kernels: bound by reading the weights of its experts. Every block works out
// the routing for itself; the second kernel's stand beside those of the first one, and bring their weights while these
// read theirs. few_units.h says how weights are worked off.
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

// The experts of the only row, by the first kFewWarps warps: a lane has one expert of 256. There are no fewer groups of
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
template <int kFormat>
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
    ring = few_experts_ring<kFormat>(args, shared, barriers);
  }
  // The lane's part of columns of which the first one is row `row`.
  WEIR_DEVICE uint32_t column(int row) const {
    const int at = device::lane() % 8 == 0 ? row : count;
    return device::shared_address(rows + device::lane() / 8 * 16) + static_cast<uint32_t>(at * row_bytes);
  }
};

template <int kFormat, int kEach>
WEIR_DEVICE void gate_up(const GpuFewExpertsArgs& args, uint8_t* shared) {
  constexpr bool kScales = few_has_scales(kFormat);
  __shared__ OneRoutes routes;
  __shared__ Candidates candidates;
  const int thread = static_cast<int>(threadIdx.x);
  const int blocks = args.d / kBlockK;
  const int block_bits = log_of(blocks);
  const int strip_bits = log_of(args.f / (kStripRows / 2));
  const OneShared<kFormat> m(args, shared, 1, args.d, args.items_max * blocks);
  // Items: strip by strip of slot by slot.
  const unsigned total = static_cast<unsigned>(args.top_k) << strip_bits;
  const int first = static_cast<int>(total * blockIdx.x / gridDim.x);
  const int items = static_cast<int>(total * (blockIdx.x + 1) / gridDim.x) - first;
  const int count = items << block_bits;
  const auto strip_of = [&](int item) { return (first + item) & ((1 << strip_bits) - 1); };
  const auto offset_of = [&](int item) { return routes.experts[(first + item) >> strip_bits] * args.stride; };
  device::NamedBarrier<0, few_threads(kFormat)> routes_here;
  if (experts_bring<kFormat>()) m.ring.prepare(few_warps(kFormat));
  clear_row(m.rows + m.row_bytes, m.row_bytes, few_threads(kFormat));
  device::wait_for_previous();
  device::start_next();
  if (experts_bring<kFormat>()) {
    if (device::lane() == 0) {
      device::barrier_expect(m.ring.rows, m.row_bytes);
      device::bulk_copy(m.rows, args.x, m.row_bytes, m.ring.rows);
    }
    __syncwarp();
  } else if (device::warp() < kFewWarps) {
    choose_by_all<kEach>(args, candidates, routes);
  }
  routes_here.wait();
  if (experts_bring<kFormat>()) {
    const auto fill = [&](int chunk, uint8_t* slot, device::Barrier* barrier) {
      bring_chunk<kFormat>(args.gate_up, chunk, count, blocks, block_bits, slot, barrier, strip_of, offset_of);
    };
    m.ring.bring(few_chunks<kFormat>(count), args.under_way, fill);
  } else {
#pragma unroll 1
    for (int i = thread; kScales && i < count; i += few_multiply(kFormat)) {
      const int item = i >> block_bits;
      const auto* from =
          reinterpret_cast<const float*>(reinterpret_cast<const uint8_t*>(args.gate_up_scales) + offset_of(item));
      device::copy8(m.scales + 2 * i, from + 2 * (strip_of(item) << block_bits | (i & (blocks - 1))));
    }
    device::copies_commit();
    device::barrier_wait(m.ring.rows, 0);
    const uint32_t base = m.column(0);
    RingPlace at;
    run_chunks<kFormat>(
        m.ring, at, count, [&](int unit) { return base + static_cast<uint32_t>((unit & (blocks - 1)) * kBlockK * 2); },
        [&](int unit, const float (&d)[4]) { keep_unit(m.sums + unit * kStripRows, 1, d); });
    device::copies_wait<0>();
  }
  __syncthreads();
  const int values = items * kStripRows;
#pragma unroll 1
  for (int begin = device::warp() * device::kWarp; begin < values; begin += few_threads(kFormat)) {
    const int i = min(begin + device::lane(), values - 1);
    const int item = i / kStripRows;
    const int row = i % kStripRows;
    const float sum = join_units(m.sums + item * blocks * kStripRows + row, kStripRows,
                                 kScales ? m.scales + item * blocks * 2 + row / 8 : nullptr, blocks);
    const float up = __shfl_down_sync(device::kAllLanes, sum, kStripRows / 2);
    if (begin + device::lane() >= values || row >= kStripRows / 2) continue;
    const int64_t entry = (first + item) >> strip_bits;
    args.hidden[entry * args.f + strip_of(item) * (kStripRows / 2) + row] =
        few_operand<kFormat>(device::silu(sum) * up);
  }
}

template <int kFormat, int kEach>
WEIR_DEVICE void down(const GpuFewExpertsArgs& args, uint8_t* shared) {
  constexpr bool kScales = few_has_scales(kFormat);
  __shared__ OneRoutes routes;
  const int thread = static_cast<int>(threadIdx.x);
  const int blocks = args.f / kBlockK;
  const int block_bits = log_of(blocks);
  const int entries = args.top_k + args.shared;
  const int count = (few_apart<kFormat>(args) ? args.top_k : entries) << block_bits;
  const OneShared<kFormat> m(args, shared, entries, args.f, entries << block_bits);
  const int strip = static_cast<int>(blockIdx.x);
  if (experts_bring<kFormat>()) {
    m.ring.prepare(few_warps(kFormat));
  } else if (device::warp() == 0) {
    // The router's logits are of the kernel before the one before this, which has ended.
    choose<kEach>(args, true, routes);
  }
  clear_row(m.rows + entries * m.row_bytes, m.row_bytes, few_threads(kFormat));
  __syncthreads();
  const int row = thread % kStripRows;
  const int n = strip * kStripRows + row;
  const bool writes = thread < kStripRows && n < args.d;
  float* y = args.y + n;
  float before = 0;
  if (experts_bring<kFormat>() && device::lane() == 0) {
    const auto strip_of = [&](int) { return strip; };
    FewRing::Bringing at;
    m.ring.bring(at, few_chunks<kFormat>(count), args.under_way,
                 [&](int chunk, uint8_t* slot, device::Barrier* barrier) {
                   bring_chunk<kFormat>(args.down, chunk, count, blocks, block_bits, slot, barrier, strip_of,
                                        [&](int item) { return routes.experts[item] * args.stride; });
                 });
    if (few_apart<kFormat>(args)) {
      m.ring.bring(at, few_chunks<kFewApartFormat>(blocks), args.under_way,
                   [&](int chunk, uint8_t* slot, device::Barrier* barrier) {
                     bring_chunk<kFewApartFormat>(args.shared_down, chunk, blocks, blocks, block_bits, slot, barrier,
                                                  strip_of, [](int) { return 0; });
                   });
    }
  }
#pragma unroll 1
  for (int i = thread; kScales && i < count && !experts_bring<kFormat>(); i += few_multiply(kFormat)) {
    const auto* from = reinterpret_cast<const float*>(reinterpret_cast<const uint8_t*>(args.down_scales) +
                                                      routes.experts[i >> block_bits] * args.stride);
    device::copy8(m.scales + 2 * i, from + 2 * (strip << block_bits | (i & (blocks - 1))));
  }
  device::copies_commit();
  if (!experts_bring<kFormat>()) {
    device::wait_for_previous();
    device::start_next();
    copy_beside(m.rows, args.hidden, entries * m.row_bytes, thread, few_multiply(kFormat));
    device::copies_commit();
    before = args.add != 0 && writes ? __ldcg(y) : 0.0F;
    device::copies_wait<0>();
    experts_barrier<kFormat>();
    if (thread == 0) m.ring.note_rows();
    const auto column_of = [&](int unit) {
      return m.column(unit >> block_bits) + static_cast<uint32_t>((unit & (blocks - 1)) * kBlockK * 2);
    };
    RingPlace at;
    const auto keep = [&](int unit, const float (&d)[4]) { keep_unit(m.sums + unit * kStripRows, 1, d); };
    run_chunks<kFormat>(m.ring, at, count, column_of, keep);
    if (few_apart<kFormat>(args)) {
      run_chunks<kFewApartFormat>(
          m.ring, at, blocks, [&](int unit) { return column_of(count + unit); },
          [&](int unit, const float (&d)[4]) { keep(count + unit, d); });
    }
  }
  device::copies_wait<0>();
  __syncthreads();
  // Every entry's dot by itself, where its first sum stood; then all of them, weighed, in ascending order.
  const auto first_sum = [&](int entry) { return m.sums + (entry << block_bits) * kStripRows + row; };
#pragma unroll 1
  for (int entry = thread / kStripRows; entry < entries; entry += few_threads(kFormat) / kStripRows) {
    float* of = first_sum(entry);
    *of = join_units(of, kStripRows, kScales ? m.scales + (entry << block_bits) * 2 + row / 8 : nullptr, blocks);
  }
  __syncthreads();
  if (!writes) return;
  *y = before + few_row_sum(args, routes.weights, args.top_k, 0, first_sum);
}

}  // namespace

// For at most 256 experts and for 512.
WEIR_KERNEL_BOUNDED(weir_one_gate_up, GpuFewExpertsArgs, few_threads(kGpuFp8Block), 1) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  gate_up<kGpuFp8Block, 8>(args, few_shared);
}
WEIR_KERNEL_BOUNDED(weir_one_gate_up_many, GpuFewExpertsArgs, few_threads(kGpuFp8Block), 1) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  gate_up<kGpuFp8Block, 16>(args, few_shared);
}
WEIR_KERNEL_BOUNDED(weir_one_down, GpuFewExpertsArgs, few_threads(kGpuFp8Block), 1) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  down<kGpuFp8Block, 8>(args, few_shared);
}
WEIR_KERNEL_BOUNDED(weir_one_down_many, GpuFewExpertsArgs, few_threads(kGpuFp8Block), 1) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  down<kGpuFp8Block, 16>(args, few_shared);
}
WEIR_KERNEL_BOUNDED(weir_one_gate_up_mxfp4, GpuFewExpertsArgs, few_threads(kGpuMxfp4), 1) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  gate_up<kGpuMxfp4, 8>(args, few_shared);
}
WEIR_KERNEL_BOUNDED(weir_one_gate_up_mxfp4_many, GpuFewExpertsArgs, few_threads(kGpuMxfp4), 2) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  gate_up<kGpuMxfp4, 16>(args, few_shared);
}
WEIR_KERNEL_BOUNDED(weir_one_down_mxfp4, GpuFewExpertsArgs, few_threads(kGpuMxfp4), 1) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  down<kGpuMxfp4, 8>(args, few_shared);
}
WEIR_KERNEL_BOUNDED(weir_one_down_mxfp4_many, GpuFewExpertsArgs, few_threads(kGpuMxfp4), 2) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  down<kGpuMxfp4, 16>(args, few_shared);
}

}  // namespace weir
