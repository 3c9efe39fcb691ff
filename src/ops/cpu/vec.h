// Sixteen float32 lanes with the same arithmetic in every instruction set. Included only by kernel sources, which are
// compiled once per instruction set into the namespace WEIR_ISA; nothing here may be a plain inline function, or the
// linker could pick a copy that the machine cannot run.
//
// Every operation is correctly rounded or exact (fused multiply-add written out, no contraction), so the same sequence
// of calls gives the same bits everywhere. maximum(a, b) is a > b ? a : b and minimum(a, b) is a < b ? a : b: with the
// constant first, a NaN passes through.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define WEIR_VEC static inline __attribute__((always_inline))

namespace weir::WEIR_ISA {

inline constexpr int64_t kLanes = 16;

// An e4m3 code's value times 2^-8. That factor, the difference of the exponent biases of e4m3 and half precision, makes
// one decoder a shift; the packed scales carry 2^8. 2^-17 is the step of the scaled subnormals; 112 = 127 - 7 - 8.
constexpr float fp8_scaled(uint32_t code) {
  const uint32_t exponent = code >> 3U & 15U;
  const uint32_t mantissa = code & 7U;
  const float magnitude = exponent == 0 ? static_cast<float>(mantissa) * 0x1p-17F
                                        : __builtin_bit_cast(float, (exponent + 112U) << 23U | mantissa << 20U);
  return (code & 128U) != 0 ? -magnitude : magnitude;
}

#if defined(__AVX512F__)

struct Vec {
  __m512 v;
};
struct VecI {
  __m512i v;
};

WEIR_VEC __mmask16 low_mask(int64_t n) {
  return static_cast<__mmask16>((1U << static_cast<uint32_t>(n)) - 1U);
}
WEIR_VEC Vec zero() {
  return {_mm512_setzero_ps()};
}
WEIR_VEC Vec splat(float x) {
  return {_mm512_set1_ps(x)};
}
WEIR_VEC Vec load(const float* p) {
  return {_mm512_loadu_ps(p)};
}
WEIR_VEC void store(float* p, Vec a) {
  _mm512_storeu_ps(p, a.v);
}
WEIR_VEC Vec load_n(const float* p, int64_t n) {
  return {_mm512_maskz_loadu_ps(low_mask(n), p)};
}
WEIR_VEC void store_n(float* p, Vec a, int64_t n) {
  _mm512_mask_storeu_ps(p, low_mask(n), a.v);
}
WEIR_VEC Vec add(Vec a, Vec b) {
  return {_mm512_add_ps(a.v, b.v)};
}
WEIR_VEC Vec sub(Vec a, Vec b) {
  return {_mm512_sub_ps(a.v, b.v)};
}
WEIR_VEC Vec mul(Vec a, Vec b) {
  return {_mm512_mul_ps(a.v, b.v)};
}
WEIR_VEC Vec div(Vec a, Vec b) {
  return {_mm512_div_ps(a.v, b.v)};
}
WEIR_VEC Vec fma(Vec a, Vec b, Vec c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
WEIR_VEC Vec maximum(Vec a, Vec b) {
  return {_mm512_max_ps(a.v, b.v)};
}
WEIR_VEC Vec minimum(Vec a, Vec b) {
  return {_mm512_min_ps(a.v, b.v)};
}
// a < b ? x : y, lane by lane.
WEIR_VEC Vec select_less(Vec a, Vec b, Vec x, Vec y) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v)};
}
// The first n lanes of x, the others of y; n in [0, 16].
WEIR_VEC Vec select_first(int64_t n, Vec x, Vec y) {
  return {_mm512_mask_blend_ps(low_mask(n), y.v, x.v)};
}
WEIR_VEC VecI bits(Vec a) {
  return {_mm512_castps_si512(a.v)};
}
WEIR_VEC Vec from_bits(VecI a) {
  return {_mm512_castsi512_ps(a.v)};
}
WEIR_VEC VecI splat_i(int32_t x) {
  return {_mm512_set1_epi32(x)};
}
WEIR_VEC VecI add(VecI a, VecI b) {
  return {_mm512_add_epi32(a.v, b.v)};
}
WEIR_VEC VecI sub(VecI a, VecI b) {
  return {_mm512_sub_epi32(a.v, b.v)};
}
WEIR_VEC VecI bit_and(VecI a, VecI b) {
  return {_mm512_and_si512(a.v, b.v)};
}
template <int kCount>
WEIR_VEC VecI shift_left(VecI a) {
  return {_mm512_slli_epi32(a.v, kCount)};
}
template <int kCount>
WEIR_VEC VecI shift_right(VecI a) {
  return {_mm512_srai_epi32(a.v, kCount)};
}
WEIR_VEC Vec to_float(VecI a) {
  return {_mm512_cvtepi32_ps(a.v)};
}

