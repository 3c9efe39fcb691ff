// Before attention: norms and rotates queries and keys, rounds them and the values to bf16, or keys and values to FP8,
// and puts keys and values into their page. Bound by reading the float32 rows. A warp takes a query head, or a key head
// with its values; 8 warps a block, blocks along y share the heads of a row when rows are few. Lane l holds columns 8l
// .. 8l + 7, one 16-byte chunk of the output, or the columns of 8 bytes of codes; the rotation's pairs meet in shared
// memory. The row's cosines and sines are made before the kernel before has ended.
#include "device/async.h"
#include "device/mma.h"
#include "ops/attention/attention_paged_args.h"
#include "tensor/fp8_row.h"

namespace weir {
namespace {

inline constexpr int kThreads = 256;
inline constexpr int kWarps = kThreads / device::kWarp;
inline constexpr int kE = kPagedHeadDim;

// (cos, sin) of each pair of the row's position.
WEIR_DEVICE void turns_of(const GpuPagedAttentionArgs& args, int position, float2* turns) {
  const auto* coarse = reinterpret_cast<const double2*>(args.coarse) + int64_t{position / 256} * args.rope_half;
  const auto* fine = reinterpret_cast<const double2*>(args.fine) + int64_t{position % 256} * args.rope_half;
  for (int i = static_cast<int>(threadIdx.x); i < args.rope_half; i += kThreads) {
    const double2 a = coarse[i];
    const double2 b = fine[i];
    turns[i] = {static_cast<float>(a.x * b.x - a.y * b.y), static_cast<float>(a.y * b.x + a.x * b.y)};
  }
}

struct Eight {
  float x[8];
};

WEIR_DEVICE Eight eight_of(const float* row) {
  const float4 a = reinterpret_cast<const float4*>(row)[2 * device::lane()];
  const float4 b = reinterpret_cast<const float4*>(row)[2 * device::lane() + 1];
  return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

WEIR_DEVICE uint4 rounded(const Eight& e) {
  return {device::bf16x2(e.x[0], e.x[1]), device::bf16x2(e.x[2], e.x[3]), device::bf16x2(e.x[4], e.x[5]),
          device::bf16x2(e.x[6], e.x[7])};
}

// One head by one warp; `head`: its E floats of shared memory, where the result is left.
WEIR_DEVICE void norm_and_rotate(const GpuPagedAttentionArgs& args, const float* x, const float* weight,
                                 const float2* turns, float* head) {
  Eight y = eight_of(x);
  const Eight w = eight_of(weight);
  float sum = 0;
#pragma unroll
  for (float i : y.x) sum = fmaf(i, i, sum);
  sum = device::warp_sum(sum);
  const float scale = 1.0F / sqrtf(sum / static_cast<float>(kE) + args.eps);
#pragma unroll
  for (int i = 0; i < 8; ++i) y.x[i] = y.x[i] * scale * (1.0F + w.x[i]);
  auto* own = reinterpret_cast<float4*>(head) + 2 * device::lane();
  own[0] = {y.x[0], y.x[1], y.x[2], y.x[3]};
  own[1] = {y.x[4], y.x[5], y.x[6], y.x[7]};
  __syncwarp();
  for (int i = device::lane(); i < args.rope_half; i += device::kWarp) {
    const float2 turn = turns[i];
    const float a = head[i];
    const float b = head[i + args.rope_half];
    head[i] = a * turn.x - b * turn.y;
    head[i + args.rope_half] = b * turn.x + a * turn.y;
  }
  __syncwarp();
}

// A warp's reading of what norm_and_rotate() left, before the next head goes there.
WEIR_DEVICE uint4 take_rounded(const float* head) {
  const uint4 out = rounded(eight_of(head));
  __syncwarp();
  return out;
}

// Keys or values of one head by one warp: codes and scale of a token.
WEIR_DEVICE void write_fp8(uint8_t* tile, int token, const float* row) {
  const int chunk = device::lane() / 2;
  const int part = device::lane() % 2;
  const float4 a = reinterpret_cast<const float4*>(row)[4 * chunk + part];
  const float4 b = reinterpret_cast<const float4*>(row)[4 * chunk + 2 + part];
  uint32_t largest = 0;
#pragma unroll
  for (const float x : {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}) largest = max(largest, __float_as_uint(fabsf(x)));
  const uint8_t scale = fp8_row_scale(device::warp_max(largest));
  const float shrink = fp8_row_shrink(scale);
  uint2 codes = {device::to_fp8x2(a.x * shrink, b.x * shrink) | device::to_fp8x2(a.y * shrink, b.y * shrink) << 16,
                 device::to_fp8x2(a.z * shrink, b.z * shrink) | device::to_fp8x2(a.w * shrink, b.w * shrink) << 16};
  if (scale == kFp8RowNan) codes = {0, 0};
  *reinterpret_cast<uint2*>(tile + token * kE + (chunk ^ (token % 8)) * 16 + part * 8) = codes;
  if (device::lane() == 0) tile[kPagedFp8Codes + token] = scale;
}

template <bool kFp8>
WEIR_DEVICE void prepare(const GpuPagedAttentionArgs& args, float2 (&turns)[kE / 2], float4 (&heads)[kWarps][kE / 4]) {
  // What follows reads nothing before its own wait that the kernels before this one write.
  device::start_next();
  const int64_t t = blockIdx.x;
  const GpuRow row = args.rows[t];
  uint8_t* page = nullptr;
  if (row.position >= 0) {
    page = args.pages[row.sequence][row.position / kPagedTokens] + args.page_offset;
    turns_of(args, row.position, turns);
  }
  __syncthreads();
  device::wait_for_previous();
  if (row.position < 0) return;
  const int token = row.position % kPagedTokens;
  const int chunk = paged_tile_byte(token, 8 * device::lane());
  float* head = reinterpret_cast<float*>(heads[device::warp()]);
  const int step = static_cast<int>(gridDim.y) * kWarps;
  for (int h = static_cast<int>(blockIdx.y) * kWarps + device::warp(); h < args.heads + args.kv_heads; h += step) {
    if (h < args.heads) {
      const float* x = args.qg + t * args.qg_stride + int64_t{h} * 2 * kE;
      norm_and_rotate(args, x, args.q_norm, turns, head);
      const uint4 q = take_rounded(head);
      reinterpret_cast<uint4*>(args.q + (t * args.heads + h) * kE)[device::lane()] = q;
      continue;
    }
    // Where nobody sees token 0 its weight is zero, and so that its values may be anything they become zeros.
    const int kv = h - args.heads;
    if constexpr (kFp8) {
      uint8_t* tile = page + int64_t{kv} * 2 * kPagedFp8TileBytes;
      write_fp8(tile + kPagedFp8TileBytes, token, args.v + t * args.v_stride + int64_t{kv} * kE);
      norm_and_rotate(args, args.k + t * args.k_stride + int64_t{kv} * kE, args.k_norm, turns, head);
      write_fp8(tile, token, head);
      __syncwarp();
      if (row.position == args.first && args.first > 0 && device::lane() == 0) {
        tile[kPagedFp8TileBytes + kPagedFp8Codes] = kFp8RowZero;
      }
    } else {
      const Eight v = eight_of(args.v + t * args.v_stride + int64_t{kv} * kE);
      norm_and_rotate(args, args.k + t * args.k_stride + int64_t{kv} * kE, args.k_norm, turns, head);
      const uint4 k = take_rounded(head);
      uint8_t* tile = page + int64_t{kv} * 2 * kPagedTileBytes + chunk;
      *reinterpret_cast<uint4*>(tile) = k;
      *reinterpret_cast<uint4*>(tile + kPagedTileBytes) = rounded(v);
      if (row.position == args.first && args.first > 0) {
        uint8_t* unseen = page + (int64_t{kv} * 2 + 1) * kPagedTileBytes + paged_tile_byte(0, 8 * device::lane());
        *reinterpret_cast<uint4*>(unseen) = uint4{0, 0, 0, 0};
      }
    }
  }
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_paged_prepare, GpuPagedAttentionArgs, kThreads, 4) {
  __shared__ float2 turns[kE / 2];
  __shared__ float4 heads[kWarps][kE / 4];
  prepare<false>(args, turns, heads);
}

WEIR_KERNEL_BOUNDED(weir_paged_prepare_fp8, GpuPagedAttentionArgs, kThreads, 4) {
  __shared__ float2 turns[kE / 2];
  __shared__ float4 heads[kWarps][kE / 4];
  prepare<true>(args, turns, heads);
}

}  // namespace weir
