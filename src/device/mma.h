// For kernel files: matrix products of a warp, D[16, 8] += A[16, K] B[K, 8], and the loads that feed them. Lane l holds
// row l / 4 and l / 4 + 8 of A and D, column l / 4 of B; within them the elements that its l % 4 names:
// A (bf16): a[0] = row g, k 2t..2t+1; a[1] = row g + 8, the same; a[2], a[3] = the same rows, k + 8. B: b[0] = k
// 2t..2t+1 of column g, b[1] = k + 8. D: d[0], d[1] = row g, columns 2t, 2t+1; d[2], d[3] = row g + 8. g = l / 4, t = l
// % 4.
#pragma once

#include "device/kernel.h"

namespace weir::device {

// Two floats rounded to bf16 (to nearest, ties to even), `low` in the lower half.
WEIR_DEVICE uint32_t bf16x2(float low, float high) {
  uint32_t out;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}
WEIR_DEVICE float bf16_low(uint32_t pair) {
  return __uint_as_float(pair << 16);
}
WEIR_DEVICE float bf16_high(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000U);
}
// One float rounded to bf16.
WEIR_DEVICE uint16_t to_bf16(float x) {
  return static_cast<uint16_t>(bf16x2(x, 0.0F));
}

// Two bf16 products, each rounded to bf16; subnormal numbers count.
WEIR_DEVICE uint32_t multiply_bf16x2(uint32_t a, uint32_t b) {
  uint32_t out;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
  return out;
}

// One half of a pair twice; products take it from the pair, without an instruction of its own.
WEIR_DEVICE uint32_t low_twice(uint32_t pair) {
  uint32_t out;
  asm("{\n"
      ".reg .b16 l, h;\n"
      "mov.b32 {l, h}, %1;\n"
      "mov.b32 %0, {l, l};\n"
      "}\n"
      : "=r"(out)
      : "r"(pair));
  return out;
}
WEIR_DEVICE uint32_t high_twice(uint32_t pair) {
  uint32_t out;
  asm("{\n"
      ".reg .b16 l, h;\n"
      "mov.b32 {l, h}, %1;\n"
      "mov.b32 %0, {h, h};\n"
      "}\n"
      : "=r"(out)
      : "r"(pair));
  return out;
}

// K = 16, bf16 operands, float32 sums.
WEIR_DEVICE void mma_bf16(float* d, const uint32_t* a, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two floats rounded to IEEE half precision (to nearest, ties to even; what is too large becomes the largest), `low` in
// the lower half: as many bits of mantissa as tf32 in half the bytes, for values within 6e-5 .. 65504.
WEIR_DEVICE uint32_t f16x2(float low, float high) {
  uint32_t out;
  asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}
WEIR_DEVICE float f16_low(uint32_t pair) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(pair & 0xffffU)));
}
WEIR_DEVICE float f16_high(uint32_t pair) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(pair >> 16)));
}
// K = 16, half precision operands in the places of mma_bf16, float32 sums.
WEIR_DEVICE void mma_f16(float* d, const uint32_t* a, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// K = 8: a[0], a[1] and b alone.
WEIR_DEVICE void mma_f16_of_8(float* d, const uint32_t* a, uint32_t b) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(b));
}

// Four e4m3 codes, the lowest byte first, as two pairs of f16: exact; NaN codes become NaN.
WEIR_DEVICE void fp8_to_f16x4(uint32_t codes, uint32_t* low, uint32_t* high) {
  asm("{\n"
      ".reg .b16 l, h;\n"
      "mov.b32 {l, h}, %2;\n"
      "cvt.rn.f16x2.e4m3x2 %0, l;\n"
      "cvt.rn.f16x2.e4m3x2 %1, h;\n"
      "}\n"
      : "=r"(*low), "=r"(*high)
      : "r"(codes));
}

// Two floats rounded to e4m3 (to nearest, ties to even; what is too large becomes the largest), `low` in the lower
// byte.
WEIR_DEVICE uint32_t to_fp8x2(float low, float high) {
  uint16_t out;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(out) : "f"(high), "f"(low));
  return out;
}

// A float rounded to tf32 (10 bits of mantissa), to nearest.
WEIR_DEVICE uint32_t to_tf32(float x) {
  uint32_t out;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(out) : "f"(x));
  return out;
}
// K = 8, tf32 operands: a[0] = (g, t), a[1] = (g + 8, t), a[2] = (g, t + 4), a[3] = (g + 8, t + 4); b0 = k t, b1 = k t
// + 4.
WEIR_DEVICE void mma_tf32(float* d, const uint32_t* a, uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8 x 8 matrices of 16-bit values from shared memory: lane l gives the address of row l % 8 of matrix l / 8 (16
// bytes); out[i]: row l / 4, columns 2 (l % 4) and the next, of matrix i.
WEIR_DEVICE void load_matrices(uint32_t* out, uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address)
               : "memory");
}
// The same, each matrix transposed.
WEIR_DEVICE void load_matrices_transposed(uint32_t* out, uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address)
               : "memory");
}

// Two floats rounded to f16 or bf16.
WEIR_DEVICE uint32_t half_pair(bool f16, float low, float high) {
  return f16 ? f16x2(low, high) : bf16x2(low, high);
}

}  // namespace weir::device
