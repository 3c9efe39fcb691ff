// The sparse experts over at most eight rows: bound by reading the weights of each row's experts. Every block works out
// the routing for itself; every (row, slot) is on its own, so rows that share an expert read it twice (the second time
// from the second-level cache, as a rule). few_units.h says how weights are worked off.
#include "ops/linear/few_units.h"
#include "ops/moe/moe_few_args.h"
#include "ops/moe/routes.h"

namespace weir {
namespace {

// The rows' experts, each row's in ascending order, the shared one behind them.
struct FewRoutes {
  int experts[kFewMoeRows * kFewSlots];  // [row][slots], without gaps
  float weights[kFewMoeRows * kFewSlots];
  int chosen[kFewMoeRows][kFewSlots];  // as they were chosen
  float values[kFewMoeRows][kFewSlots];
};

WEIR_DEVICE uint32_t key_of(uint64_t entry) {
  return static_cast<uint32_t>(entry >> 32);
}

// One row by one warp: what choose_experts() chooses. Each lane sorts its logits, larger first, then the lower index;
// the largest of all lanes' first is taken, one after the other.
template <int kEach>
WEIR_DEVICE void choose(const GpuFewExpertsArgs& args, int row, bool weigh, int slots, FewRoutes& routes) {
  const int lane = device::lane();
  const float* logits = args.router + row * (args.experts + args.shared);
  uint64_t entries[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int e = lane + device::kWarp * i;
    const uint32_t key = e < args.experts ? route_key(__ldcg(logits + e)) : 0;
    entries[i] = static_cast<uint64_t>(key) << 32 | (0xffffffffU - static_cast<uint32_t>(e));
  }
  const float shared_logit = args.shared != 0 ? __ldcg(logits + args.experts) : 0.0F;
#pragma unroll
  for (int i = 1; i < kEach; ++i) {
#pragma unroll
    for (int j = i; j > 0; --j) {
      const uint64_t a = entries[j - 1];
      const uint64_t b = entries[j];
      entries[j - 1] = a > b ? a : b;
      entries[j] = a > b ? b : a;
    }
  }
#pragma unroll 1
  for (int s = 0; s < args.top_k; ++s) {
    const uint32_t best = __reduce_max_sync(device::kAllLanes, key_of(entries[0]));
    bool mine = key_of(entries[0]) == best;
    if (__popc(__ballot_sync(device::kAllLanes, mine)) > 1) {
      const uint32_t low = static_cast<uint32_t>(entries[0]);
      mine = __reduce_max_sync(device::kAllLanes, mine ? low : 0) == low && mine;
    }
    if (!mine) continue;
    routes.chosen[row][s] = static_cast<int>(0xffffffffU - static_cast<uint32_t>(entries[0]));
    routes.values[row][s] = route_value(best);
#pragma unroll
    for (int i = 0; i + 1 < kEach; ++i) entries[i] = entries[i + 1];
    entries[kEach - 1] = 0;
  }
  __syncwarp();
  const int mine = lane < args.top_k ? routes.chosen[row][lane] : 0x7fffffff;
  int rank = 0;
#pragma unroll 1
  for (int s = 0; s < args.top_k; ++s) rank += routes.chosen[row][s] < mine ? 1 : 0;
  if (lane < args.top_k) routes.experts[row * slots + rank] = mine;
  if (!weigh) return;
  const float largest = routes.values[row][0];
  const float e = lane < args.top_k ? expf(routes.values[row][lane] - largest) : 0.0F;
  const float weight = e / device::warp_sum(e);
  if (lane < args.top_k) routes.weights[row * slots + rank] = weight;
  if (lane == args.top_k && args.shared != 0) {
    routes.experts[row * slots + args.top_k] = args.experts;
    routes.weights[row * slots + args.top_k] = device::sigmoid(shared_logit);
  }
}

// `slots`: of a row in routes; `weigh`: weights too, and the shared expert.
WEIR_DEVICE void choose_all(const GpuFewExpertsArgs& args, bool weigh, int slots, FewRoutes& routes) {
  if (device::warp() >= args.rows) return;
  if (args.experts <= 256) {
    choose<8>(args, device::warp(), weigh, slots, routes);
  } else {
    choose<16>(args, device::warp(), weigh, slots, routes);
  }
}

// `count` rows of `size` f16 values, `from(r)`, to shared memory, and a row of zeros behind them.
template <class From>
WEIR_DEVICE void take_rows(uint8_t* to, int row_bytes, int count, int size, const From& from) {
  // The last warps first: the first ones may be choosing.
#pragma unroll 1
  for (int r = kFewWarps - 1 - device::warp(); r <= count; r += kFewWarps) {
    auto* row = reinterpret_cast<uint4*>(to + r * row_bytes);
    const auto* source = reinterpret_cast<const uint4*>(from(r < count ? r : 0));
#pragma unroll 4
    for (int i = device::lane(); i < size / 8; i += device::kWarp) row[i] = r < count ? source[i] : uint4{0, 0, 0, 0};
  }
}

// log2 of a power of two.
WEIR_DEVICE int log_of(int power) {
  return 31 - __clz(power);
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_few_gate_up, GpuFewExpertsArgs, kFewThreads, 2) {
  extern __shared__ __align__(16) uint8_t shared[];
  __shared__ FewRoutes routes;
  const int blocks = args.d / kBlockK;
  const int block_bits = log_of(blocks);
  const int strip_bits = log_of(args.f / (kStripRows / 2));
  const int row_bytes = 2 * args.d + 16;
  float* sums = reinterpret_cast<float*>(shared + (args.rows + 1) * row_bytes);
  float* scales = sums + args.items_max * blocks * kStripRows;
  // Items: strip by strip of (row, slot) by (row, slot).
  const unsigned total = static_cast<unsigned>(args.rows * args.top_k) << strip_bits;
  const int first = static_cast<int>(total * blockIdx.x / gridDim.x);
  const int items = static_cast<int>(total * (blockIdx.x + 1) / gridDim.x) - first;
  device::wait_for_previous();
  device::start_next();
  choose_all(args, false, args.top_k, routes);
  take_rows(shared, row_bytes, args.rows, args.d, [&](int r) { return args.x + r * args.d; });
  __syncthreads();
  const auto strip_of = [&](int item) { return (first + item) & ((1 << strip_bits) - 1); };
  const auto offset_of = [&](int item) { return routes.experts[(first + item) >> strip_bits] * args.stride; };
  const uint32_t base = device::shared_address(shared + device::lane() / 8 * 16);
  const bool own = device::lane() % 8 == 0;  // column 0 is the item's row, the others zeros
  run_units(
      items << block_bits, 1, sums,
      [&](int unit) {
        const int item = unit >> block_bits;
        const int at = strip_of(item) << block_bits | (unit & (blocks - 1));
        return args.gate_up + offset_of(item) + static_cast<int64_t>(at) * kFewUnitBytes;
      },
      [&](int unit) {
        const int row = own ? ((first + (unit >> block_bits)) >> strip_bits) / args.top_k : args.rows;
        return base + static_cast<uint32_t>(row * row_bytes + (unit & (blocks - 1)) * kBlockK * 2);
      },
      [&] {
#pragma unroll 1
        for (int i = static_cast<int>(threadIdx.x); i < items << block_bits; i += kFewThreads) {
          const int item = i >> block_bits;
          const auto* from =
              reinterpret_cast<const float*>(reinterpret_cast<const uint8_t*>(args.gate_up_scales) + offset_of(item));
          device::copy8(scales + 2 * i, from + 2 * (strip_of(item) << block_bits | (i & (blocks - 1))));
        }
        device::copies_commit();
      });
  device::copies_wait<0>();
  __syncthreads();
  const int values = items * kStripRows;
#pragma unroll 1
  for (int begin = device::warp() * device::kWarp; begin < values; begin += kFewThreads) {
    const int i = min(begin + device::lane(), values - 1);
    const int item = i / kStripRows;
    const int row = i % kStripRows;
    const float sum =
        join_units(sums + item * blocks * kStripRows + row, kStripRows, scales + item * blocks * 2 + row / 8, blocks);
    const float up = __shfl_down_sync(device::kAllLanes, sum, kStripRows / 2);
    if (begin + device::lane() >= values || row >= kStripRows / 2) continue;
    const int entry = (first + item) >> strip_bits;
    const int64_t to = entry / args.top_k * (args.top_k + args.shared) + entry % args.top_k;
    args.hidden[to * args.f + strip_of(item) * (kStripRows / 2) + row] =
        static_cast<uint16_t>(device::f16x2(device::silu(sum) * up, 0.0F));
  }
}

WEIR_KERNEL_BOUNDED(weir_few_down, GpuFewExpertsArgs, kFewThreads, 2) {
  extern __shared__ __align__(16) uint8_t shared[];
  __shared__ FewRoutes routes;
  const int blocks = args.f / kBlockK;
  const int block_bits = log_of(blocks);
  const int slots = args.top_k + args.shared;
  const int entries = args.rows * slots;
  const int row_bytes = 2 * args.f + 16;
  float* sums = reinterpret_cast<float*>(shared + (entries + 1) * row_bytes);
  float* scales = sums + entries * blocks * kStripRows;
  const int strip = static_cast<int>(blockIdx.x);
  // The router's logits are of the kernel before the one before this, which has ended.
  choose_all(args, true, slots, routes);
  __syncthreads();
  const uint32_t base = device::shared_address(shared + device::lane() / 8 * 16);
  const bool own = device::lane() % 8 == 0;
  const int n = strip * kStripRows + static_cast<int>(threadIdx.x) % kStripRows;
  const int r = static_cast<int>(threadIdx.x) / kStripRows;
  float* y = args.y + r * args.y_stride + n;
  float before = 0;
  run_units(
      entries << block_bits, 1, sums,
      [&](int unit) {
        const int at = strip << block_bits | (unit & (blocks - 1));
        return args.down + routes.experts[unit >> block_bits] * args.stride + static_cast<int64_t>(at) * kFewUnitBytes;
      },
      [&](int unit) {
        const int row = own ? unit >> block_bits : entries;
        return base + static_cast<uint32_t>(row * row_bytes + (unit & (blocks - 1)) * kBlockK * 2);
      },
      [&] {
#pragma unroll 1
        for (int i = static_cast<int>(threadIdx.x); i < entries << block_bits; i += kFewThreads) {
          const auto* from = reinterpret_cast<const float*>(reinterpret_cast<const uint8_t*>(args.down_scales) +
                                                            routes.experts[i >> block_bits] * args.stride);
          device::copy8(scales + 2 * i, from + 2 * (strip << block_bits | (i & (blocks - 1))));
        }
        device::copies_commit();
        device::wait_for_previous();
        device::start_next();
        if (args.add != 0 && r < args.rows && n < args.d) before = *y;
        take_rows(shared, row_bytes, entries, args.f, [&](int entry) { return args.hidden + entry * args.f; });
        __syncthreads();
      });
  device::copies_wait<0>();
  __syncthreads();
  if (r >= args.rows || n >= args.d) return;
  float total = 0;
#pragma unroll 1
  for (int slot = 0; slot < slots; ++slot) {
    const int entry = r * slots + slot;
    const float dot = join_units(sums + entry * blocks * kStripRows + n % kStripRows, kStripRows,
                                 scales + entry * blocks * 2 + n % kStripRows / 8, blocks);
    total = fmaf(routes.weights[entry], dot, total);
  }
  *y = before + total;
}

}  // namespace weir
