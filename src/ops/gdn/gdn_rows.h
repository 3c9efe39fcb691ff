// For the two kernels of generated rows of Gated DeltaNet, gdn_rows and gdn_rows_few: where a block stands, and what a
// thread makes of a row. Whatever rounds is here or has the same order in both: a sequence may pass from one to the
// other at any step.
#pragma once

#include "device/mma.h"
#include "ops/gdn/gdn_packed_args.h"

namespace weir {

inline constexpr int kDim = kGdnHeadDim;
inline constexpr int kColumns = kGdnTileColumns;
inline constexpr int kHeadTiles = kDim / kColumns;
inline constexpr int kRing = 64;
inline constexpr int kInputs = 16;
inline constexpr int kTaps = 4;
inline constexpr int kParts = 8;  // warps that multiply, each 16 keys of the state and 8 rows of the ring
inline constexpr float kL2Eps = 1e-6F;
inline constexpr float kQueryScale = 0.08838834764831845F;  // 1 / sqrt(kDim)

WEIR_DEVICE int thread() {
  return static_cast<int>(threadIdx.x);
}
// The same in all lanes, and known to be.
WEIR_DEVICE int warp() {
  return __shfl_sync(device::kAllLanes, device::warp(), 0);
}

// The block's shared memory by an address that is kept: in a cluster the compiler works it out of the block's rank time
// and again, also behind a row's barrier, where the rest of the row waits for it.
template <typename Shared>
WEIR_DEVICE Shared& shared_at(const uint8_t* memory) {
  uint32_t at = device::shared_address(memory);
  asm volatile("" : "+r"(at));
  return *reinterpret_cast<Shared*>(__cvta_shared_to_generic(at));
}

// Where the block stands, of the cluster of a key head; it has so many tiles of a value head.
template <int kTiles>
struct Place {
  static constexpr int kBlocks = kHeadTiles / kTiles;  // of a value head
  const GpuGdnPackedArgs& args;
  uint8_t* slot;
  int rank;  // in the cluster
  int key_head;
  int value_head;
  int tile;  // first tile of 32 columns of the head

  WEIR_DEVICE Place(const GpuGdnPackedArgs& a, const GpuGdnSequence& s)
      : args(a),
        slot(s.slot + a.slot_offset),
        rank(static_cast<int>(device::cluster_rank())),
        key_head(static_cast<int>(device::cluster_index())),
        value_head(key_head * a.ratio + rank / kBlocks),
        tile(rank % kBlocks * kTiles) {}
  // The head's first block.
  WEIR_DEVICE bool leads() const { return rank % kBlocks == 0; }
  WEIR_DEVICE float* state() const {
    return part(args.state_offset) + (value_head * kHeadTiles + tile) * kDim * kColumns;
  }
  WEIR_DEVICE float* update() const {
    return part(args.update_offset) + (value_head * kHeadTiles + tile) * kRing * kColumns;
  }
  WEIR_DEVICE float* keys() const { return part(args.keys_offset) + key_head * kRing * kDim; }
  WEIR_DEVICE float* log_decay() const { return part(args.log_decay_offset) + value_head * kRing; }
  WEIR_DEVICE float* inputs(int token) const { return part(args.inputs_offset) + token % kInputs * args.channels; }
  // The thread's channel of q or k.
  WEIR_DEVICE int qk_channel() const { return (thread() / kDim * args.key_heads + key_head) * kDim + thread() % kDim; }
  WEIR_DEVICE int value_channel(int column) const { return (2 * args.key_heads + value_head) * kDim + column; }

 private:
  WEIR_DEVICE float* part(int64_t offset) const { return reinterpret_cast<float*>(slot + offset); }
};

WEIR_DEVICE float dot(float4 a, float4 b) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, a.x * b.x)));
}

WEIR_DEVICE float silu_fast(float x) {
  return __fdividef(x, 1.0F + expf(-x));
}

// A channel of the convolution in front of row `position`: its weights, and its inputs before it.
template <int kTiles>
WEIR_DEVICE void open_channel(const Place<kTiles>& p, int position, int channel, float (&weights)[kTaps],
                              float (&window)[kTaps]) {
#pragma unroll
  for (int tap = 0; tap < kTaps; ++tap) {
    weights[tap] = p.args.conv[tap * p.args.channels + channel];
    window[tap] = 0;
    const int token = position - kTaps + tap;
    if (tap > 0 && token >= 0) window[tap] = p.inputs(token)[channel];
  }
}

// A row's input enters the window.
WEIR_DEVICE float convolve(const float (&weights)[kTaps], float (&window)[kTaps], float in) {
  float sum = 0;
#pragma unroll
  for (int tap = 0; tap + 1 < kTaps; ++tap) {
    window[tap] = window[tap + 1];
    sum = fmaf(weights[tap], window[tap], sum);
  }
  window[kTaps - 1] = in;
  return silu_fast(fmaf(weights[kTaps - 1], in, sum));
}

WEIR_DEVICE float softplus(float x) {
  return x > 20.0F ? x : log1pf(expf(x));
}

// Of a row's q and k, of whose squares eight warps have the sums.
struct Norms {
  float q_scale;
  float k_scale;
};
WEIR_DEVICE Norms norms(const float (&squares)[kParts]) {
  const float4 q = reinterpret_cast<const float4*>(squares)[0];
  const float4 k = reinterpret_cast<const float4*>(squares)[1];
  return {kQueryScale * rsqrtf(((q.x + q.y) + (q.z + q.w)) + kL2Eps), rsqrtf(((k.x + k.y) + (k.z + k.w)) + kL2Eps)};
}

template <int kWidth>
WEIR_DEVICE float add_parts(const float (&parts)[kParts][kWidth], int c) {
  return ((parts[0][c] + parts[1][c]) + (parts[2][c] + parts[3][c])) +
         ((parts[4][c] + parts[5][c]) + (parts[6][c] + parts[7][c]));
}

// One over the root of a head's mean square; its tiles' squares.
WEIR_DEVICE float output_scale(float4 squares, float eps) {
  return rsqrtf((((squares.x + squares.y) + squares.z) + squares.w) / static_cast<float>(kDim) + eps);
}

WEIR_DEVICE uint16_t output_value(const GpuGdnPackedArgs& args, float value) {
  return static_cast<uint16_t>(device::half_pair(args.y_type != 0, value, 0.0F));
}

}  // namespace weir
