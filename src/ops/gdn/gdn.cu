// A block per (sequence, key head) takes the rows one after the other: a row's output needs the state at the last
// multiple of 64 and the ring of rows since, so a prompt's row and a generated one run the same code. The products with
// the state and the ring are cut into eight parts, each one chain in ascending order, which are added pairwise.
#include "device/kernel.h"
#include "ops/gdn/gpu_args.h"

namespace weir {
namespace {

inline constexpr int kThreads = 512;
inline constexpr int kRing = 64;
inline constexpr int kParts = 8;
inline constexpr int kColumns = kThreads / kParts;  // of the state that the block works on at a time
inline constexpr int kInputs = 16;
inline constexpr int kTaps = 4;
inline constexpr float kL2Eps = 1e-6F;

// What the block works on.
struct Head {
  int index;         // of the key head; its value heads are index * ratio + j
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
  float* minus_a;  // [ratio][64]
  float* b;        // [ratio][64]
  float* parts;    // [2][kParts][kColumns]
  float* beta;     // [ratio]
  float* fade;     // [ratio]: e^G
  float* scratch;  // [kThreads / 32]
};

WEIR_DEVICE int thread() {
  return static_cast<int>(threadIdx.x);
}

// The channel of the convolution that value `i` of this head's q, k and v (in that order) stands for.
WEIR_DEVICE int channel_of(const GpuGdnArgs& args, const Head& h, int i) {
  const int dk = args.key_dim;
  if (i < dk) return h.index * dk + i;
  if (i < 2 * dk) return (args.key_heads + h.index) * dk + i - dk;
  return 2 * args.key_heads * dk + h.index * args.ratio * args.value_dim + i - 2 * dk;
}

WEIR_DEVICE void convolve(const GpuGdnArgs& args, const Head& h, const GpuGdnSequence& s, int row) {
  const int count = 2 * args.key_dim + args.ratio * args.value_dim;
  for (int i = thread(); i < count; i += kThreads) {
    const int channel = channel_of(args, h, i);
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
WEIR_DEVICE void enter_ring(const GpuGdnArgs& args, const Head& h, const GpuGdnSequence& s, int row, int i) {
  if (thread() < args.ratio) {
    const int j = thread();
    const int value_head = h.index * args.ratio + j;
    const int64_t t = s.row_begin + row;
    const float x = args.a[t * args.a_stride + value_head] + args.dt_bias[value_head];
    const float softplus = x > 20.0F ? x : log1pf(expf(x));
    float* total = h.log_decay + j * kRing;
    const float now = fmaf(args.decay[value_head], softplus, i == 0 ? 0.0F : total[i - 1]);
    total[i] = now;
    h.beta[j] = device::sigmoid(args.b[t * args.b_stride + value_head]);
    h.fade[j] = expf(now);
  }
  for (int d = thread(); d < args.key_dim; d += kThreads) h.keys[d * kRing + i] = h.k[d];
  __syncthreads();
}

// Adds the eight parts of a product pairwise. `parts`: [kParts][kColumns].
WEIR_DEVICE float add_parts(const float* parts, int column) {
  const auto part = [&](int p) { return parts[p * kColumns + column]; };
  return ((part(0) + part(1)) + (part(2) + part(3))) + ((part(4) + part(5)) + (part(6) + part(7)));
}

// The row's products with the keys of the ring, and from them the coefficients of its update and output.
WEIR_DEVICE void coefficients(const GpuGdnArgs& args, const Head& h, int i) {
  static_assert(kColumns == kRing);
  const int j = thread() % kColumns;
  const int part = thread() / kColumns;
  const int end = args.key_dim * (part + 1) / kParts;
  float kk = 0;
  float qk = 0;
  if (j <= i) {
    for (int d = args.key_dim * part / kParts; d < end; ++d) {
      const float key = h.keys[d * kRing + j];
      kk = fmaf(h.k[d], key, kk);
      qk = fmaf(h.q[d], key, qk);
    }
  }
  h.parts[thread()] = kk;
  h.parts[kThreads + thread()] = qk;
  __syncthreads();
  for (int n = thread(); n < args.ratio * kRing; n += kThreads) {
    const int t = n % kRing;
    if (t > i) continue;
    const float* total = h.log_decay + n / kRing * kRing;
    const float e = expf(total[i] - total[t]);
    h.minus_a[n] = -(e * add_parts(h.parts, t));
    h.b[n] = e * add_parts(h.parts + kThreads, t);
  }
  __syncthreads();
}

// One value head, kColumns columns at a time.
WEIR_DEVICE void delta_rule(const GpuGdnArgs& args, const Head& h, int j, int i) {
  const int64_t stride = args.value_stride;
  const float* state = h.state + j * args.key_dim * stride;
  float* ring = h.update + j * kRing * stride;
  const float* minus_a = h.minus_a + j * kRing;
  const float* b = h.b + j * kRing;
  const int part = thread() / kColumns;
  const int d_end = args.key_dim * (part + 1) / kParts;
  for (int first = 0; first < args.value_dim; first += kColumns) {
    const int c = first + thread() % kColumns;
    float from_k = 0;
    float from_q = 0;
    float earlier_a = 0;
    float earlier_b = 0;
    if (c < args.value_dim) {
#pragma unroll 8
      for (int d = args.key_dim * part / kParts; d < d_end; ++d) {
        const float value = state[d * stride + c];
        from_k = fmaf(h.k[d], value, from_k);
        from_q = fmaf(h.q[d], value, from_q);
      }
      // Row t of the ring belongs to part t / 8: the split does not depend on how many there are.
      const int t_end = min(i, (part + 1) * (kRing / kParts));
#pragma unroll 8
      for (int t = part * (kRing / kParts); t < t_end; ++t) {
        const float update = ring[t * stride + c];
        earlier_a = fmaf(minus_a[t], update, earlier_a);
        earlier_b = fmaf(b[t], update, earlier_b);
      }
    }
    h.parts[thread()] = fmaf(-h.fade[j], from_k, earlier_a);
    h.parts[kThreads + thread()] = fmaf(h.fade[j], from_q, earlier_b);
    __syncthreads();
    if (thread() < kColumns && c < args.value_dim) {
      const float delta = h.beta[j] * (h.v[j * stride + c] + add_parts(h.parts, thread()));
      ring[i * stride + c] = delta;
      h.out[j * stride + c] = fmaf(b[i], delta, add_parts(h.parts + kThreads, thread()));
    }
    __syncthreads();
  }
}

// A warp per value head.
WEIR_DEVICE void gated_norm(const GpuGdnArgs& args, const Head& h, const GpuGdnSequence& s, int row) {
  const int64_t t = s.row_begin + row;
  for (int j = device::warp(); j < args.ratio; j += kThreads / device::kWarp) {
    const float* out = h.out + j * args.value_stride;
    float sum = 0;
    for (int c = device::lane(); c < args.value_dim; c += device::kWarp) sum = fmaf(out[c], out[c], sum);
    sum = device::warp_sum(sum);
    const float scale = 1.0F / sqrtf(sum / static_cast<float>(args.value_dim) + args.eps);
    const int64_t column = static_cast<int64_t>(h.index * args.ratio + j) * args.value_dim;
    for (int c = device::lane(); c < args.value_dim; c += device::kWarp) {
      args.y[t * args.y_stride + column + c] =
          out[c] * scale * args.norm[c] * device::silu(args.z[t * args.z_stride + column + c]);
    }
  }
  __syncthreads();
}

// S <- e^G_63 S + sum_j e^(G_63 - G_j) k_j delta_j^T.
WEIR_DEVICE void fold(const GpuGdnArgs& args, const Head& h) {
  const int64_t stride = args.value_stride;
  for (int n = thread(); n < args.ratio * kRing; n += kThreads) {
    const float* total = h.log_decay + n / kRing * kRing;
    h.b[n] = expf(total[kRing - 1] - total[n % kRing]);
  }
  __syncthreads();
  const int64_t head_floats = args.key_dim * stride;
  for (int64_t n = thread(); n < args.ratio * head_floats; n += kThreads) {
    const int64_t j = n / head_floats;
    const int64_t d = n % head_floats / stride;
    const int64_t c = n % stride;
    if (c >= args.value_dim) continue;
    const float* ring = h.update + j * kRing * stride + c;
    float sum = expf(h.log_decay[j * kRing + kRing - 1]) * h.state[n];
#pragma unroll 8
    for (int t = 0; t < kRing; ++t) sum = fmaf(h.b[j * kRing + t] * h.keys[d * kRing + t], ring[t * stride], sum);
    h.state[n] = sum;
  }
  __syncthreads();
}

// The last raw rows of this head's channels go to the input ring.
WEIR_DEVICE void keep_inputs(const GpuGdnArgs& args, const Head& h, const GpuGdnSequence& s) {
  const int count = 2 * args.key_dim + args.ratio * args.value_dim;
  const int first = s.row_count > kInputs ? s.row_count - kInputs : 0;
  for (int row = first; row < s.row_count; ++row) {
    float* to = h.inputs + static_cast<int64_t>((s.position + row) % kInputs) * args.channels;
    for (int i = thread(); i < count; i += kThreads) {
      const int channel = channel_of(args, h, i);
      to[channel] = args.u[(s.row_begin + row) * args.u_stride + channel];
    }
  }
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_gdn, GpuGdnArgs, kThreads, 1) {
  extern __shared__ float shared[];
  const GpuGdnSequence s = args.sequences[blockIdx.x];
  const int64_t stride = args.value_stride;
  uint8_t* slot = s.slot + args.slot_offset;
  Head h;
  h.index = static_cast<int>(blockIdx.y);
  const int64_t value_head = static_cast<int64_t>(h.index) * args.ratio;
  h.state = reinterpret_cast<float*>(slot + args.state_offset) + value_head * args.key_dim * stride;
  h.keys = reinterpret_cast<float*>(slot + args.keys_offset) + static_cast<int64_t>(h.index) * args.key_dim * kRing;
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
  h.minus_a = take(args.ratio * kRing);
  h.b = take(args.ratio * kRing);
  h.parts = take(2 * kThreads);
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
    convolve(args, h, s, row);
    normalise(args, h, h.q, 1.0F / sqrtf(static_cast<float>(args.key_dim)));
    normalise(args, h, h.k, 1.0F);
    enter_ring(args, h, s, row, i);
    coefficients(args, h, i);
    for (int j = 0; j < args.ratio; ++j) delta_rule(args, h, j, i);
    gated_norm(args, h, s, row);
  }
  keep_inputs(args, h, s);
}

}  // namespace weir
