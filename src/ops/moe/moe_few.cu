// The sparse experts over at most eight rows: bound by reading the weights of each row's experts. Every block works out
// the routing for itself; every (row, slot) is on its own, so rows that share an expert read it twice (the second time
// from the second-level cache, as a rule). few_units.h says how weights are worked off.
#include "ops/linear/few_units.h"
#include "ops/moe/moe_few_args.h"
#include "ops/moe/routes.h"

namespace weir {
namespace {

// Experts of each row in ascending order, the shared one behind them.
struct FewRoutes {
  int experts[kFewMoeRows][kFewSlots];
  float weights[kFewMoeRows][kFewSlots];
};

// One row by one warp, in the way of choose_experts().
template <int kEach>
WEIR_DEVICE void choose(const GpuFewExpertsArgs& args, int row, FewRoutes& routes) {
  const int lane = device::lane();
  const float* logits = args.router + row * (args.experts + args.shared);
  uint32_t keys[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int e = lane + device::kWarp * i;
    keys[i] = e < args.experts ? route_key(__ldcg(logits + e)) : 0;
  }
  const float shared_logit = args.shared != 0 ? __ldcg(logits + args.experts) : 0.0F;
  int mine = 0x7fffffff;
  float value = 0;
#pragma unroll 1
  for (int s = 0; s < args.top_k; ++s) {
    uint32_t best = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) best = max(best, keys[i]);
    best = __reduce_max_sync(device::kAllLanes, best);
    uint32_t at = 0xffffffffU;
#pragma unroll
    for (int i = kEach - 1; i >= 0; --i) {
      if (keys[i] == best) at = static_cast<uint32_t>(lane + device::kWarp * i);
    }
    at = __reduce_min_sync(device::kAllLanes, at);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (static_cast<uint32_t>(lane + device::kWarp * i) == at) keys[i] = 0;
    }
    if (lane == s) {
      mine = static_cast<int>(at);
      value = route_value(best);
    }
  }
  const float largest = __shfl_sync(device::kAllLanes, value, 0);
  const float e = lane < args.top_k ? expf(value - largest) : 0.0F;
  const float weight = e / device::warp_sum(e);
  int rank = 0;
#pragma unroll 1
  for (int s = 0; s < args.top_k; ++s) rank += __shfl_sync(device::kAllLanes, mine, s) < mine ? 1 : 0;
  if (lane < args.top_k) {
    routes.experts[row][rank] = mine;
    routes.weights[row][rank] = weight;
  }
  if (lane == args.top_k && args.shared != 0) {
    routes.experts[row][args.top_k] = args.experts;
    routes.weights[row][args.top_k] = device::sigmoid(shared_logit);
  }
}

WEIR_DEVICE void choose_all(const GpuFewExpertsArgs& args, FewRoutes& routes) {
  if (device::warp() < args.rows) {
    if (args.experts <= 256) {
      choose<8>(args, device::warp(), routes);
    } else {
      choose<16>(args, device::warp(), routes);
    }
  }
}