// Stored values as float32. FP8 comes in groups of four k of a tile, 64 bytes: byte 16 q + 4 j + i is column 4 q + i of
// the group's j-th k, so that unpacking bytes within 128 bits leaves the columns in order.
WEIR_VEC Vec decode_bf16(const std::byte* p) {
  const __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16))};
}
// The high and low byte of the bfloat16 number that is a code's magnitude times 2^-8.
struct Fp8Bytes {
  alignas(64) uint8_t high[128];
  alignas(64) uint8_t low[128];
};
constexpr Fp8Bytes make_fp8_bytes() {
  Fp8Bytes bytes{};
  for (uint32_t code = 0; code < 128; ++code) {
    const uint32_t bits = __builtin_bit_cast(uint32_t, fp8_scaled(code));
    bytes.high[code] = static_cast<uint8_t>(bits >> 24U);
    bytes.low[code] = static_cast<uint8_t>(bits >> 16U & 255U);
  }
  return bytes;
}
inline constexpr Fp8Bytes kFp8Bytes = make_fp8_bytes();

// Looked up bytewise (every e4m3 value is a bfloat16 number), then spread to 32 bits.
WEIR_VEC void decode_fp8(const std::byte* p, Vec* w) {
  const __m512i codes = _mm512_loadu_si512(p);
  const __m512i magnitude =
      _mm512_permutex2var_epi8(_mm512_load_si512(kFp8Bytes.high), codes, _mm512_load_si512(kFp8Bytes.high + 64));
  const __m512i low =
      _mm512_permutex2var_epi8(_mm512_load_si512(kFp8Bytes.low), codes, _mm512_load_si512(kFp8Bytes.low + 64));
  constexpr int kOrAnd = 0xf8;  // a | (b & c)
  const __m512i high = _mm512_ternarylogic_epi32(magnitude, codes, _mm512_set1_epi8(-128), kOrAnd);
  const __m512i first = _mm512_unpacklo_epi8(low, high);
  const __m512i second = _mm512_unpackhi_epi8(low, high);
  const __m512i none = _mm512_setzero_si512();
  w[0].v = _mm512_castsi512_ps(_mm512_unpacklo_epi16(none, first));
  w[1].v = _mm512_castsi512_ps(_mm512_unpackhi_epi16(none, first));
  w[2].v = _mm512_castsi512_ps(_mm512_unpacklo_epi16(none, second));
  w[3].v = _mm512_castsi512_ps(_mm512_unpackhi_epi16(none, second));
}
// Two rows of sixteen E2M1 values: low nibbles, then high nibbles.
WEIR_VEC void decode_mxfp4(const std::byte* p, Vec* low, Vec* high) {
  const __m512 values = _mm512_setr_ps(0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F, -0.0F, -0.5F, -1.0F, -1.5F,
                                       -2.0F, -3.0F, -4.0F, -6.0F);
  const __m512i codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  low->v = _mm512_permutexvar_ps(codes, values);  // takes the low four bits of each index
  high->v = _mm512_permutexvar_ps(_mm512_srli_epi32(codes, 4), values);
}
WEIR_VEC VecI widen_u8(const std::byte* p) {
  return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
WEIR_VEC VecI maximum(VecI a, VecI b) {
  return {_mm512_max_epi32(a.v, b.v)};
}
WEIR_VEC Vec square_root(Vec a) {
  return {_mm512_sqrt_ps(a.v)};
}

#elif defined(__AVX2__)

struct Vec {
  __m256 a;
  __m256 b;
};
struct VecI {
  __m256i a;
  __m256i b;
};

WEIR_VEC Vec zero() {
  return {_mm256_setzero_ps(), _mm256_setzero_ps()};
}
WEIR_VEC Vec splat(float x) {
  return {_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
WEIR_VEC Vec load(const float* p) {
  return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
WEIR_VEC void store(float* p, Vec x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
WEIR_VEC __m256i low_mask(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int32_t>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
WEIR_VEC Vec load_n(const float* p, int64_t n) {
  return {_mm256_maskload_ps(p, low_mask(n)), _mm256_maskload_ps(p + 8, low_mask(n - 8))};
}
WEIR_VEC void store_n(float* p, Vec x, int64_t n) {
  _mm256_maskstore_ps(p, low_mask(n), x.a);
  _mm256_maskstore_ps(p + 8, low_mask(n - 8), x.b);
}
WEIR_VEC Vec add(Vec x, Vec y) {
  return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
WEIR_VEC Vec sub(Vec x, Vec y) {
  return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
WEIR_VEC Vec mul(Vec x, Vec y) {
  return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
WEIR_VEC Vec div(Vec x, Vec y) {
  return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
WEIR_VEC Vec fma(Vec x, Vec y, Vec z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
WEIR_VEC Vec maximum(Vec x, Vec y) {
  return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
WEIR_VEC Vec minimum(Vec x, Vec y) {
  return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}
WEIR_VEC Vec select_less(Vec s, Vec t, Vec x, Vec y) {
  return {_mm256_blendv_ps(y.a, x.a, _mm256_cmp_ps(s.a, t.a, _CMP_LT_OQ)),
          _mm256_blendv_ps(y.b, x.b, _mm256_cmp_ps(s.b, t.b, _CMP_LT_OQ))};
}
WEIR_VEC Vec select_first(int64_t n, Vec x, Vec y) {
  return {_mm256_blendv_ps(y.a, x.a, _mm256_castsi256_ps(low_mask(n))),
          _mm256_blendv_ps(y.b, x.b, _mm256_castsi256_ps(low_mask(n - 8)))};
}
WEIR_VEC VecI bits(Vec x) {
  return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)};
}
WEIR_VEC Vec from_bits(VecI x) {
  return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)};
}
WEIR_VEC VecI splat_i(int32_t x) {
  return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
}
WEIR_VEC VecI add(VecI x, VecI y) {
  return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
WEIR_VEC VecI sub(VecI x, VecI y) {
  return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)};
}
WEIR_VEC VecI bit_and(VecI x, VecI y) {
  return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)};
}
template <int kCount>
WEIR_VEC VecI shift_left(VecI x) {
  return {_mm256_slli_epi32(x.a, kCount), _mm256_slli_epi32(x.b, kCount)};
}
template <int kCount>
WEIR_VEC VecI shift_right(VecI x) {
  return {_mm256_srai_epi32(x.a, kCount), _mm256_srai_epi32(x.b, kCount)};
}
WEIR_VEC Vec to_float(VecI x) {
  return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)};
}
WEIR_VEC Vec decode_bf16(const std::byte* p) {
  const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(low), 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(high), 16))};
}
// Sixteen codes times 2^-8: the code's bits moved into a half-precision number.
WEIR_VEC Vec fp8_row(__m128i codes) {
  const __m256i wide = _mm256_cvtepi8_epi16(codes);
  const __m256i half = _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16(static_cast<int16_t>(0xbf80)));
  return {_mm256_cvtph_ps(_mm256_castsi256_si128(half)), _mm256_cvtph_ps(_mm256_extracti128_si256(half, 1))};
}
WEIR_VEC void decode_fp8(const std::byte* p, Vec* w) {
  const auto* q = reinterpret_cast<const __m128i*>(p);
  const __m128i a = _mm_loadu_si128(q);
  const __m128i b = _mm_loadu_si128(q + 1);
  const __m128i c = _mm_loadu_si128(q + 2);
  const __m128i d = _mm_loadu_si128(q + 3);
  const __m128i ab01 = _mm_unpacklo_epi32(a, b);
  const __m128i ab23 = _mm_unpackhi_epi32(a, b);
  const __m128i cd01 = _mm_unpacklo_epi32(c, d);
  const __m128i cd23 = _mm_unpackhi_epi32(c, d);
  w[0] = fp8_row(_mm_unpacklo_epi64(ab01, cd01));
  w[1] = fp8_row(_mm_unpackhi_epi64(ab01, cd01));
  w[2] = fp8_row(_mm_unpacklo_epi64(ab23, cd23));
  w[3] = fp8_row(_mm_unpackhi_epi64(ab23, cd23));
}
WEIR_VEC __m256 e2m1(__m256i codes) {
  const __m256 values = _mm256_setr_ps(0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F);
  const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(codes, _mm256_set1_epi32(8)), 28);
  return _mm256_or_ps(_mm256_permutevar8x32_ps(values, codes), _mm256_castsi256_ps(sign));
}
WEIR_VEC void decode_mxfp4(const std::byte* p, Vec* low, Vec* high) {
  const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  const __m256i a = _mm256_cvtepu8_epi32(raw);
  const __m256i b = _mm256_cvtepu8_epi32(_mm_srli_si128(raw, 8));
  *low = {e2m1(a), e2m1(b)};
  *high = {e2m1(_mm256_srli_epi32(a, 4)), e2m1(_mm256_srli_epi32(b, 4))};
}
WEIR_VEC VecI widen_u8(const std::byte* p) {
  const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepu8_epi32(raw), _mm256_cvtepu8_epi32(_mm_srli_si128(raw, 8))};
}
WEIR_VEC VecI maximum(VecI x, VecI y) {
  return {_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)};
}
WEIR_VEC Vec square_root(Vec x) {
  return {_mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b)};
}

