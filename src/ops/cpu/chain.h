// C[m, n] = C + A[m, k] B[k, n] as one chain of fused multiply-adds per element in ascending k. The chain of an element
// is the same whatever tile of rows and columns it is computed in, which is what makes every operation row-invariant.
#pragma once

#include "ops/cpu/vec.h"

namespace weir::WEIR_ISA {

// Rows of the register tile: 6 x 4 vectors are 24 of AVX-512's 32 registers, 6 x 1 pairs are 12 of AVX2's 16. Scalar
// code has nothing to gain from rows; two keep the path with several rows alive.
#if defined(__AVX2__)
inline constexpr int kTileRowsMax = 6;
#else
inline constexpr int kTileRowsMax = 2;
#endif

// Calls f.template operator()<rows>() for rows in [1, kTileRowsMax].
template <int kRows = kTileRowsMax, class Function>
WEIR_VEC void with_rows(int rows, const Function& f) {
  if constexpr (kRows == 1) {
    f.template operator()<1>();
  } else {
    if (rows == kRows) {
      f.template operator()<kRows>();
    } else {
      with_rows<kRows - 1>(rows, f);
    }
  }
}

// Vectors of the register tile for so many rows; few rows need several chains in flight to hide the latency.
constexpr int tile_vectors([[maybe_unused]] int rows) {
#if defined(__AVX512F__)
  return 4;
#elif defined(__AVX2__)
  return rows == 1 ? 4 : (rows == 2 ? 2 : 1);
#else
  return 1;
#endif
}

// The same for products whose rows of B lie one behind the other: one or two rows take whole lines of 512 bytes, so
// that B is read as a single stream.
constexpr int chain_vectors(int rows) {
#if defined(__AVX512F__)
  return rows <= 2 ? 8 : tile_vectors(rows);
#else
  return tile_vectors(rows);
#endif
}

enum class Start { kZero, kC };

template <int kRows, int kVectors, Start kStart>
WEIR_VEC void chain_tile(const float* const* a, const float* b, int64_t b_stride, int64_t k, float* c,
                         int64_t c_stride) {
  Vec sum[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kVectors; ++t)
      sum[r][t] = kStart == Start::kZero ? zero() : load(c + r * c_stride + t * kLanes);
  }
  for (int64_t i = 0; i < k; ++i, b += b_stride) {
    Vec w[kVectors];
    for (int t = 0; t < kVectors; ++t) w[t] = load(b + t * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const Vec x = splat(a[r][i]);
      for (int t = 0; t < kVectors; ++t) sum[r][t] = fma(x, w[t], sum[r][t]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kVectors; ++t) store(c + r * c_stride + t * kLanes, sum[r][t]);
  }
}

template <int kRows, Start kStart>
static void chain_columns(const float* const* a, const float* b, int64_t b_stride, int64_t vectors, int64_t k, float* c,
                          int64_t c_stride) {
  constexpr int kVectors = chain_vectors(kRows);
  constexpr int kHalf = kVectors / 2;
  const float* rows[kRows];
  for (int r = 0; r < kRows; ++r) rows[r] = a[r];
  int64_t t = 0;
  for (; t + kVectors <= vectors; t += kVectors) {
    chain_tile<kRows, kVectors, kStart>(rows, b + t * kLanes, b_stride, k, c + t * kLanes, c_stride);
  }
  if constexpr (kHalf > 1) {
    for (; t + kHalf <= vectors; t += kHalf) {
      chain_tile<kRows, kHalf, kStart>(rows, b + t * kLanes, b_stride, k, c + t * kLanes, c_stride);
    }
  }
  if constexpr (kVectors > 1) {
    for (; t < vectors; ++t) {
      chain_tile<kRows, 1, kStart>(rows, b + t * kLanes, b_stride, k, c + t * kLanes, c_stride);
    }
  }
}

// The next group of rows out of `left`: groups of nearly equal size, at most kTileRowsMax.
WEIR_VEC int next_rows(int64_t left) {
  const int64_t groups = (left + kTileRowsMax - 1) / kTileRowsMax;
  return static_cast<int>((left + groups - 1) / groups);
}

// A as pointers to rows, B row-major, C row-major with `vectors` * 16 columns.
template <Start kStart>
WEIR_VEC void chain_rows(const float* const* a, int64_t m, const float* b, int64_t b_stride, int64_t vectors, int64_t k,
                         float* c, int64_t c_stride) {
  for (int64_t row = 0; row < m;) {
    const int rows = next_rows(m - row);
    const float* const* part = a + row;
    float* out = c + row * c_stride;
    with_rows(rows, [&]<int kRows>() { chain_columns<kRows, kStart>(part, b, b_stride, vectors, k, out, c_stride); });
    row += rows;
  }
}

}  // namespace weir::WEIR_ISA