// `count` rows of `size` f16 values, `from(r)`, to shared memory, and a row of zeros behind them.
template <class From>
WEIR_DEVICE void take_rows(uint8_t* to, int row_bytes, int count, int size, const From& from) {
#pragma unroll 1
  for (int r = device::warp(); r <= count; r += kFewWarps) {
    auto* row = reinterpret_cast<uint4*>(to + r * row_bytes);
    const auto* source = reinterpret_cast<const uint4*>(from(r < count ? r : 0));
#pragma unroll 4
    for (int i = device::lane(); i < size / 8; i += device::kWarp) row[i] = r < count ? source[i] : uint4{0, 0, 0, 0};
  }
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_few_gate_up, GpuFewExpertsArgs, kFewThreads, 2) {
  extern __shared__ __align__(16) uint8_t shared[];
  __shared__ FewRoutes routes;
  const int blocks = args.d / kBlockK;
  const int strips = args.f / (kStripRows / 2);
  const int row_bytes = 2 * args.d + 16;
  float* sums = reinterpret_cast<float*>(shared + (args.rows + 1) * row_bytes);
  float* scales = sums + args.items_max * blocks * kStripRows;
  // Items: strip by strip of (row, slot) by (row, slot).
  const int total = args.rows * args.top_k * strips;
  const int first = static_cast<int>(static_cast<unsigned>(total) * blockIdx.x / gridDim.x);
  const int items = static_cast<int>(static_cast<unsigned>(total) * (blockIdx.x + 1) / gridDim.x) - first;
  device::wait_for_previous();
  device::start_next();
  choose_all(args, routes);
  take_rows(shared, row_bytes, args.rows, args.d, [&](int r) { return args.x + r * args.d; });
  __syncthreads();
  const auto expert_of = [&](int item) {
    const int entry = (first + item) / strips;
    return routes.experts[entry / args.top_k][entry % args.top_k];
  };
  const uint32_t base = device::shared_address(shared + device::lane() / 8 * 16);
  const bool own = device::lane() % 8 == 0;  // column 0 is the item's row, the others zeros
  run_units(
      items * blocks, blocks, 1, sums,
      [&](int unit) {
        const int item = unit / blocks;
        return args.gate_up + expert_of(item) * args.stride +
               (static_cast<int64_t>((first + item) % strips) * blocks + unit % blocks) * kFewUnitBytes;
      },
      [&](int unit, int block) {
        const int row = own ? (first + unit / blocks) / strips / args.top_k : args.rows;
        return base + static_cast<uint32_t>(row * row_bytes + block * kBlockK * 2);
      },
      [&] {
#pragma unroll 1
        for (int i = static_cast<int>(threadIdx.x); i < items * blocks * 2; i += kFewThreads) {
          const int item = i / (2 * blocks);
          const auto* from = reinterpret_cast<const float*>(reinterpret_cast<const uint8_t*>(args.gate_up_scales) +
                                                            expert_of(item) * args.stride);
          scales[i] = from[(first + item) % strips * blocks * 2 + i % (2 * blocks)];
        }
      });
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
    const int entry = (first + item) / strips;
    const int64_t to = entry / args.top_k * (args.top_k + args.shared) + entry % args.top_k;
    args.hidden[to * args.f + (first + item) % strips * (kStripRows / 2) + row] =
        static_cast<uint16_t>(device::f16x2(device::silu(sum) * up, 0.0F));
  }
}

WEIR_KERNEL_BOUNDED(weir_few_down, GpuFewExpertsArgs, kFewThreads, 2) {
  extern __shared__ __align__(16) uint8_t shared[];
  __shared__ FewRoutes routes;
  const int blocks = args.f / kBlockK;
  const int slots = args.top_k + args.shared;
  const int entries = args.rows * slots;
  const int row_bytes = 2 * args.f + 16;
  float* sums = reinterpret_cast<float*>(shared + (entries + 1) * row_bytes);
  float* scales = sums + entries * blocks * kStripRows;
  const int strip = static_cast<int>(blockIdx.x);
  // The router's logits are of the kernel before the one before this, which has ended.
  choose_all(args, routes);
  __syncthreads();
  const auto expert_of = [&](int entry) { return routes.experts[entry / slots][entry % slots]; };
  const uint32_t base = device::shared_address(shared + device::lane() / 8 * 16);
  const bool own = device::lane() % 8 == 0;
  const int n = strip * kStripRows + static_cast<int>(threadIdx.x) % kStripRows;
  const int r = static_cast<int>(threadIdx.x) / kStripRows;
  float* y = args.y + r * args.y_stride + n;
  float before = 0;
  run_units(
      entries * blocks, blocks, 1, sums,
      [&](int unit) {
        return args.down + expert_of(unit / blocks) * args.stride +
               (static_cast<int64_t>(strip) * blocks + unit % blocks) * kFewUnitBytes;
      },
      [&](int unit, int block) {
        const int row = own ? unit / blocks : entries;
        return base + static_cast<uint32_t>(row * row_bytes + block * kBlockK * 2);
      },
      [&] {
#pragma unroll 1
        for (int i = static_cast<int>(threadIdx.x); i < entries * blocks * 2; i += kFewThreads) {
          const auto* from = reinterpret_cast<const float*>(reinterpret_cast<const uint8_t*>(args.down_scales) +
                                                            expert_of(i / (2 * blocks)) * args.stride);
          scales[i] = from[strip * blocks * 2 + i % (2 * blocks)];
        }
        device::wait_for_previous();
        device::start_next();
        if (args.add != 0 && r < args.rows && n < args.d) before = *y;
        take_rows(shared, row_bytes, entries, args.f, [&](int entry) { return args.hidden + entry * args.f; });
        __syncthreads();
      });
  __syncthreads();
  if (r >= args.rows || n >= args.d) return;
  float total = 0;
#pragma unroll 1
  for (int slot = 0; slot < slots; ++slot) {
    const int entry = r * slots + slot;
    const float dot = join_units(sums + entry * blocks * kStripRows + n % kStripRows, kStripRows,
                                 scales + entry * blocks * 2 + n % kStripRows / 8, blocks);
    total = fmaf(routes.weights[r][slot], dot, total);
  }
  *y = before + total;
}

}  // namespace weir
