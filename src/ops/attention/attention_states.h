// For kernel files: softmax states of generated rows, how they become one, and where they wait for the merge.
#pragma once

#include "device/mma.h"
#include "ops/attention/attention_paged_args.h"

namespace weir {

// Softmax over some tokens.
struct State {
  float largest;
  float total;
};

// The factors of two states that become one.
struct Join {
  float largest;
  float into;
  float from;
};
WEIR_DEVICE Join join(float into, float from) {
  const float largest = fmaxf(into, from);
  return {largest, exp2f(into - largest), exp2f(from - largest)};
}
WEIR_DEVICE float joined(const Join& j, float into, float from) {
  return fmaf(from, j.from, __fmul_rn(into, j.into));
}

WEIR_DEVICE float finished(float out, float total, float gate) {
  return __fmul_rn(out / total, device::sigmoid(gate));
}

// Weighs a state against all of a row and head's.
WEIR_DEVICE float weight_of(float largest, float largest_of_all) {
  return exp2f(largest - largest_of_all);
}
WEIR_DEVICE float4 weighed(float4 out, float weight, float4 sum) {
  return {fmaf(out.x, weight, sum.x), fmaf(out.y, weight, sum.y), fmaf(out.z, weight, sum.z),
          fmaf(out.w, weight, sum.w)};
}

// Four columns of a head.
struct Columns {
  State state;
  float4 out;
};
WEIR_DEVICE void join_columns(Columns& into, float2 state, float4 out) {
  const Join j = join(into.state.largest, state.x);
  into.state = {j.largest, joined(j, into.state.total, state.y)};
  into.out = {joined(j, into.out.x, out.x), joined(j, into.out.y, out.y), joined(j, into.out.z, out.z),
              joined(j, into.out.w, out.w)};
}
WEIR_DEVICE uint2 finished_columns(const GpuPagedAttentionArgs& args, float4 out, float total, float4 gate) {
  return {device::half_pair(args.y_type != 0, finished(out.x, total, gate.x), finished(out.y, total, gate.y)),
          device::half_pair(args.y_type != 0, finished(out.z, total, gate.z), finished(out.w, total, gate.w))};
}

WEIR_DEVICE int pages_of(GpuRow row) {
  return row.position < 0 ? 0 : row.position / kPagedTokens + 1;
}
WEIR_DEVICE int64_t step_row(const GpuPagedAttentionArgs& args, int index) {
  return args.row_list == nullptr ? args.first_row + index : args.row_list[index];
}
// Where the state `slot` of a (row, head) stands: out [E], and apart from those the sums.
WEIR_DEVICE float* partial_out(const GpuPagedAttentionArgs& args, int index, int head, int slot) {
  return args.partial + ((int64_t{index} * args.heads + head) * args.slots + slot) * kPagedHeadDim;
}
WEIR_DEVICE float2* partial_state(const GpuPagedAttentionArgs& args, int index, int head) {
  auto* states =
      reinterpret_cast<float2*>(args.partial + int64_t{args.count} * args.heads * args.slots * kPagedHeadDim);
  return states + (int64_t{index} * args.heads + head) * args.slots;
}

}  // namespace weir
