// Routing: a warp per row. Experts: a warp per hidden value of a (row, slot), then a block per row and group of output
// values; an expert's weights are read once for each of its rows.
#include "ops/linear/dot.h"
#include "ops/moe/gpu_args.h"

namespace weir {

namespace {

inline constexpr int kTopMax = kGpuTopMax;

// Larger logit first, then the lower index; NaN ranks below everything, so that a row of NaNs still gets experts.
WEIR_DEVICE bool before(float a, int i, float b, int j) {
  if (a > b) return true;
  if (a < b) return false;
  const bool a_none = a != a;
  const bool b_none = b != b;
  if (a_none != b_none) return b_none;
  return i < j;
}

}  // namespace

WEIR_KERNEL(weir_route, GpuRouteArgs) {
  const int64_t row = blockIdx.x;
  const float* logits = args.logits + row * args.experts_total;
  const int lane = device::lane();
  int32_t chosen[kTopMax];
  float values[kTopMax];
  for (int slot = 0; slot < args.top_k; ++slot) {
    float best = 0;
    int index = args.experts_total;
    for (int e = lane; e < args.experts_total; e += device::kWarp) {
      bool taken = false;
      for (int s = 0; s < slot; ++s) taken = taken || chosen[s] == e;
      if (!taken && (index == args.experts_total || before(logits[e], e, best, index))) {
        best = logits[e];
        index = e;
      }
    }
    for (int distance = device::kWarp / 2; distance > 0; distance /= 2) {
      const float other = __shfl_xor_sync(device::kAllLanes, best, distance);
      const int other_index = __shfl_xor_sync(device::kAllLanes, index, distance);
      if (other_index != args.experts_total &&
          (index == args.experts_total || before(other, other_index, best, index))) {
        best = other;
        index = other_index;
      }
    }
    chosen[slot] = index;
    values[slot] = best;
  }
  if (lane != 0) return;
  float sum = 0;
  const float largest = values[0];
  for (int slot = 0; slot < args.top_k; ++slot) {
    values[slot] = expf(values[slot] - largest);
    sum += values[slot];
  }
  int32_t* experts = args.experts + row * args.slots;
  float* weights = args.weights + row * args.slots;
  for (int slot = 0; slot < args.top_k; ++slot) {
    experts[slot] = chosen[slot];
    weights[slot] = values[slot] / sum;
  }
  if (args.shared_logits != nullptr) {
    experts[args.top_k] = args.experts_total;
    weights[args.top_k] = device::sigmoid(args.shared_logits[row]);
  }
}

WEIR_KERNEL_BOUNDED(weir_expert_hidden, GpuFeedForwardArgs, 256, 3) {
  const int64_t assignment = blockIdx.y;
  const int64_t row = assignment / args.slots;
  const GpuMlp& expert = args.table[args.experts == nullptr ? 0 : args.experts[assignment]];
  const int64_t f = static_cast<int64_t>(blockIdx.x) * (blockDim.x / device::kWarp) + device::warp();
  if (f >= expert.gate.n) return;
  const float* x = args.x + row * args.x_stride;
  const int64_t columns[2] = {f, f};
  float sums[2];
  if (expert.gate.format == expert.up.format) {
    const GpuMatrix* const w[2] = {&expert.gate, &expert.up};
    dot_columns<2>(w, columns, x, sums);
  } else {
    const GpuMatrix* const gate = &expert.gate;
    const GpuMatrix* const up = &expert.up;
    dot_columns<1>(&gate, columns, x, &sums[0]);
    dot_columns<1>(&up, columns, x, &sums[1]);
  }
  if (device::lane() == 0) args.hidden[assignment * args.width + f] = device::silu(sums[0]) * sums[1];
}

// A warp per slot computes kOutputs values of its expert; then a thread adds the slots of each in their order.
WEIR_KERNEL_BOUNDED(weir_expert_output, GpuFeedForwardArgs, 512, 1) {
  constexpr int kOutputs = kGpuExpertOutputs;
  extern __shared__ float parts[];  // [slots][kOutputs]
  const int64_t row = blockIdx.y;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kOutputs;
  for (int slot = device::warp(); slot < args.slots; slot += static_cast<int>(blockDim.x) / device::kWarp) {
    const int64_t assignment = row * args.slots + slot;
    const GpuMlp& expert = args.table[args.experts == nullptr ? 0 : args.experts[assignment]];
    const GpuMatrix* w[kOutputs];
    int64_t columns[kOutputs];
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) {
      w[i] = &expert.down;
      columns[i] = first + i < args.columns ? first + i : args.columns - 1;
    }
    float sums[kOutputs];
    dot_columns<kOutputs>(w, columns, args.hidden + assignment * args.width, sums);
    if (device::lane() == 0) {
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) parts[slot * kOutputs + i] = sums[i];
    }
  }
  __syncthreads();
  const int i = static_cast<int>(threadIdx.x);
  if (i >= kOutputs || first + i >= args.columns) return;
  float sum = 0;
  for (int slot = 0; slot < args.slots; ++slot) {
    sum = fmaf(args.weights == nullptr ? 1.0F : args.weights[row * args.slots + slot], parts[slot * kOutputs + i], sum);
  }
  float* y = args.y + row * args.y_stride + first + i;
  *y = args.add != 0 ? *y + sum : sum;
}

}  // namespace weir
