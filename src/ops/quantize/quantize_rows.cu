// Rows of 16-bit numbers to e4m3, bound by one read and the writes. A warp takes up to 512 numbers of a row, 16 lanes
// each 128 of them in turn.
#include "device/async.h"
#include "ops/quantize/quantize.h"

namespace weir {
namespace {

inline constexpr int kLanes = 16;  // of 128 numbers, 8 each

template <bool kF16>
WEIR_DEVICE float2 two_numbers(uint32_t pair) {
  if constexpr (kF16) return {device::f16_low(pair), device::f16_high(pair)};
  return {device::bf16_low(pair), device::bf16_high(pair)};
}

// The largest magnitude of the numbers of 16 lanes: as whole numbers, in which NaN is the largest.
template <bool kF16>
WEIR_DEVICE float largest(uint4 x) {
  constexpr uint32_t kSizes = 0x7fff7fffU;
  const uint32_t pair = __vmaxu2(__vmaxu2(x.x & kSizes, x.y & kSizes), __vmaxu2(x.z & kSizes, x.w & kSizes));
  uint32_t most = max(pair & 0xffffU, pair >> 16);
#pragma unroll
  for (int distance = 1; distance < kLanes; distance *= 2) {
    most = max(most, __shfl_xor_sync(device::kAllLanes, most, distance));
  }
  return two_numbers<kF16>(most).x;
}

// Eight codes. A lane and its neighbour have the lower and the upper halves of the same four words: they exchange, and
// each has two whole words.
template <bool kF16>
WEIR_DEVICE uint2 eight_codes(uint4 x, const E4m3Block<!kF16>& block) {
  const uint32_t words[4] = {x.x, x.y, x.z, x.w};
  uint32_t pairs[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 v = two_numbers<kF16>(words[i]);
    pairs[i] = block.codes(v.x, v.y);
  }
  const uint32_t front = pairs[0] | pairs[1] << 16;
  const uint32_t back = pairs[2] | pairs[3] << 16;
  const bool upper = device::lane() % 2 != 0;
  const uint32_t other = __shfl_xor_sync(device::kAllLanes, upper ? front : back, 1);
  const uint32_t low = upper ? other : front;
  const uint32_t high = upper ? back : other;
  return {__byte_perm(low, high, 0x5410), __byte_perm(low, high, 0x7632)};
}

template <bool kF16>
WEIR_DEVICE void quantize(const GpuQuantizeRowsArgs& args) {
  device::wait_for_previous();
  device::start_next();
  const int chunks = (args.size + kQuantizeChunk - 1) / kQuantizeChunk;
  const int64_t turn = int64_t{blockIdx.x} * (kQuantizeThreads / device::kWarp) + device::warp();
  const int64_t row = turn / chunks;
  if (row >= args.rows) return;
  constexpr int kTurns = kQuantizeChunk / (8 * device::kWarp);
  const int begin = static_cast<int>(turn - row * chunks) * kQuantizeChunk + 8 * device::lane();
  const uint16_t* x = (kF16 ? args.x_f16 : args.x_bf16) + row * args.x_stride;
  uint4 words[kTurns];
#pragma unroll
  for (int i = 0; i < kTurns; ++i) {
    const int k = begin + i * 8 * device::kWarp;
    words[i] = k < args.size ? *reinterpret_cast<const uint4*>(x + k) : uint4{0, 0, 0, 0};
  }
#pragma unroll
  for (int i = 0; i < kTurns; ++i) {
    const int k = begin + i * 8 * device::kWarp;
    const E4m3Block<!kF16> block(largest<kF16>(words[i]));
    const uint2 codes = eight_codes<kF16>(words[i], block);
    if (k >= args.size) continue;
    *reinterpret_cast<uint2*>(args.e4m3 + row * args.size + k) = codes;
    if (device::lane() % kLanes == 0) args.scales[k / kBlockK * args.scale_stride + row] = block.scale;
  }
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_quantize_rows_f16, GpuQuantizeRowsArgs, kQuantizeThreads, 8) {
  quantize<true>(args);
}
WEIR_KERNEL_BOUNDED(weir_quantize_rows_bf16, GpuQuantizeRowsArgs, kQuantizeThreads, 8) {
  quantize<false>(args);
}

}  // namespace weir
