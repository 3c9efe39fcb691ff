// For kernel files: the routing of a step's rows, worked out by every block for itself in shared memory.
#pragma once

#include "device/kernel.h"
#include "ops/moe/moe_packed_args.h"

namespace weir {

// An expert and up to eight of the rows that go to it, ascending.
struct RouteEntry {
  uint32_t mask[2];  // bit per row of the step
  uint32_t slots;    // 4 bits a row: the slot it has there
  uint16_t expert;
  uint16_t count;
  uint8_t rows[8];
};

static_assert(sizeof(RouteEntry) == kRouteEntryBytes);

struct Routes {
  RouteEntry* entries;  // [route_entries_max]
  float* weights;       // [rows][kRouteSlots]
  uint32_t* masks;      // [X][2]
  uint32_t* slots;      // [X][route_words]: 4 bits a row
  int* sums;            // [33]

  WEIR_DEVICE Routes(uint8_t* at, int rows, int experts, int top_k) {
    entries = reinterpret_cast<RouteEntry*>(at);
    weights = reinterpret_cast<float*>(entries + route_entries_max(rows, experts, top_k));
    masks = reinterpret_cast<uint32_t*>(weights + rows * kRouteSlots);
    slots = masks + 2 * experts;
    sums = reinterpret_cast<int*>(slots + experts * route_words(rows));
  }
};

// Larger floats have larger keys; NaN has 1, which every number beats; 0 is no expert.
WEIR_DEVICE uint32_t route_key(float x) {
  if (x != x) return 1;
  const uint32_t bits = __float_as_uint(x);
  return bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000U);
}
WEIR_DEVICE float route_value(uint32_t key) {
  return __uint_as_float(key ^ ((key >> 31) != 0 ? 0x80000000U : 0xffffffffU));
}

// What a lane knows of a row's choice: of lanes below top_k the lane-th best expert, its weight, and how many of the
// chosen have a lower index.
struct Chosen {
  int expert = 0x7fffffff;
  int rank = 0;
  float weight = 0;
};

// One row by one warp; experts lane + 32 i, i < kEach.
template <int kEach>
WEIR_DEVICE Chosen choose_of_row(const GpuExpertsArgs& args, const float* logits) {
  const int lane = device::lane();
  uint32_t keys[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int e = lane + device::kWarp * i;
    keys[i] = e < args.experts ? route_key(__ldcg(logits + e)) : 0;
  }
  Chosen chosen;
  float value = 0;
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
      chosen.expert = static_cast<int>(at);
      value = route_value(best);
    }
  }
  const float largest = __shfl_sync(device::kAllLanes, value, 0);
  const float e = lane < args.top_k ? expf(value - largest) : 0.0F;
  chosen.weight = e / device::warp_sum(e);
  for (int s = 0; s < args.top_k; ++s) {
    chosen.rank += __shfl_sync(device::kAllLanes, chosen.expert, s) < chosen.expert ? 1 : 0;
  }
  return chosen;
}

// Row `row` by one warp: its weights by slot, and the expert it gives in each lane.
WEIR_DEVICE Chosen choose_row(const GpuExpertsArgs& args, int row, const Routes& routes) {
  const float* logits = args.router + static_cast<int64_t>(row) * (args.experts + args.shared);
  const float shared_logit = args.shared != 0 ? __ldcg(logits + args.experts) : 0.0F;
  const Chosen chosen = args.experts <= 256 ? choose_of_row<8>(args, logits) : choose_of_row<16>(args, logits);
  const int lane = device::lane();
  if (lane < args.top_k) routes.weights[row * kRouteSlots + chosen.rank] = chosen.weight;
  if (lane == args.top_k && args.shared != 0) {
    routes.weights[row * kRouteSlots + args.top_k] = device::sigmoid(shared_logit);
  }
  return chosen;
}

// The same, and the row among those of its experts.
WEIR_DEVICE void choose_experts(const GpuExpertsArgs& args, int row, const Routes& routes) {
  const Chosen chosen = choose_row(args, row, routes);
  if (device::lane() >= args.top_k) return;
  atomicOr(&routes.masks[2 * chosen.expert + row / 32], 1U << (row % 32));
  atomicOr(&routes.slots[chosen.expert * route_words(args.rows) + row / 8], static_cast<uint32_t>(chosen.rank)
                                                                                << (row % 8 * 4));
}

