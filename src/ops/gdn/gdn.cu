// A block per (sequence, key head) takes the rows one after the other: a row's output needs the state at the last
// multiple of 64 and the ring of rows since, so a prompt's row and a generated one run the same code. A thread owns one
// column of one value head in the products with the state and the ring; its chains run in ascending order.
#include "device/kernel.h"
#include "ops/gdn/gpu_args.h"

namespace weir {
namespace {

inline constexpr int kThreads = 256;
inline constexpr int kRing = 64;
inline constexpr int kInputs = 16;
inline constexpr int kTaps = 4;
inline constexpr float kL2Eps = 1e-6F;

// What the block works on.
struct Head {
  float* state;      // [ratio][dk][stride]
  float* keys;       // [dk][64]
  float* update;     // [ratio][64][stride]
  float* log_decay;  // [ratio][64]
  float* inputs;     // [16][C]
  // Shared memory.
  float* q;        // [dk]
  float* k;        // [dk]
  float* v;        // [ratio][stride]
  float* out;      // [ratio][stride]
  float* kk;       // [64]
  float* qk;       // [64]
  float* minus_a;  // [ratio][64]
  float* b;        // [ratio][64]
  float* beta;     // [ratio]
  float* fade;     // [ratio]
  float* scratch;  // [8]
};

WEIR_DEVICE int thread() {
  return static_cast<int>(threadIdx.x);
}

// The channel of the convolution that value `i` of this head's q, k and v (in that order) stands for.
WEIR_DEVICE int channel_of(const GpuGdnArgs& args, int head, int i) {
  const int dk = args.key_dim;
  if (i < dk) return head * dk + i;
  if (i < 2 * dk) return (args.key_heads + head) * dk + i - dk;
  return 2 * args.key_heads * dk + head * args.ratio * args.value_dim + i - 2 * dk;
}

WEIR_DEVICE void convolve(const GpuGdnArgs& args, const Head& h, const GpuGdnSequence& s, int head, int row) {
  const int count = 2 * args.key_dim + args.ratio * args.value_dim;
  for (int i = thread(); i < count; i += kThreads) {
    const int channel = channel_of(args, head, i);
    float sum = 0;
    for (int tap = 0; tap < kTaps; ++tap) {
      const int at = row - (kTaps - 1) + tap;
      const int token = s.position + at;
      if (token < 0) continue;
      const float x = at >= 0 ? args.u[(s.row_begin + at) * args.u_stride + channel]
                              : h.inputs[static_cast<int64_t>(token % kInputs) * args.channels + channel];
      sum = fmaf(args.conv[tap * args.channels + channel], x, sum);
    }
    const float value = device::silu(sum);
    if (i < args.key_dim) {
      h.q[i] = value;
    } else if (i < 2 * args.key_dim) {
      h.k[i - args.key_dim] = value;
    } else {
      const int j = i - 2 * args.key_dim;
      h.v[j / args.value_dim * args.value_stride + j % args.value_dim] = value;
    }
  }
  __syncthreads();
}

WEIR_DEVICE void normalise(const GpuGdnArgs& args, const Head& h, float* x, float factor) {
  float sum = 0;
  for (int i = thread(); i < args.key_dim; i += kThreads) sum = fmaf(x[i], x[i], sum);
  sum = device::block_sum<kThreads>(sum, h.scratch);
  const float scale = 1.0F / sqrtf(sum + kL2Eps);
  for (int i = thread(); i < args.key_dim; i += kThreads) x[i] = x[i] * scale * factor;
  __syncthreads();
}

// beta, the cumulative log decay of the row, and the row's key in the ring.
WEIR_DEVICE void enter_ring(const GpuGdnArgs& args, const Head& h, const GpuGdnSequence& s, int head, int row, int i) {
  if (thread() < args.ratio) {
    const int j = thread();
    const int value_head = head * args.ratio + j;
    const int64_t t = s.row_begin + row;
    h.beta[j] = device::sigmoid(args.b[t * args.b_stride + value_head]);
    const float x = args.a[t * args.a_stride + value_head] + args.dt_bias[value_head];
    const float softplus = x > 20.0F ? x : log1pf(expf(x));
    float* total = h.log_decay + j * kRing;
    const float now = (i == 0 ? 0.0F : total[i - 1]) + args.decay[value_head] * softplus;
    total[i] = now;
    h.fade[j] = expf(now);
  }
  for (int d = thread(); d < args.key_dim; d += kThreads) h.keys[d * kRing + i] = h.k[d];
  __syncthreads();
}

// The row's products with the keys of the ring, and from them the coefficients of its update and output.
WEIR_DEVICE void coefficients(const GpuGdnArgs& args, const Head& h, int i) {
  if (thread() < 2 * kRing) {
    const int j = thread() % kRing;
    const float* x = thread() < kRing ? h.k : h.q;
    float sum = 0;
    if (j <= i) {
      for (int d = 0; d < args.key_dim; ++d) sum = fmaf(x[d], h.keys[d * kRing + j], sum);
    }
    (thread() < kRing ? h.kk : h.qk)[j] = sum;
  }
  __syncthreads();
  for (int n = thread(); n < args.ratio * kRing; n += kThreads) {
    const int j = n % kRing;
    if (j > i) continue;
    const float* total = h.log_decay + n / kRing * kRing;
    const float e = expf(total[i] - total[j]);
    h.minus_a[n] = -(e * h.kk[j]);
    h.b[n] = e * h.qk[j];
  }
  __syncthreads();
}

WEIR_DEVICE void delta_rule(const GpuGdnArgs& args, const Head& h, int i) {
  const int stride = args.value_stride;
  for (int n = thread(); n < args.ratio * args.value_dim; n += kThreads) {
    const int j = n / args.value_dim;
    const int c = n % args.value_dim;
    const float* state = h.state + static_cast<int64_t>(j) * args.key_dim * stride + c;
    float* update = h.update + static_cast<int64_t>(j) * kRing * stride + c;
    float from_k = 0;
    float from_q = 0;
    for (int d = 0; d < args.key_dim; ++d) {
      const float value = state[static_cast<int64_t>(d) * stride];
      from_k = fmaf(h.k[d], value, from_k);
      from_q = fmaf(h.q[d], value, from_q);
    }
    float delta = fmaf(-h.fade[j], from_k, h.v[j * stride + c]);
    float out = h.fade[j] * from_q;
    for (int t = 0; t < i; ++t) {
      const float earlier = update[static_cast<int64_t>(t) * stride];
      delta = fmaf(h.minus_a[j * kRing + t], earlier, delta);
      out = fmaf(h.b[j * kRing + t], earlier, out);
    }
    delta *= h.beta[j];
    update[static_cast<int64_t>(i) * stride] = delta;
    h.out[j * stride + c] = fmaf(h.b[j * kRing + i], delta, out);
  }
  __syncthreads();
}

WEIR_DEVICE void gated_norm(const GpuGdnArgs& args, const Head& h, const GpuGdnSequence& s, int head, int row) {
  const int64_t t = s.row_begin + row;
  for (int j = device::warp(); j < args.ratio; j += kThreads / device::kWarp) {
    const float* out = h.out + j * args.value_stride;
    float sum = 0;
    for (int c = device::lane(); c < args.value_dim; c += device::kWarp) sum = fmaf(out[c], out[c], sum);
    sum = device::warp_sum(sum);
    const float scale = 1.0F / sqrtf(sum / static_cast<float>(args.value_dim) + args.eps);
    const int64_t column = static_cast<int64_t>(head * args.ratio + j) * args.value_dim;
    for (int c = device::lane(); c < args.value_dim; c += device::kWarp) {
      args.y[t * args.y_stride + column + c] =
          out[c] * scale * args.norm[c] * device::silu(args.z[t * args.z_stride + column + c]);
    }
  }
  __syncthreads();
}

// S <- e^G_63 S + sum_j e^(G_63 - G_j) k_j delta_j^T.
WEIR_DEVICE void fold(const GpuGdnArgs& args, const Head& h) {
  const int stride = args.value_stride;
  for (int n = thread(); n < args.ratio * kRing; n += kThreads) {
    const float* total = h.log_decay + n / kRing * kRing;
    h.b[n] = expf(total[kRing - 1] - total[n % kRing]);
  }
  __syncthreads();
  for (int n = thread(); n < args.ratio * args.value_dim; n += kThreads) {
    const int j = n / args.value_dim;
    const int c = n % args.value_dim;
    float* state = h.state + static_cast<int64_t>(j) * args.key_dim * stride + c;
    const float* update = h.update + static_cast<int64_t>(j) * kRing * stride + c;
    const float fade = expf(h.log_decay[j * kRing + kRing - 1]);
    for (int d = 0; d < args.key_dim; ++d) {
      float sum = fade * state[static_cast<int64_t>(d) * stride];
      for (int t = 0; t < kRing; ++t) {
        sum = fmaf(h.b[j * kRing + t] * h.keys[d * kRing + t], update[static_cast<int64_t>(t) * stride], sum);
      }
      state[static_cast<int64_t>(d) * stride] = sum;
    }
  }
  __syncthreads();
}

// The last raw rows of this head's channels go to the input ring.
WEIR_DEVICE void keep_inputs(const GpuGdnArgs& args, const Head& h, const GpuGdnSequence& s, int head) {
  const int count = 2 * args.key_dim + args.ratio * args.value_dim;
  const int first = s.row_count > kInputs ? s.row_count - kInputs : 0;
  for (int row = first; row < s.row_count; ++row) {
    float* to = h.inputs + static_cast<int64_t>((s.position + row) % kInputs) * args.channels;
    for (int i = thread(); i < count; i += kThreads) {
      const int channel = channel_of(args, head, i);
      to[channel] = args.u[(s.row_begin + row) * args.u_stride + channel];
    }
  }
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_gdn, GpuGdnArgs, kThreads, 1) {
  extern __shared__ float shared[];
  const GpuGdnSequence s = args.sequences[blockIdx.x];
  const int head = static_cast<int>(blockIdx.y);
  const int value_head = head * args.ratio;
  const int64_t stride = args.value_stride;
  uint8_t* slot = s.slot + args.slot_offset;
  Head h;
  h.state = reinterpret_cast<float*>(slot + args.state_offset) + value_head * args.key_dim * stride;
  h.keys = reinterpret_cast<float*>(slot + args.keys_offset) + static_cast<int64_t>(head) * args.key_dim * kRing;
  h.update = reinterpret_cast<float*>(slot + args.update_offset) + value_head * kRing * stride;
  h.log_decay = reinterpret_cast<float*>(slot + args.log_decay_offset) + value_head * kRing;
  h.inputs = reinterpret_cast<float*>(slot + args.inputs_offset);
  float* next = shared;
  const auto take = [&](int64_t floats) {
    float* part = next;
    next += floats;
    return part;
  };
  h.q = take(args.key_dim);
  h.k = take(args.key_dim);
  h.v = take(args.ratio * stride);
  h.out = take(args.ratio * stride);
  h.kk = take(kRing);
  h.qk = take(kRing);
  h.minus_a = take(args.ratio * kRing);
  h.b = take(args.ratio * kRing);
  h.beta = take(args.ratio);
  h.fade = take(args.ratio);
  h.scratch = take(kThreads / device::kWarp);

  int base = s.base;
  for (int row = 0; row < s.row_count; ++row) {
    const int position = s.position + row;
    if (position - base == kRing) {
      fold(args, h);
      base = position;
    }
    const int i = position - base;
    convolve(args, h, s, head, row);
    normalise(args, h, h.q, 1.0F / sqrtf(static_cast<float>(args.key_dim)));
    normalise(args, h, h.k, 1.0F);
    enter_ring(args, h, s, head, row, i);
    coefficients(args, h, i);
    delta_rule(args, h, i);
    gated_norm(args, h, s, head, row);
  }
  keep_inputs(args, h, s, head);
}

}  // namespace weir
