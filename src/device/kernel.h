// For kernel files alone: the words that every operation's kernels are written in. One argument struct per kernel,
// exported by symbol; no vendor name outside this file.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <cstdint>

#define WEIR_KERNEL(name, Args) extern "C" __global__ void name(const __grid_constant__ Args args)
// The same with at most `threads` a block, and so many registers that `blocks` fit a multiprocessor.
#define WEIR_KERNEL_BOUNDED(name, Args, threads, blocks) \
  extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Args args)
#define WEIR_DEVICE __device__ __forceinline__

namespace weir::device {

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffU;

WEIR_DEVICE int lane() {
  return static_cast<int>(threadIdx.x) % kWarp;
}
WEIR_DEVICE int warp() {
  return static_cast<int>(threadIdx.x) / kWarp;
}

// Sum over the lanes of a warp; every lane gets the same bits, in an order that does not depend on anything.
WEIR_DEVICE float warp_sum(float value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, distance);
  }
  return value;
}
WEIR_DEVICE float warp_max(float value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, distance));
  }
  return value;
}

// The largest of a warp's numbers.
WEIR_DEVICE uint32_t warp_max(uint32_t value) {
  return __reduce_max_sync(kAllLanes, value);
}

// Sum over a block of kThreads threads, the same bits in every thread. `scratch`: kThreads / 32 floats of shared
// memory; may be used again after the caller's next barrier.
template <int kThreads>
WEIR_DEVICE float block_sum(float value, float* scratch) {
  value = warp_sum(value);
  __syncthreads();
  if (lane() == 0) scratch[warp()] = value;
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < kThreads / kWarp; ++i) sum += scratch[i];
  return sum;
}

WEIR_DEVICE float bf16(uint16_t bits) {
  return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}

// Two e4m3 codes, the low byte first. Exact; NaN codes become NaN.
WEIR_DEVICE float2 fp8x2(uint16_t codes) {
  const __half2_raw halves = __nv_cvt_fp8x2_to_halfraw2(codes, __NV_E4M3);
  return __half22float2(__half2(halves));
}

// 2^(code - 127); 0 is 2^-127.
WEIR_DEVICE float e8m0(uint8_t code) {
  return __uint_as_float(code == 0 ? 0x00400000U : static_cast<uint32_t>(code) << 23);
}

// One E2M1 code (0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives).
WEIR_DEVICE float e2m1(uint32_t code) {
  const uint32_t exponent = (code >> 1) & 3U;
  const uint32_t mantissa = code & 1U;
  const uint32_t magnitude =
      exponent == 0 ? (mantissa != 0 ? 0x3f000000U : 0U) : ((exponent + 126U) << 23) | (mantissa << 22);
  return __uint_as_float(magnitude | ((code & 8U) << 28));
}

// To about 2 units in the last place, one instruction each; subnormal numbers are zeros.
WEIR_DEVICE float fast_exp2(float x) {
  float out;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
  return out;
}
WEIR_DEVICE float fast_reciprocal(float x) {
  float out;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
  return out;
}
WEIR_DEVICE float fast_rsqrt(float x) {
  float out;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
  return out;
}

WEIR_DEVICE float fast_exp(float x) {
  return fast_exp2(x * 1.4426950408889634F);
}
WEIR_DEVICE float fast_silu(float x) {
  return x * fast_reciprocal(1.0F + fast_exp(-x));
}

// Adds up each of kCount numbers, a power of two, over every kCount lanes that follow each other; the lane gets the sum
// of number `which`. Each exchange halves how many numbers a lane adds up.
template <int kCount>
WEIR_DEVICE float spread_sums(float (&x)[kCount], int* which) {
  *which = 0;
#pragma unroll
  for (int distance = 1; distance < kCount; distance *= 2) {
    const int left = kCount / 2 / distance;
    const bool upper = (lane() & distance) != 0;
#pragma unroll
    for (int i = 0; i < left; ++i) {
      const float given = upper ? x[i] : x[i + left];
      const float kept = upper ? x[i + left] : x[i];
      x[i] = kept + __shfl_xor_sync(kAllLanes, given, distance);
    }
    *which += upper ? left : 0;
  }
  return x[0];
}

WEIR_DEVICE float sigmoid(float x) {
  return 1.0F / (1.0F + expf(-x));
}
WEIR_DEVICE float silu(float x) {
  return x / (1.0F + expf(-x));
}

}  // namespace weir::device
