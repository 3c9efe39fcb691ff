// What a generated row costs where its sequence's state is written back with every token: the mixer of ops/gdn/gdn.h
// without a ring, to compare gdn_rows with. The program has no such kernel. One row a sequence, heads of 128 keys and
// 128 values; of a slot it has the state, here [nv][128 values][128 keys], and the ring of the convolution's inputs.
//
// Bound by reading the state and writing it. kBlocks blocks of 256 threads share a value head (one where there are many
// sequences; more spread a few over the device, and are a cluster for the norm's sake). A warp has kOwn values of the
// head, a lane four keys of each, 16 bytes: what a block has of the state is in its threads' registers from the first
// instruction on, is read and written in rows of 512 bytes, and nothing between its arrival and its way back waits for
// another warp. It is read before the block waits for the kernel before it: only an earlier step wrote it.
#include "device/async.h"
#include "device/mma.h"
#include "ops/gdn/gdn_packed_args.h"

namespace weir {
namespace {

inline constexpr int kDim = kGdnHeadDim;
inline constexpr int kInputs = 16;
inline constexpr int kTaps = 4;
inline constexpr int kThreads = 2 * kDim;  // each with a channel of q or k
inline constexpr int kWarps = kThreads / device::kWarp;
inline constexpr float kL2Eps = 1e-6F;
inline constexpr float kQueryScale = 0.08838834764831845F;  // 1 / sqrt(kDim)
static_assert(kDim == 4 * device::kWarp);

template <int kBlocks>
struct alignas(16) Shared {
  float qk[kThreads];            // the row's q, then its k
  float norm[kBlocks * kWarps];  // squares of the output, by warps of the cluster
  device::Barrier norm_here;
};

// A channel of the convolution.
struct Channel {
  int index;
  float weights[kTaps];
  float window[kTaps - 1];
};

WEIR_DEVICE float* inputs_of(const GpuGdnPackedArgs& args, uint8_t* slot, int token) {
  return reinterpret_cast<float*>(slot + args.inputs_offset) + token % kInputs * args.channels;
}

WEIR_DEVICE Channel open_channel(const GpuGdnPackedArgs& args, uint8_t* slot, int position, int index) {
  Channel own;
  own.index = index;
#pragma unroll
  for (int tap = 0; tap < kTaps; ++tap) own.weights[tap] = args.conv[tap * args.channels + index];
#pragma unroll
  for (int tap = 0; tap + 1 < kTaps; ++tap) {
    const int token = position - (kTaps - 1) + tap;
    own.window[tap] = token < 0 ? 0.0F : inputs_of(args, slot, token)[index];
  }
  return own;
}

WEIR_DEVICE float convolve(const Channel& own, float in) {
  float sum = 0;
#pragma unroll
  for (int tap = 0; tap + 1 < kTaps; ++tap) sum = fmaf(own.weights[tap], own.window[tap], sum);
  return device::fast_silu(fmaf(own.weights[kTaps - 1], in, sum));
}

WEIR_DEVICE float dot(float4 a, float4 b) {
  return fmaf(a.x, b.x, a.y * b.y) + fmaf(a.z, b.z, a.w * b.w);
}
WEIR_DEVICE float4 scaled(float4 a, float scale) {
  return {scale * a.x, scale * a.y, scale * a.z, scale * a.w};
}

// Which of the warp's kOwn values the lane ends up with in spread_sums of 2 kOwn numbers, those of k before those of q;
// bit 0 of the lane says which of the two. Lanes beyond 2 kOwn have the same as those before.
template <int kOwn>
WEIR_DEVICE int own_value() {
  int value = 0;
#pragma unroll
  for (int bit = 2, weight = kOwn / 2; weight > 0; bit *= 2, weight /= 2) {
    value += (device::lane() & bit) != 0 ? weight : 0;
  }
  return value;
}
// The first lane that has it.
template <int kOwn>
constexpr int lane_of(int value) {
  int lane = 0;
  for (int bit = 2, weight = kOwn / 2; weight > 0; bit *= 2, weight /= 2) {
    if ((value & weight) != 0) lane += bit;
  }
  return lane;
}

// S^T k of the lane's value, or S^T q.
template <int kOwn>
WEIR_DEVICE float state_products(const float4 (&state)[kOwn], float4 k, float4 q) {
  float sums[2 * kOwn];
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    sums[i] = dot(state[i], k);
    sums[kOwn + i] = dot(state[i], q);
  }
  int which;
  float sum = device::spread_sums(sums, &which);
#pragma unroll
  for (int distance = 2 * kOwn; distance < device::kWarp; distance *= 2) {
    sum += __shfl_xor_sync(device::kAllLanes, sum, distance);
  }
  return sum;
}

// S <- fade S + k delta^T, on its way back to the slot; a lane has its own value's delta.
template <int kOwn>
WEIR_DEVICE void write_state(const float4 (&state)[kOwn], float4* place, float fade, float4 k, float delta) {
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const float d = __shfl_sync(device::kAllLanes, delta, lane_of<kOwn>(i));
    const float4 x = scaled(state[i], fade);
    __stcs(place + i * (kDim / 4), float4{fmaf(k.x, d, x.x), fmaf(k.y, d, x.y), fmaf(k.z, d, x.z), fmaf(k.w, d, x.w)});
  }
}