#else

struct Vec {
  float v[kLanes];
};
struct VecI {
  int32_t v[kLanes];
};

// Calls f(lane) for every lane and collects the results.
template <class Function>
WEIR_VEC Vec lanes(const Function& f) {
  Vec r;
  for (int i = 0; i < kLanes; ++i) r.v[i] = f(i);
  return r;
}
template <class Function>
WEIR_VEC VecI lanes_i(const Function& f) {
  VecI r;
  for (int i = 0; i < kLanes; ++i) r.v[i] = f(i);
  return r;
}

WEIR_VEC Vec zero() {
  return Vec{};
}
WEIR_VEC Vec splat(float x) {
  return lanes([&](int) { return x; });
}
WEIR_VEC Vec load(const float* p) {
  return lanes([&](int i) { return p[i]; });
}
WEIR_VEC void store(float* p, Vec a) {
  for (int i = 0; i < kLanes; ++i) p[i] = a.v[i];
}
WEIR_VEC Vec load_n(const float* p, int64_t n) {
  return lanes([&](int i) { return i < n ? p[i] : 0.0F; });
}
WEIR_VEC void store_n(float* p, Vec a, int64_t n) {
  for (int i = 0; i < n; ++i) p[i] = a.v[i];
}
WEIR_VEC Vec add(Vec a, Vec b) {
  return lanes([&](int i) { return a.v[i] + b.v[i]; });
}
WEIR_VEC Vec sub(Vec a, Vec b) {
  return lanes([&](int i) { return a.v[i] - b.v[i]; });
}
WEIR_VEC Vec mul(Vec a, Vec b) {
  return lanes([&](int i) { return a.v[i] * b.v[i]; });
}
WEIR_VEC Vec div(Vec a, Vec b) {
  return lanes([&](int i) { return a.v[i] / b.v[i]; });
}
WEIR_VEC Vec fma(Vec a, Vec b, Vec c) {
  return lanes([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
}
WEIR_VEC Vec maximum(Vec a, Vec b) {
  return lanes([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
WEIR_VEC Vec minimum(Vec a, Vec b) {
  return lanes([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
WEIR_VEC Vec select_less(Vec a, Vec b, Vec x, Vec y) {
  return lanes([&](int i) { return a.v[i] < b.v[i] ? x.v[i] : y.v[i]; });
}
WEIR_VEC Vec select_first(int64_t n, Vec x, Vec y) {
  return lanes([&](int i) { return i < n ? x.v[i] : y.v[i]; });
}
WEIR_VEC VecI bits(Vec a) {
  return lanes_i([&](int i) { return __builtin_bit_cast(int32_t, a.v[i]); });
}
WEIR_VEC Vec from_bits(VecI a) {
  return lanes([&](int i) { return __builtin_bit_cast(float, a.v[i]); });
}
WEIR_VEC VecI splat_i(int32_t x) {
  return lanes_i([&](int) { return x; });
}
// Wraps around, as the vector instructions do.
WEIR_VEC VecI add(VecI a, VecI b) {
  return lanes_i(
      [&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) + static_cast<uint32_t>(b.v[i])); });
}
WEIR_VEC VecI sub(VecI a, VecI b) {
  return lanes_i(
      [&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) - static_cast<uint32_t>(b.v[i])); });
}
WEIR_VEC VecI bit_and(VecI a, VecI b) {
  return lanes_i([&](int i) { return a.v[i] & b.v[i]; });
}
template <int kCount>
WEIR_VEC VecI shift_left(VecI a) {
  return lanes_i([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) << kCount); });
}
template <int kCount>
WEIR_VEC VecI shift_right(VecI a) {
  return lanes_i([&](int i) { return a.v[i] >> kCount; });
}
WEIR_VEC Vec to_float(VecI a) {
  return lanes([&](int i) { return static_cast<float>(a.v[i]); });
}
WEIR_VEC Vec decode_bf16(const std::byte* p) {
  return lanes([&](int i) {
    const uint32_t raw = static_cast<uint32_t>(p[2 * i]) | static_cast<uint32_t>(p[2 * i + 1]) << 8U;
    return __builtin_bit_cast(float, raw << 16U);
  });
}
WEIR_VEC void decode_fp8(const std::byte* p, Vec* w) {
  for (int j = 0; j < 4; ++j) {
    w[j] = lanes([&](int n) { return fp8_scaled(static_cast<uint32_t>(p[n / 4 * 16 + j * 4 + n % 4])); });
  }
}
WEIR_VEC float e2m1(uint32_t code) {
  constexpr float kValues[8] = {0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F};
  return (code & 8U) != 0 ? -kValues[code & 7U] : kValues[code & 7U];
}
WEIR_VEC void decode_mxfp4(const std::byte* p, Vec* low, Vec* high) {
  *low = lanes([&](int i) { return e2m1(static_cast<uint32_t>(p[i]) & 15U); });
  *high = lanes([&](int i) { return e2m1(static_cast<uint32_t>(p[i]) >> 4U); });
}
WEIR_VEC VecI widen_u8(const std::byte* p) {
  return lanes_i([&](int i) { return static_cast<int32_t>(p[i]); });
}
WEIR_VEC VecI maximum(VecI a, VecI b) {
  return lanes_i([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
WEIR_VEC Vec square_root(Vec a) {
  return lanes([&](int i) { return __builtin_sqrtf(a.v[i]); });
}

#endif

// E8M0 scales: 2^(code - 127); code 0 is the subnormal 2^-127, code 255 reads as infinity.
WEIR_VEC Vec decode_e8m0(const std::byte* p) {
  return from_bits(maximum(shift_left<23>(widen_u8(p)), splat_i(0x00400000)));
}

// The sum of the lanes, pairwise: 16 to 8 to 4 to 2 to 1.
WEIR_VEC float sum_lanes(Vec a) {
  float v[kLanes];
  store(v, a);
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) v[i] = v[i] + v[i + half];
  }
  return v[0];
}

WEIR_VEC float max_lanes(Vec a) {
  float v[kLanes];
  store(v, a);
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) v[i] = v[i] > v[i + half] ? v[i] : v[i + half];
  }
  return v[0];
}

}  // namespace weir::WEIR_ISA
