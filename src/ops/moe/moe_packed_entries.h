// For the kernels of the experts over few rows: what a block keeps in shared memory beside the routing's entries.
#pragma once

#include "ops/linear/packed_ring.h"
#include "ops/moe/routes.h"

namespace weir {

// Where an entry's weights are, and its first pair; beside the entries in shared memory.
struct EntryWeights {
  const uint8_t* data;
  const float* scales;
  const float* row_scales;
  int first_pair;
  int reserved;
};

// By all threads of the block; a barrier must follow.
template <class Of>
WEIR_DEVICE void find_weights(const RouteEntry* entries, int count, EntryWeights* to, const Of& of) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kPackedThreads) {
    const GpuPacked& w = of(entries[i].expert);
    to[i].data = w.data;
    to[i].scales = w.scales;
    to[i].row_scales = w.row_scales;
  }
}

// Asks for the table, of which the routing will take a few lines: each block a part.
WEIR_DEVICE void prefetch_table(const GpuExpertsArgs& args) {
  const unsigned first = static_cast<unsigned>(args.experts) * blockIdx.x / gridDim.x;
  const unsigned end = static_cast<unsigned>(args.experts) * (blockIdx.x + 1) / gridDim.x;
  if (threadIdx.x == 0 && end > first) {
    device::bulk_prefetch(args.table + first, (end - first) * static_cast<uint32_t>(sizeof(GpuPackedMlp)));
  }
}

// A row of an entry: column `column` of its products goes to row `row` of y with this weight.
struct RoutePair {
  uint16_t entry;
  uint8_t column;
  uint8_t row;
  float weight;
};

// By one warp: the pairs of all entries, one behind the other.
WEIR_DEVICE void list_pairs(const Routes& routes, int entries, EntryWeights* weights, RoutePair* pairs) {
  int base = 0;
  for (int from = 0; from < entries; from += device::kWarp) {
    const int e = from + device::lane();
    const int count = e < entries ? routes.entries[e].count : 0;
    int sum = count;  // of this and the lanes before it
#pragma unroll
    for (int distance = 1; distance < device::kWarp; distance *= 2) {
      const int other = __shfl_up_sync(device::kAllLanes, sum, distance);
      if (device::lane() >= distance) sum += other;
    }
    const int first = base + sum - count;
    if (e < entries) weights[e].first_pair = first;
    for (int c = 0; c < count; ++c) {
      const RouteEntry& entry = routes.entries[e];
      const int slot = static_cast<int>((entry.slots >> (4 * c)) & 15U);
      pairs[first + c] = {static_cast<uint16_t>(e), static_cast<uint8_t>(c), entry.rows[c],
                          routes.weights[entry.rows[c] * kRouteSlots + slot]};
    }
    base += __shfl_sync(device::kAllLanes, sum, device::kWarp - 1);
  }
  if (device::lane() == 0) weights[entries].first_pair = base;
}

}  // namespace weir
