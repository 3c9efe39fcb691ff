// For the sampling kernel: ids in the order of their logits, a block's share of a row, and its way to shared memory.
#pragma once

#include "device/kernel.h"
#include "ops/sample/sample_shape.h"

namespace weir {

using Ranked = unsigned long long;  // order_key of a logit or score, then ~id: the larger is the better, 0 is none

inline constexpr float kInfinity = __builtin_huge_valf();
inline constexpr int kAhead = 4;  // groups of ids that a thread has under way

WEIR_DEVICE int thread() {
  return static_cast<int>(threadIdx.x);
}

// Integers in the order of floats; the two zeros are equal.
WEIR_DEVICE uint32_t order_key(float x) {
  const uint32_t bits = x == 0.0F ? 0U : __float_as_uint(x);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}
WEIR_DEVICE float key_value(uint32_t key) {
  return __uint_as_float((key & 0x80000000U) != 0 ? key & 0x7fffffffU : ~key);
}
WEIR_DEVICE Ranked ranked(float x, int id) {
  return static_cast<Ranked>(order_key(x)) << 32 | static_cast<uint32_t>(~id);
}
WEIR_DEVICE int id_of(Ranked r) {
  return static_cast<int>(~static_cast<uint32_t>(r));
}
WEIR_DEVICE float value_of(Ranked r) {
  return r == 0 ? -kInfinity : key_value(static_cast<uint32_t>(r >> 32));
}
WEIR_DEVICE Ranked larger(Ranked a, Ranked b) {
  return a > b ? a : b;
}

WEIR_DEVICE bool not_finite(float x) {
  return (__float_as_uint(x) & 0x7f800000U) == 0x7f800000U;
}
WEIR_DEVICE bool not_finite(float4 x) {
  return not_finite(x.x) || not_finite(x.y) || not_finite(x.z) || not_finite(x.w);
}

WEIR_DEVICE int id_of_column(const GpuSampleArgs& args, int column) {
  return args.ids == nullptr || column < args.identity ? column : args.ids[column];
}
// -1: none is.
WEIR_DEVICE int column_of_id(const GpuSampleArgs& args, int id) {
  if (args.ids == nullptr || id < args.identity) return id;
  for (int column = args.identity; column < args.width; ++column) {
    if (args.ids[column] == id) return column;
  }
  return -1;
}

// The block's share of a row: groups [begin, end), columns [low, high).
struct Part {
  int begin;
  int end;
  int low;
  int high;
};

WEIR_DEVICE Part part_of(int width, int block, int blocks) {
  const int groups = (width + 3) / 4;
  const int each = sample_groups(width, blocks);
  Part part;
  part.begin = min(block * each, groups);
  part.end = min(part.begin + each, groups);
  part.low = min(4 * part.begin, width);
  part.high = min(4 * part.end, width);
  return part;
}

// Logits 4 group .. 4 group + 3; zeros behind the row.
WEIR_DEVICE float4 load_group(const GpuSampleArgs& args, int group) {
  const float* logits = args.logits + static_cast<int64_t>(blockIdx.y) * args.logits_stride + 4 * group;
  const int left = args.width - 4 * group;
  if (args.aligned != 0 && left >= 4) return __ldcg(reinterpret_cast<const float4*>(logits));
  float4 out = {0.0F, 0.0F, 0.0F, 0.0F};
  if (left > 0) out.x = __ldcg(logits);
  if (left > 1) out.y = __ldcg(logits + 1);
  if (left > 2) out.z = __ldcg(logits + 2);
  if (left > 3) out.w = __ldcg(logits + 3);
  return out;
}

// The largest of the block's values, in every thread.
WEIR_DEVICE Ranked block_max(SampleShared& shared, Ranked value) {
  for (int distance = device::kWarp / 2; distance > 0; distance /= 2) {
    value = larger(value, __shfl_xor_sync(device::kAllLanes, value, distance));
  }
  __syncthreads();
  if (device::lane() == 0) shared.warp_value[device::warp()] = value;
  __syncthreads();
  Ranked out = 0;
  for (int i = 0; i < kSampleWarps; ++i) out = larger(out, shared.warp_value[i]);
  return out;
}

// Stands above every rank: a logit of the row is not finite.
inline constexpr Ranked kBroken = ~Ranked{0};

WEIR_DEVICE void finish(const GpuSampleArgs& args, const GpuSampleRow& row, Ranked best) {
  // Nothing is left where every id is masked: the first is as good as any.
  const int token = best == 0 || best == kBroken ? 0 : id_of_column(args, id_of(best));
  args.tokens[blockIdx.y] = best == kBroken ? -1 : token;
  args.next_tokens[row.row] = token;
}

// Brings the part's logits to shared memory with the row's lists applied, in the CPU's order. Returns whether a logit
// that this thread read is not finite.
WEIR_DEVICE bool stage(const GpuSampleArgs& args, const GpuSampleRow& row, const Part& part, SampleShared& shared,
                       float* values) {
  bool broken = false;
  const int biases = min(row.bias_count, kGpuBiasMax);
  const int banned = min(row.banned_count, kGpuBannedMax);
  for (int base = part.begin + thread(); base < part.end; base += kAhead * kSampleThreads) {
    float4 x[kAhead];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int group = base + a * kSampleThreads;
      x[a] = group < part.end ? load_group(args, group) : float4{0.0F, 0.0F, 0.0F, 0.0F};
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int group = base + a * kSampleThreads;
      broken |= not_finite(x[a]);
      if (group < part.end) reinterpret_cast<float4*>(values)[group - part.begin] = x[a];
    }
  }
  for (int i = thread(); i < biases; i += kSampleThreads) {
    shared.bias_token[i] = column_of_id(args, row.bias[i].token);
    shared.bias_value[i] = row.bias[i].bias;
  }
  for (int i = thread(); i < banned; i += kSampleThreads) shared.banned[i] = column_of_id(args, row.banned[i]);
  __syncthreads();
  const int high = min(part.high, args.vocabulary);
  for (int i = thread(); i < biases; i += kSampleThreads) {
    const int token = shared.bias_token[i];
    if (token < part.low || token >= high) continue;
    // An id may be named more than once: who names it first adds all of them in order.
    bool first = true;
    for (int j = 0; j < i; ++j) first &= shared.bias_token[j] != token;
    if (!first) continue;
    float x = values[token - part.low];
    for (int j = i; j < biases; ++j) {
      if (shared.bias_token[j] == token) x = __fadd_rn(x, shared.bias_value[j]);
    }
    values[token - part.low] = x;
  }
  __syncthreads();
  for (int i = thread(); i < banned; i += kSampleThreads) {
    const int token = shared.banned[i];
    if (token >= part.low && token < high) values[token - part.low] = -kInfinity;
  }
  if (row.mask != nullptr) {
    for (int column = part.low + thread(); column < high; column += kSampleThreads) {
      const int id = id_of_column(args, column);
      if ((row.mask[id / 32] >> (id % 32) & 1U) == 0) values[column - part.low] = -kInfinity;
    }
  }
  __syncthreads();
  return broken;
}

}  // namespace weir
