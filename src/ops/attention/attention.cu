// Prepare: a block per row norms and rotates its heads and writes the keys and values into their page. Attend: a block
// per (row, query head) runs online softmax over absolute 64-token blocks in ascending order; thread t holds token t %
// 64 and a quarter of the head for the scores, then output columns t, t + 256. Bits depend on position and context.
#include "device/kernel.h"
#include "ops/attention/gpu_args.h"

namespace weir {
namespace {

inline constexpr int kThreads = 256;
inline constexpr int kTokens = 64;
inline constexpr int kParts = kThreads / kTokens;
inline constexpr int kHeadDimMax = 512;
inline constexpr int kColumns = kHeadDimMax / kThreads;

// One head by one warp: y[E] in shared memory.
WEIR_DEVICE void norm_and_rotate(const GpuAttentionArgs& args, int position, const float* x, const float* weight,
                                 float* y) {
  const int e = args.head_dim;
  float sum = 0;
  for (int i = device::lane(); i < e; i += device::kWarp) sum = fmaf(x[i], x[i], sum);
  sum = device::warp_sum(sum);
  const float scale = 1.0F / sqrtf(sum / static_cast<float>(e) + args.eps);
  for (int i = device::lane(); i < e; i += device::kWarp) y[i] = x[i] * scale * (1.0F + weight[i]);
  __syncwarp();
  const int half = args.rope_half;
  const double* coarse = args.coarse + static_cast<int64_t>(position / 256) * half * 2;
  const double* fine = args.fine + static_cast<int64_t>(position % 256) * half * 2;
  for (int i = device::lane(); i < half; i += device::kWarp) {
    const double c0 = coarse[2 * i];
    const double s0 = coarse[2 * i + 1];
    const double c1 = fine[2 * i];
    const double s1 = fine[2 * i + 1];
    const float c = static_cast<float>(c0 * c1 - s0 * s1);
    const float s = static_cast<float>(s0 * c1 + c0 * s1);
    const float a = y[i];
    const float b = y[i + half];
    y[i] = a * c - b * s;
    y[i + half] = b * c + a * s;
  }
  __syncwarp();
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_attention_prepare, GpuAttentionArgs, kThreads, 1) {
  __shared__ float heads[kThreads / device::kWarp][kHeadDimMax];
  const int64_t t = blockIdx.x;
  const GpuRow row = args.rows[t];
  const int e = args.head_dim;
  const float scale = 1.0F / sqrtf(static_cast<float>(e));
  const int64_t head_floats = static_cast<int64_t>(e + args.value_stride) * kTokens;
  float* page = reinterpret_cast<float*>(args.pages[row.sequence][row.position / kTokens] + args.page_offset);
  const int column = row.position % kTokens;
  float* y = heads[device::warp()];
  for (int h = device::warp(); h < args.heads + args.kv_heads; h += kThreads / device::kWarp) {
    if (h < args.heads) {
      norm_and_rotate(args, row.position, args.qg + t * args.qg_stride + static_cast<int64_t>(h) * 2 * e, args.q_norm,
                      y);
      float* q = args.q + (t * args.heads + h) * e;
      for (int i = device::lane(); i < e; i += device::kWarp) q[i] = y[i] * scale;
    } else {
      const int kv = h - args.heads;
      norm_and_rotate(args, row.position, args.k + t * args.k_stride + static_cast<int64_t>(kv) * e, args.k_norm, y);
      float* keys = page + kv * head_floats;
      float* values = keys + static_cast<int64_t>(e) * kTokens + static_cast<int64_t>(column) * args.value_stride;
      const float* v = args.v + t * args.v_stride + static_cast<int64_t>(kv) * e;
      for (int i = device::lane(); i < e; i += device::kWarp) {
        keys[static_cast<int64_t>(i) * kTokens + column] = y[i];
        values[i] = v[i];
      }
    }
    __syncwarp();
  }
}

WEIR_KERNEL_BOUNDED(weir_attend, GpuAttentionArgs, kThreads, 1) {
  __shared__ float q[kHeadDimMax];
  __shared__ float parts[kParts][kTokens];
  __shared__ float weights[kTokens];
  __shared__ float block_max;
  __shared__ float block_total;
  const int64_t t = blockIdx.x;
  const int head = static_cast<int>(blockIdx.y);
  const GpuRow row = args.rows[t];
  const int e = args.head_dim;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t head_floats = static_cast<int64_t>(e + args.value_stride) * kTokens;
  const int64_t kv_offset = head / (args.heads / args.kv_heads) * head_floats;
  for (int i = thread; i < e; i += kThreads) q[i] = args.q[(t * args.heads + head) * e + i];
  __syncthreads();

  const int token = thread % kTokens;
  const int part = thread / kTokens;
  const int part_begin = e * part / kParts;
  const int part_end = e * (part + 1) / kParts;
  float largest = -INFINITY;
  float total = 0;
  float out[kColumns];
#pragma unroll
  for (int c = 0; c < kColumns; ++c) out[c] = 0;

  for (int start = 0; start <= row.position; start += kTokens) {
    const float* keys =
        reinterpret_cast<const float*>(args.pages[row.sequence][start / kTokens] + args.page_offset) + kv_offset;
    const float* values = keys + static_cast<int64_t>(e) * kTokens;
    const int valid = min(kTokens, row.position - start + 1);
    float score = 0;
    for (int i = part_begin; i < part_end; ++i)
      score = fmaf(q[i], keys[static_cast<int64_t>(i) * kTokens + token], score);
    parts[part][token] = score;
    __syncthreads();
    if (thread < device::kWarp) {
      // One warp holds tokens lane and lane + 32: the block's softmax in a fixed order.
      const auto of = [&](int i) {
        return i < valid ? (parts[0][i] + parts[1][i]) + (parts[2][i] + parts[3][i]) : -INFINITY;
      };
      const float a = of(thread);
      const float b = of(thread + device::kWarp);
      const float now = fmaxf(largest, device::warp_max(fmaxf(a, b)));
      const float ea = expf(a - now);
      const float eb = expf(b - now);
      weights[thread] = ea;
      weights[thread + device::kWarp] = eb;
      const float sum = device::warp_sum(ea + eb);
      if (thread == 0) {
        block_max = now;
        block_total = sum;
      }
    }
    __syncthreads();
    const float fade = expf(largest - block_max);
    largest = block_max;
    total = fmaf(total, fade, block_total);
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int column = thread + c * kThreads;
      if (column >= e) continue;
      float sum = out[c] * fade;
      // Only the visible values: what lies behind them in the page may be anything.
      for (int i = 0; i < valid; ++i)
        sum = fmaf(weights[i], values[static_cast<int64_t>(i) * args.value_stride + column], sum);
      out[c] = sum;
    }
    __syncthreads();
  }
  const float* gate = args.qg + t * args.qg_stride + static_cast<int64_t>(head) * 2 * e + e;
  float* y = args.y + t * args.y_stride + static_cast<int64_t>(head) * e;
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    const int column = thread + c * kThreads;
    if (column < e) y[column] = out[c] / total * device::sigmoid(gate[column]);
  }
}

}  // namespace weir
