// The sparse experts over up to 64 rows with packed FP8 weights: bound by reading the weights of the experts that the
// rows chose, once. Every block works out the routing for itself; an entry is an expert and up to eight of its rows,
// the columns of its products. Weights come by plain loads, as few_units.h says: a batch of 32 units (four of each
// warp) is multiplied while the next one is under way, then joined.
#include "ops/linear/few_units.h"
#include "ops/moe/moe_few_args.h"
#include "ops/moe/routes.h"

namespace weir {
namespace {

inline constexpr int kBatchUnits = kFewDepth * kFewWarps;
inline constexpr int kColumns = 8;
inline constexpr int kSumFloats = kBatchUnits * kColumns * kStripRows;  // of a batch

WEIR_DEVICE GpuExpertsArgs routing_of(const GpuFewExpertsArgs& args) {
  GpuExpertsArgs out;
  out.router = args.router;
  out.rows = args.rows;
  out.experts = args.experts;
  out.top_k = args.top_k;
  out.shared = args.shared;
  return out;
}

WEIR_DEVICE int log_of(int power) {
  return 31 - __clz(power);
}

// Strips [strip, strip + count) of an entry.
struct Batch {
  int entry;
  int strip;
  int count;
};

}  // namespace

WEIR_KERNEL_BOUNDED(weir_some_gate_up, GpuFewExpertsArgs, kFewThreads, 2) {
  extern __shared__ __align__(16) uint8_t shared[];
  const int blocks = args.d / kBlockK;
  const int block_bits = log_of(blocks);
  const int strip_bits = log_of(args.f / (kStripRows / 2));
  const int together = kBatchUnits >> block_bits;  // strips of a batch
  const int row_bytes = 2 * args.d + 16;
  float* sums = reinterpret_cast<float*>(shared + (kColumns + 1) * row_bytes);
  float* scales = sums + 2 * kSumFloats;
  const Routes routes(reinterpret_cast<uint8_t*>(scales + 2 * 2 * kBatchUnits), args.rows, args.experts, args.top_k);
  device::wait_for_previous();
  device::start_next();
  const int entries = make_routes<kFewThreads>(routing_of(args), routes, false);
  const unsigned total = static_cast<unsigned>(entries) << strip_bits;
  const int end = static_cast<int>(total * (blockIdx.x + 1) / gridDim.x);
  const auto batch_at = [&](int item) {
    const int strip = item & ((1 << strip_bits) - 1);
    return Batch{item >> strip_bits, strip, min(together, min(end - item, (1 << strip_bits) - strip))};
  };
  const auto load = [&](const Batch& b, FewUnit& unit, int u) {
    if (u >= b.count << block_bits) return;
    const uint8_t* expert = args.gate_up + routes.entries[b.entry].expert * args.stride;
    load_unit(expert + (static_cast<int64_t>(b.strip << block_bits) + u) * kFewUnitBytes, unit);
  };
  const auto bring_scales = [&](const Batch& b, float* to) {
    const int i = static_cast<int>(threadIdx.x);
    if (i < b.count << block_bits) {
      const auto* from = reinterpret_cast<const float*>(reinterpret_cast<const uint8_t*>(args.gate_up_scales) +
                                                        routes.entries[b.entry].expert * args.stride);
      device::copy8(to + 2 * i, from + 2 * ((b.strip << block_bits) + i));
    }
    device::copies_commit();
  };
  int item = static_cast<int>(total * blockIdx.x / gridDim.x);
  if (item >= end) return;
  Batch batch = batch_at(item);
  FewUnit units[kFewDepth];
#pragma unroll
  for (int i = 0; i < kFewDepth; ++i) load(batch, units[i], device::warp() + i * kFewWarps);
  bring_scales(batch, scales);
  int current = -1;
  uint32_t columns = 0;
  for (int turn = 0;; turn ^= 1) {
    const RouteEntry& entry = routes.entries[batch.entry];
    if (batch.entry != current) {
      // Nobody multiplies with the rows before any more: that was ahead of the last barrier.
      current = batch.entry;
#pragma unroll 1
      for (int c = device::warp(); c <= kColumns; c += kFewWarps) {
        const bool there = c < entry.count;
        const auto* from = reinterpret_cast<const uint4*>(args.x + (there ? entry.rows[c] : 0) * int64_t{args.d});
        auto* to = reinterpret_cast<uint4*>(shared + c * row_bytes);
#pragma unroll 4
        for (int i = device::lane(); i < args.d / 8; i += device::kWarp) to[i] = there ? from[i] : uint4{0, 0, 0, 0};
      }
      columns = device::shared_address(shared + device::lane() % 8 * row_bytes + device::lane() / 8 * 16);
      __syncthreads();
    }
    const int next_item = item + batch.count;
    const Batch next = next_item < end ? batch_at(next_item) : Batch{0, 0, 0};
    float* mine = sums + turn * kSumFloats;
    const int count = entry.count;
#pragma unroll
    for (int i = 0; i < kFewDepth; ++i) {
      const int u = device::warp() + i * kFewWarps;
      if (u < batch.count << block_bits) {
        float d[4];
        multiply_unit(units[i], columns + static_cast<uint32_t>((u & (blocks - 1)) * kBlockK * 2), d);
        keep_unit(mine + u * kColumns * kStripRows, count, d);
      }
      load(next, units[i], u);
    }
    device::copies_wait<0>();
    __syncthreads();
    const float* my_scales = scales + turn * 2 * kBatchUnits;
    bring_scales(next, scales + (turn ^ 1) * 2 * kBatchUnits);
    const int values = batch.count * count * kStripRows;
#pragma unroll 1
    for (int begin = device::warp() * device::kWarp; begin < values; begin += kFewThreads) {
      const int i = min(begin + device::lane(), values - 1);
      const int row = i % kStripRows;
      const int strip = i / kStripRows / count;
      const int c = i / kStripRows - strip * count;
      const float sum = join_units(mine + ((strip << block_bits) * kColumns + c) * kStripRows + row,
                                   kColumns * kStripRows, my_scales + 2 * (strip << block_bits) + row / 8, blocks);
      const float up = __shfl_down_sync(device::kAllLanes, sum, kStripRows / 2);
      if (begin + device::lane() >= values || row >= kStripRows / 2) continue;
      const int slot = static_cast<int>((entry.slots >> (4 * c)) & 15U);
      const int64_t to = static_cast<int64_t>(entry.rows[c]) * (args.top_k + args.shared) + slot;
      args.hidden[to * args.f + (batch.strip + strip) * (kStripRows / 2) + row] =
          static_cast<uint16_t>(device::f16x2(device::silu(sum) * up, 0.0F));
    }
    if (next.count == 0) break;
    item = next_item;
    batch = next;
  }
}

namespace {

inline constexpr int kTotals = kPackedMoeRows * kStripRows / kFewThreads;  // sums of a thread

// The rows of hidden of `count` entries from `first` on; zeros where an entry has fewer than eight.
WEIR_DEVICE void bring_hidden(const GpuFewExpertsArgs& args, const Routes& routes, int first, int count, uint8_t* to,
                              int row_bytes) {
  const int chunks = args.f / 8;
#pragma unroll 1
  for (int r = device::warp(); r < count * kColumns; r += kFewWarps) {
    const RouteEntry& entry = routes.entries[first + r / kColumns];
    const int c = r % kColumns;
    const bool there = c < entry.count;
    const int slot = static_cast<int>((entry.slots >> (4 * c)) & 15U);
    const int64_t from = there ? static_cast<int64_t>(entry.rows[c]) * (args.top_k + args.shared) + slot : 0;
#pragma unroll 1
    for (int i = device::lane(); i < chunks; i += device::kWarp) {
      device::copy16(to + r * row_bytes + i * 16, args.hidden + from * args.f + i * 8, there);
    }
  }
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_some_down, GpuFewExpertsArgs, kFewThreads, 1) {
  extern __shared__ __align__(16) uint8_t shared[];
  const int blocks = args.f / kBlockK;
  const int block_bits = log_of(blocks);
  const int together = kBatchUnits >> block_bits;  // entries of a batch
  const int row_bytes = 2 * args.f + 16;
  const int hidden_bytes = together * kColumns * row_bytes;
  float* sums = reinterpret_cast<float*>(shared + 2 * hidden_bytes);
  float* scales = sums + 2 * kSumFloats;
  const Routes routes(reinterpret_cast<uint8_t*>(scales + 2 * 2 * kBatchUnits), args.rows, args.experts, args.top_k);
  const int strip = static_cast<int>(blockIdx.x);
  // The router's logits are of the kernel before the one before this, which has ended.
  const int entries = make_routes<kFewThreads>(routing_of(args), routes, true);
  const auto expert_of = [&](int entry) { return routes.entries[entry].expert * args.stride; };
  const auto load = [&](int first, FewUnit& unit, int u) {
    const int entry = first + (u >> block_bits);
    if (entry >= entries) return;
    const int64_t at = strip << block_bits | (u & (blocks - 1));
    load_unit(args.down + expert_of(entry) + at * kFewUnitBytes, unit);
  };
  const auto bring_scales = [&](int first, float* to) {
    const int i = static_cast<int>(threadIdx.x);
    const int entry = first + (i >> block_bits);
    if (i >= together << block_bits || entry >= entries) return;
    const auto* from =
        reinterpret_cast<const float*>(reinterpret_cast<const uint8_t*>(args.down_scales) + expert_of(entry));
    device::copy8(to + 2 * i, from + 2 * (strip << block_bits | (i & (blocks - 1))));
  };
  FewUnit units[kFewDepth];
#pragma unroll
  for (int i = 0; i < kFewDepth; ++i) load(0, units[i], device::warp() + i * kFewWarps);
  bring_scales(0, scales);
  device::wait_for_previous();
  device::start_next();
  bring_hidden(args, routes, 0, min(together, entries), shared, row_bytes);
  device::copies_commit();
  const int row = static_cast<int>(threadIdx.x) % kStripRows;
  const int first_m = static_cast<int>(threadIdx.x) / kStripRows;
  const int n = strip * kStripRows + row;
  float totals[kTotals];
  float before[kTotals];
#pragma unroll
  for (int j = 0; j < kTotals; ++j) {
    const int m = first_m + j * kStripRows;
    totals[j] = 0;
    before[j] = args.add != 0 && m < args.rows && n < args.d ? args.y[m * args.y_stride + n] : 0.0F;
  }
  const uint32_t base = device::shared_address(shared + device::lane() % 8 * row_bytes + device::lane() / 8 * 16);
#pragma unroll 1
  for (int first = 0, turn = 0; first < entries; first += together, turn ^= 1) {
    device::copies_wait<0>();
    __syncthreads();
    const int next = first + together;
    if (next < entries) {
      bring_hidden(args, routes, next, min(together, entries - next), shared + (turn ^ 1) * hidden_bytes, row_bytes);
      bring_scales(next, scales + (turn ^ 1) * 2 * kBatchUnits);
    }
    device::copies_commit();
    float* mine = sums + turn * kSumFloats;
#pragma unroll
    for (int i = 0; i < kFewDepth; ++i) {
      const int u = device::warp() + i * kFewWarps;
      const int e = u >> block_bits;
      if (e < together && first + e < entries) {
        float d[4];
        multiply_unit(units[i],
                      base + static_cast<uint32_t>(turn * hidden_bytes + e * kColumns * row_bytes +
                                                   (u & (blocks - 1)) * kBlockK * 2),
                      d);
        keep_unit(mine + u * kColumns * kStripRows, routes.entries[first + e].count, d);
        load(next, units[i], u);
      }
    }
    __syncthreads();
    const float* my_scales = scales + turn * 2 * kBatchUnits + row / 8;
    const int here = min(together, entries - first);
#pragma unroll 1
    for (int e = 0; e < here; ++e) {
      const RouteEntry& entry = routes.entries[first + e];
      const uint64_t mask = entry.mask[0] | static_cast<uint64_t>(entry.mask[1]) << 32;
#pragma unroll
      for (int j = 0; j < kTotals; ++j) {
        const int m = first_m + j * kStripRows;
        if ((mask >> m & 1U) == 0) continue;
        const int c = __popcll(mask & ((uint64_t{1} << m) - 1));
        const float dot = join_units(mine + ((e << block_bits) * kColumns + c) * kStripRows + row,
                                     kColumns * kStripRows, my_scales + 2 * (e << block_bits), blocks);
        const int slot = static_cast<int>((entry.slots >> (4 * c)) & 15U);
        totals[j] = fmaf(routes.weights[m * kRouteSlots + slot], dot, totals[j]);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < kTotals; ++j) {
    const int m = first_m + j * kStripRows;
    if (m < args.rows && n < args.d) args.y[m * args.y_stride + n] = before[j] + totals[j];
  }
}

}  // namespace weir
