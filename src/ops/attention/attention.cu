// Prepare: a block per row norms and rotates its heads and writes the keys and values into their page. Attend: a block
// per (row, query head) or per segment of it runs online softmax over absolute 64-token blocks in ascending order;
// thread t holds token t % 64 and a quarter of the head for the scores, then output columns t, t + 256. Segments of 512
// tokens are merged in ascending order, by the block that computed them or by a later kernel: the same operations
// either way. Bits depend on position and context alone.
#include "device/kernel.h"
#include "ops/attention/gpu_args.h"

namespace weir {
namespace {

inline constexpr int kThreads = 256;
inline constexpr int kTokens = 64;
inline constexpr int kParts = kThreads / kTokens;
inline constexpr int kHeadDimMax = kGpuHeadDimMax;
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

// Softmax over some blocks: the largest score, the sum of exponentials and this thread's output columns.
struct Softmax {
  float largest;
  float total;
  float out[kColumns];
};

struct AttendShared {
  float q[kHeadDimMax];
  float parts[kParts][kTokens];
  float weights[kTokens];
  float block_max;
  float block_total;
};

// Blocks [begin, end) of tokens for one query head.
WEIR_DEVICE Softmax attend_blocks(const GpuAttentionArgs& args, AttendShared& shared, GpuRow row, int64_t kv_offset,
                                  int begin, int end) {
  const int e = args.head_dim;
  const int thread = static_cast<int>(threadIdx.x);
  const int token = thread % kTokens;
  const int part = thread / kTokens;
  const int part_end = e * (part + 1) / kParts;
  Softmax state;
  state.largest = -INFINITY;
  state.total = 0;
#pragma unroll
  for (int c = 0; c < kColumns; ++c) state.out[c] = 0;
  for (int start = begin; start < end; start += kTokens) {
    const float* keys =
        reinterpret_cast<const float*>(args.pages[row.sequence][start / kTokens] + args.page_offset) + kv_offset;
    const float* values = keys + static_cast<int64_t>(e) * kTokens;
    const int valid = min(kTokens, row.position - start + 1);
    float score = 0;
#pragma unroll 16
    for (int i = e * part / kParts; i < part_end; ++i) {
      score = fmaf(shared.q[i], keys[static_cast<int64_t>(i) * kTokens + token], score);
    }
    shared.parts[part][token] = score;
    __syncthreads();
    if (thread < device::kWarp) {
      // One warp holds tokens lane and lane + 32: the block's softmax in a fixed order.
      const auto of = [&](int i) {
        return i < valid ? (shared.parts[0][i] + shared.parts[1][i]) + (shared.parts[2][i] + shared.parts[3][i])
                         : -INFINITY;
      };
      const float a = of(thread);
      const float b = of(thread + device::kWarp);
      const float now = fmaxf(state.largest, device::warp_max(fmaxf(a, b)));
      const float ea = expf(a - now);
      const float eb = expf(b - now);
      shared.weights[thread] = ea;
      shared.weights[thread + device::kWarp] = eb;
      const float sum = device::warp_sum(ea + eb);
      if (thread == 0) {
        shared.block_max = now;
        shared.block_total = sum;
      }
    }
    __syncthreads();
    const float fade = expf(state.largest - shared.block_max);
    state.largest = shared.block_max;
    state.total = fmaf(state.total, fade, shared.block_total);
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int column = thread + c * kThreads;
      if (column >= e) continue;
      const float* value = values + column;
      float sum = state.out[c] * fade;
      if (valid == kTokens) {
#pragma unroll 16
        for (int i = 0; i < kTokens; ++i) sum = fmaf(shared.weights[i], value[i * args.value_stride], sum);
      } else {
        // Only the visible values: what lies behind them in the page may be anything.
        for (int i = 0; i < valid; ++i) sum = fmaf(shared.weights[i], value[i * args.value_stride], sum);
      }
      state.out[c] = sum;
    }
    __syncthreads();
  }
  return state;
}

WEIR_DEVICE void merge(Softmax& into, const Softmax& from) {
  const float both = fmaxf(into.largest, from.largest);
  const float a = expf(into.largest - both);
  const float b = expf(from.largest - both);
  into.largest = both;
  into.total = fmaf(from.total, b, __fmul_rn(into.total, a));
#pragma unroll
  for (int c = 0; c < kColumns; ++c) into.out[c] = fmaf(from.out[c], b, __fmul_rn(into.out[c], a));
}

WEIR_DEVICE void finish(const GpuAttentionArgs& args, int64_t t, int head, const Softmax& state) {
  const int e = args.head_dim;
  const float* gate = args.qg + t * args.qg_stride + static_cast<int64_t>(head) * 2 * e + e;
  float* y = args.y + t * args.y_stride + static_cast<int64_t>(head) * e;
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    const int column = static_cast<int>(threadIdx.x) + c * kThreads;
    if (column < e) y[column] = __fmul_rn(state.out[c] / state.total, device::sigmoid(gate[column]));
  }
}

// Where a segment's state waits for the merge.
WEIR_DEVICE float* partial_of(const GpuAttentionArgs& args, int64_t t, int head, int segment) {
  return args.partial + ((t * args.heads + head) * args.segments + segment) * (2 + args.head_dim);
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
  __shared__ AttendShared shared;
  const int64_t t = blockIdx.x;
  const int head = static_cast<int>(blockIdx.y);
  const GpuRow row = args.rows[t];
  const int e = args.head_dim;
  const int thread = static_cast<int>(threadIdx.x);
  const int count = row.position / kGpuSegment + 1;
  const int only = static_cast<int>(blockIdx.z);
  if (args.partial != nullptr && only >= count) return;
  const int64_t kv_offset = head / (args.heads / args.kv_heads) * static_cast<int64_t>(e + args.value_stride) * kTokens;
  for (int i = thread; i < e; i += kThreads) shared.q[i] = args.q[(t * args.heads + head) * e + i];
  __syncthreads();
  const auto segment = [&](int index) {
    return attend_blocks(args, shared, row, kv_offset, index * kGpuSegment,
                         min((index + 1) * kGpuSegment, row.position + 1));
  };
  if (args.partial == nullptr || count == 1) {
    Softmax state = segment(0);
    for (int i = 1; i < count; ++i) merge(state, segment(i));
    finish(args, t, head, state);
    return;
  }
  const Softmax state = segment(only);
  float* out = partial_of(args, t, head, only);
  if (thread == 0) {
    out[0] = state.largest;
    out[1] = state.total;
  }
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    const int column = thread + c * kThreads;
    if (column < e) out[2 + column] = state.out[c];
  }
}

WEIR_KERNEL_BOUNDED(weir_attend_merge, GpuAttentionArgs, kThreads, 1) {
  const int64_t t = blockIdx.x;
  const int head = static_cast<int>(blockIdx.y);
  const int count = args.rows[t].position / kGpuSegment + 1;
  if (count == 1) return;
  const auto read = [&](int index) {
    const float* from = partial_of(args, t, head, index);
    Softmax state;
    state.largest = from[0];
    state.total = from[1];
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int column = static_cast<int>(threadIdx.x) + c * kThreads;
      state.out[c] = column < args.head_dim ? from[2 + column] : 0.0F;
    }
    return state;
  };
  Softmax state = read(0);
  for (int i = 1; i < count; ++i) merge(state, read(i));
  finish(args, t, head, state);
}

}  // namespace weir
