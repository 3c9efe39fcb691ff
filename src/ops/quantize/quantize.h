// For kernel files: numbers to e4m3 codes as ops/quantize/quantize_rows_args.h states it.
#pragma once

#include "device/mma.h"
#include "ops/quantize/quantize_rows_args.h"

namespace weir {

// Divides the numbers of a block by its scale, with the bits of a division, by the scale's reciprocal: a quotient that
// is next to the exact one gets right by one step with its exact rest (Markstein), and one step brings it there. kWide:
// of any float32 numbers, else of those that f16 has. Powers of two keep rests of wide numbers out of the subnormal
// ones.
template <bool kWide>
class E4m3Block {
 public:
  float scale;

  // m: the largest magnitude.
  WEIR_DEVICE explicit E4m3Block(float m) : scale(fmaf(m, 0.0F, m / kE4m3Largest)) {
    if constexpr (kWide) move_ = scale < 0x1p-64F ? 0x1p64F : scale > 0x1p64F ? 0x1p-64F : 1.0F;
    by_ = scale * move_;
    reciprocal_ = scale == 0 ? 0.0F : __frcp_rn(by_);
  }
  // Two codes, that of `low` in the lower byte.
  WEIR_DEVICE uint32_t codes(float low, float high) const {
    return device::to_fp8x2(copysignf(quotient(low), low), copysignf(quotient(high), high));
  }

  // That of another lane.
  WEIR_DEVICE E4m3Block of_lane(int lane) const {
    E4m3Block out = *this;
    if constexpr (kWide) out.move_ = __shfl_sync(device::kAllLanes, move_, lane);
    out.by_ = __shfl_sync(device::kAllLanes, by_, lane);
    out.reciprocal_ = __shfl_sync(device::kAllLanes, reciprocal_, lane);
    return out;
  }

 private:
  float move_ = 1;
  float by_;
  float reciprocal_;

  WEIR_DEVICE float quotient(float x) const {
    const float size = fabsf(x) * move_;
    float q = size * reciprocal_;
#pragma unroll
    for (int step = 0; step < 2; ++step) q = fmaf(fmaf(-q, by_, size), reciprocal_, q);
    return q;
  }
};

// Of a warp's 128 numbers: the largest magnitude's bits. NaN is larger than what is not.
WEIR_DEVICE uint32_t most_of_128(float4 x) {
  const auto size = [](float v) { return __float_as_uint(v) & 0x7fffffffU; };
  return device::warp_max(max(max(size(x.x), size(x.y)), max(size(x.z), size(x.w))));
}

// Writes their codes, lane l's numbers being k 4 l .. 4 l + 3. A lane and the one two further have the halves of the
// same two words: they exchange, and each writes one whole word.
WEIR_DEVICE void write_codes_of_128(const E4m3Block<true>& block, float4 x, uint8_t* codes) {
  const uint32_t first = block.codes(x.x, x.y);
  const uint32_t second = block.codes(x.z, x.w);
  const int q = device::lane() % 4;
  const bool upper = q >= 2;  // k 8 .. 15 of 16: the words' upper halves
  const uint32_t other = __shfl_xor_sync(device::kAllLanes, upper ? first : second, 2);
  reinterpret_cast<uint32_t*>(codes)[device::lane() - q + q % 2 * 2 + q / 2] =
      upper ? other | second << 16 : first | other << 16;
}

}  // namespace weir
