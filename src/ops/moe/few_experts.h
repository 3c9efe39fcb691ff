// For kernel files: what the kernels of moe_one.cu, moe_few.cu and moe_some.cu have in common.
#pragma once

#include "ops/linear/few_units.h"
#include "ops/moe/moe_few_args.h"
#include "ops/moe/routes.h"

namespace weir {

// The slot's expert and its key, by lane: the best of a row in lane 0, and so on. Of equal keys the lower index is the
// better one.
struct Best {
  int expert = 0x7fffffff;  // of the lanes without a slot
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

// A row's slot of the expert of this lane: how many of its experts come before it.
WEIR_DEVICE int few_slot(const GpuFewExpertsArgs& args, int chosen) {
  int slot = 0;
#pragma unroll 2
  for (int s = 0; s < args.top_k; ++s) slot += __shfl_sync(device::kAllLanes, chosen, s) < chosen ? 1 : 0;
  return slot;
}

// The weight of the expert of this lane: lane 0 has the key of the row's best one.
WEIR_DEVICE float few_weight(uint32_t key, int top_k) {
  const float value = route_value(key);
  const float largest = __shfl_sync(device::kAllLanes, value, 0);
  const float e = device::lane() < top_k ? expf(value - largest) : 0.0F;
  return e / device::warp_sum(e);
}

// The warps that multiply wait for each other.
template <int kFormat>
WEIR_DEVICE void experts_barrier() {
  device::threads_barrier(1, few_multiply(kFormat));
}
// By the warp that follows these.
template <int kFormat>
WEIR_DEVICE bool experts_bring() {
  return device::warp() == few_warps(kFormat);
}

// The ring at the beginning of a block's shared memory.
template <int kFormat>
WEIR_DEVICE FewRing few_experts_ring(const GpuFewExpertsArgs& args, uint8_t* shared, device::Barrier* barriers) {
  constexpr int kSlotBytes = few_chunk_bytes(kFormat);
  return {shared, barriers, barriers + 32, barriers + 64, barriers + 65, args.ring_bytes / kSlotBytes, kSlotBytes};
}

// Whether the shared expert is stored otherwise.
template <int kFormat>
WEIR_DEVICE bool few_apart(const GpuFewExpertsArgs& args) {
  if constexpr (few_may_be_apart(kFormat)) return args.shared_down != nullptr;
  return false;
}

template <int kFormat>
WEIR_DEVICE int few_chunks(int units) {
  constexpr int kUnits = few_chunk_units(kFormat);
  return (units + kUnits - 1) / kUnits;
}

// By a thread of the warp that brings: a chunk of `count` units into a slot of the ring. Units are block by block of
// item by item, an item is strip_of(item) of the matrix at weights + offset_of(item).
template <int kFormat, class Strip, class Offset>
WEIR_DEVICE void bring_chunk(const uint8_t* weights, int chunk, int count, int blocks, int block_bits, uint8_t* slot,
                             device::Barrier* barrier, const Strip& strip_of, const Offset& offset_of) {
  constexpr int kUnits = few_chunk_units(kFormat);
  constexpr int kBytes = few_unit_bytes(kFormat);
  const int together = min(kUnits, blocks);
  const int here = min(kUnits, count - chunk * kUnits);
  device::barrier_expect(barrier, here * kBytes);
#pragma unroll 1
  for (int i = 0; i < here; i += together) {
    const int unit = chunk * kUnits + i;
    const int item = unit >> block_bits;
    const int at = strip_of(item) << block_bits | (unit & (blocks - 1));
    device::bulk_copy_once(slot + i * kBytes, weights + offset_of(item) + static_cast<int64_t>(at) * kBytes,
                           together * kBytes, barrier);
  }
}

// One unit in shared memory times the columns at `address` (as load_matrices() takes them), from zero.
template <int kFormat>
WEIR_DEVICE void multiply_packed(const uint8_t* unit, uint32_t address, float (&d)[4]) {
  if constexpr (kFormat == kGpuFp8Block) {
    multiply_fp8(unit, address, d);
  } else if constexpr (kFormat == kGpuBf16) {
    multiply_bf16(unit, address, d);
  } else {
    const uint8_t* const units[1] = {unit};
    const uint32_t columns[1][1] = {{address}};
    float sums[1][1][4];
    block_products<kFormat, 1, 1, 2>(units, columns, sums);
#pragma unroll
    for (int i = 0; i < 4; ++i) d[i] = sums[0][0][i];
  }
}

// By a warp that multiplies, with a chunk of which `count` units are there, at `slot`: its unit times the columns at
// columns_of(unit), and keep(unit, sums).
template <int kFormat, class Columns, class Keep>
WEIR_DEVICE void run_chunk(const uint8_t* slot, int count, const Columns& columns_of, const Keep& keep) {
  const int unit = device::warp();
  if (unit >= count) return;
  float d[4];
  multiply_packed<kFormat>(slot + unit * few_unit_bytes(kFormat), columns_of(unit), d);
  keep(unit, d);
}

// The same with every chunk of `count` units, from the ring's slot `at` on.
template <int kFormat, class Columns, class Keep>
WEIR_DEVICE void run_chunks(const FewRing& ring, RingPlace& at, int count, const Columns& columns_of,
                            const Keep& keep) {
  constexpr int kUnits = few_chunk_units(kFormat);
#pragma unroll 1
  for (int first = 0; first < count; first += kUnits) {
    device::barrier_wait(&ring.filled[at.slot], at.phase);
    run_chunk<kFormat>(
        ring.data + at.slot * ring.slot_bytes, min(kUnits, count - first),
        [&](int unit) { return columns_of(first + unit); },
        [&](int unit, const float (&d)[4]) { keep(first + unit, d); });
    device::warp_arrive(&ring.free[at.slot]);
    at.advance(ring.slots);
  }
}

// A value of a row as the products take it.
template <int kFormat>
WEIR_DEVICE uint16_t few_operand(float x) {
  return static_cast<uint16_t>(device::half_pair(operand_type(kFormat) == kOperandF16, x, 0.0F));
}

// A row's sum over its entries, weighed, in ascending order: `dots(entry)` is an entry's dot.
template <class Dots>
WEIR_DEVICE float few_row_sum(const GpuFewExpertsArgs& args, const float* weights, int routed, int r,
                              const Dots& dots) {
  float sum = 0;
#pragma unroll 2
  for (int slot = 0; slot < args.top_k; ++slot) {
    const int entry = r * args.top_k + slot;
    sum = fmaf(weights[entry], *dots(entry), sum);
  }
  if (args.shared != 0) sum = fmaf(weights[routed + r], *dots(routed + r), sum);
  return sum;
}

}  // namespace weir
