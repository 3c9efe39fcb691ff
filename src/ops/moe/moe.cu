// Routing: a warp per row. Experts: a warp per hidden value of a (row, slot), then a warp per output value of a row; an
// expert's weights are read once for each of its rows.
#include "ops/linear/dot.h"
#include "ops/moe/gpu_args.h"

namespace weir {

namespace {

inline constexpr int kTopMax = 32;

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

WEIR_KERNEL(weir_expert_hidden, GpuFeedForwardArgs) {
  const int64_t assignment = blockIdx.y;
  const int64_t row = assignment / args.slots;
  const GpuMlp& expert = args.table[args.experts == nullptr ? 0 : args.experts[assignment]];
  const int64_t f = static_cast<int64_t>(blockIdx.x) * (blockDim.x / device::kWarp) + device::warp();
  if (f >= expert.gate.n) return;
  const float* x = args.x + row * args.x_stride;
  const float gate = dot(expert.gate, f, x);
  const float up = dot(expert.up, f, x);
  if (device::lane() == 0) args.hidden[assignment * args.width + f] = device::silu(gate) * up;
}

WEIR_KERNEL(weir_expert_output, GpuFeedForwardArgs) {
  const int64_t row = blockIdx.y;
  const int64_t d = static_cast<int64_t>(blockIdx.x) * (blockDim.x / device::kWarp) + device::warp();
  if (d >= args.columns) return;
  float sum = 0;
  for (int slot = 0; slot < args.slots; ++slot) {
    const int64_t assignment = row * args.slots + slot;
    const GpuMlp& expert = args.table[args.experts == nullptr ? 0 : args.experts[assignment]];
    const float part = dot(expert.down, d, args.hidden + assignment * args.width);
    sum = fmaf(args.weights == nullptr ? 1.0F : args.weights[assignment], part, sum);
  }
  if (device::lane() != 0) return;
  float* y = args.y + row * args.y_stride + d;
  *y = args.add != 0 ? *y + sum : sum;
}

}  // namespace weir