WEIR_DEVICE void write_entries(RouteEntry* to, int expert, uint64_t rows, const uint32_t* slots) {
  while (rows != 0) {
    RouteEntry entry;
    uint64_t mask = 0;
    entry.slots = 0;
    entry.expert = static_cast<uint16_t>(expert);
    int count = 0;
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      entry.rows[c] = 0;
      if (rows == 0) continue;
      const int row = __ffsll(static_cast<int64_t>(rows)) - 1;
      rows &= rows - 1;
      mask |= uint64_t{1} << row;
      entry.rows[c] = static_cast<uint8_t>(row);
      entry.slots |= ((slots[row / 8] >> (row % 8 * 4)) & 15U) << (4 * c);
      ++count;
    }
    entry.count = static_cast<uint16_t>(count);
    entry.mask[0] = static_cast<uint32_t>(mask);
    entry.mask[1] = static_cast<uint32_t>(mask >> 32);
    *to++ = entry;
  }
}

// One row by one warp: an entry a slot, which is the whole routing.
WEIR_DEVICE void make_routes_of_one(const GpuExpertsArgs& args, const Routes& routes) {
  const Chosen chosen = choose_row(args, 0, routes);
  const int slot = device::lane() < args.top_k ? chosen.rank : device::lane();
  if (slot >= args.top_k + args.shared) return;
  RouteEntry entry = {};
  entry.mask[0] = 1;
  entry.slots = static_cast<uint32_t>(slot);
  entry.expert = static_cast<uint16_t>(slot < args.top_k ? chosen.expert : args.experts);
  entry.count = 1;
  routes.entries[slot] = entry;
}

// By all kThreads threads of the block, with barriers of the block; returns how many entries there are, in ascending
// order of experts. `with_shared`: the shared expert's follow, for all rows.
template <int kThreads>
WEIR_DEVICE int make_routes(const GpuExpertsArgs& args, const Routes& routes, bool with_shared) {
  const int thread = static_cast<int>(threadIdx.x);
  if (args.rows == 1) {
    if (device::warp() == 0) make_routes_of_one(args, routes);
    __syncthreads();
    return args.top_k + (with_shared ? args.shared : 0);
  }
  const int words = route_words(args.rows);
  for (int i = thread; i < args.experts * (2 + words); i += kThreads) routes.masks[i] = 0;
  __syncthreads();
  for (int row = device::warp(); row < args.rows; row += kThreads / device::kWarp) {
    choose_experts(args, row, routes);
  }
  __syncthreads();
  int total = 0;
  for (int first = 0; first < args.experts; first += kThreads) {
    const int e = first + thread;
    const uint64_t rows =
        e < args.experts ? routes.masks[2 * e] | static_cast<uint64_t>(routes.masks[2 * e + 1]) << 32 : 0;
    const int need = (__popcll(rows) + 7) / 8;
    int sum = need;  // of this and the lanes before it
#pragma unroll
    for (int distance = 1; distance < device::kWarp; distance *= 2) {
      const int other = __shfl_up_sync(device::kAllLanes, sum, distance);
      if (device::lane() >= distance) sum += other;
    }
    if (device::lane() == device::kWarp - 1) routes.sums[device::warp()] = sum;
    __syncthreads();
    int before = total;
    for (int w = 0; w < kThreads / device::kWarp; ++w) {
      const int count = routes.sums[w];
      if (w < device::warp()) before += count;
      total += count;
    }
    if (need > 0) write_entries(routes.entries + before + sum - need, e, rows, routes.slots + e * words);
    __syncthreads();
  }
  if (with_shared && args.shared != 0) {
    if (thread < words) {
      const int last = min(8, args.rows - 8 * thread);
      const uint64_t rows = (last == 8 ? uint64_t{255} : (uint64_t{1} << last) - 1) << (8 * thread);
      uint32_t slots[kPackedMoeRows / 8];
#pragma unroll
      for (int i = 0; i < kPackedMoeRows / 8; ++i) slots[i] = 0x11111111U * static_cast<uint32_t>(args.top_k);
      write_entries(routes.entries + total + thread, args.experts, rows, slots);
    }
    total += words;
    __syncthreads();
  }
  return total;
}

}  // namespace weir