// The sum of squares over the head's values, of which the lane has `out`.
template <int kBlocks, int kOwn>
WEIR_DEVICE float head_squares(Shared<kBlocks>& m, int part, float out) {
  float sum = out * out;
#pragma unroll
  for (int distance = 2; distance < 2 * kOwn; distance *= 2) sum += __shfl_xor_sync(device::kAllLanes, sum, distance);
  if constexpr (kBlocks == 1) {
    if (device::lane() == 0) m.norm[device::warp()] = sum;
    __syncthreads();
  } else {
    if (device::lane() < kBlocks) {
      device::send_shared_to(static_cast<uint32_t>(device::lane()), &m.norm[part * kWarps + device::warp()], sum,
                             &m.norm_here);
    }
    __syncwarp();
    device::barrier_wait(&m.norm_here, 0);
  }
  sum = 0;
#pragma unroll
  for (int i = 0; i < kBlocks * kWarps; i += 4) {
    const float4 x = *reinterpret_cast<const float4*>(&m.norm[i]);
    sum += (x.x + x.y) + (x.z + x.w);
  }
  return sum;
}

template <int kBlocks>
WEIR_DEVICE void gdn_every_row(const GpuGdnPackedArgs& args) {
  constexpr int kOwn = kDim / kBlocks / kWarps;
  __shared__ Shared<kBlocks> m;
  const GpuGdnSequence s = args.sequences[blockIdx.y];
  const int value_head = static_cast<int>(blockIdx.x) / kBlocks;
  const int part = static_cast<int>(blockIdx.x) % kBlocks;
  const int key_head = value_head / args.ratio;
  const int first = (part * kWarps + device::warp()) * kOwn;
  uint8_t* slot = s.slot + args.slot_offset;
  auto* place =
      reinterpret_cast<float4*>(slot + args.state_offset) + (value_head * kDim + first) * (kDim / 4) + device::lane();
  float4 state[kOwn];
#pragma unroll
  for (int i = 0; i < kOwn; ++i) state[i] = __ldcs(place + i * (kDim / 4));
  if constexpr (kBlocks > 1) {
    if (threadIdx.x == 0) {
      device::barrier_init(&m.norm_here, 1);
      device::barrier_init_done();
      device::barrier_expect(&m.norm_here, kBlocks * kWarps * 4);
    }
    __syncwarp();
    device::cluster_arrive_relaxed();
  }
  const int thread = static_cast<int>(threadIdx.x);
  const int column = value_head * kDim + first + own_value<kOwn>();
  const bool writes = device::lane() < 2 * kOwn && device::lane() % 2 == 0;  // for its value
  const Channel mine =
      open_channel(args, slot, s.position, (thread / kDim * args.key_heads + key_head) * kDim + thread % kDim);
  const Channel value = open_channel(args, slot, s.position, 2 * args.key_heads * kDim + column);
  const float norm = args.norm[column % kDim];
  const float decay = args.decay[value_head];
  const float dt_bias = args.dt_bias[value_head];
  device::wait_for_previous();
  device::start_next();
  const int64_t row = s.row_begin;
  const float in = __ldcg(args.u + row * args.u_stride + mine.index);
  const float value_in = __ldcg(args.u + row * args.u_stride + value.index);
  const float z = __ldcg(args.z + row * args.z_stride + column);
  const float x = __ldcg(args.a + row * args.a_stride + value_head) + dt_bias;
  const float beta = device::sigmoid(__ldcg(args.b + row * args.b_stride + value_head));
  const float fade = expf(decay * (x > 20.0F ? x : log1pf(expf(x))));
  m.qk[thread] = convolve(mine, in);
  const float v = convolve(value, value_in);
  float* kept = inputs_of(args, slot, s.position);
  if (part == 0 && value_head % args.ratio == 0) kept[mine.index] = in;
  if (writes) kept[value.index] = value_in;
  __syncthreads();
  float4 q = reinterpret_cast<const float4*>(m.qk)[device::lane()];
  float4 k = reinterpret_cast<const float4*>(m.qk + kDim)[device::lane()];
  q = scaled(q, kQueryScale * rsqrtf(device::warp_sum(dot(q, q)) + kL2Eps));
  k = scaled(k, rsqrtf(device::warp_sum(dot(k, k)) + kL2Eps));
  const float kq = device::warp_sum(dot(k, q));
  const float sum = state_products(state, k, q);
  const float other = __shfl_xor_sync(device::kAllLanes, sum, 1);
  const bool of_q = device::lane() % 2 != 0;
  const float delta = beta * fmaf(-fade, of_q ? other : sum, v);
  const float out = fmaf(kq, delta, fade * (of_q ? sum : other));
  write_state(state, place, fade, k, delta);
  if constexpr (kBlocks > 1) device::cluster_wait();  // every block's barrier is made
  const float squares = head_squares<kBlocks, kOwn>(m, part, out);
  const float scale = rsqrtf(squares / static_cast<float>(kDim) + args.eps);
  if (writes) {
    args.y[row * args.y_stride + column] =
        static_cast<uint16_t>(device::half_pair(args.y_type != 0, out * scale * norm * device::fast_silu(z), 0.0F));
  }
}

}  // namespace

// As many registers as hold a block's part of the state, and as many blocks as these leave room for.
WEIR_KERNEL_BOUNDED(weir_gdn_every_row_1, GpuGdnPackedArgs, kThreads, 2) {
  gdn_every_row<1>(args);
}
WEIR_KERNEL_BOUNDED(weir_gdn_every_row_2, GpuGdnPackedArgs, kThreads, 3) {
  gdn_every_row<2>(args);
}
WEIR_KERNEL_BOUNDED(weir_gdn_every_row_4, GpuGdnPackedArgs, kThreads, 4) {
  gdn_every_row<4>(args);
}

}  // namespace weir
