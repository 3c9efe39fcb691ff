// For kernel files: products of one strip of packed weights with up to 8 rows per column tile, block of K by block, as
// ops/linear/packed.h states them.
#pragma once

#include "device/mma.h"
#include "ops/linear/mxfp4_word.h"
#include "ops/linear/packed.h"

namespace weir {

// A lane's registers of the four steps of a tile: a[step][register].
template <int kFormat>
struct PackedTile;

template <>
struct PackedTile<kGpuBf16> {
  static constexpr int kBytes = packed_tile_bytes(kGpuBf16);
  WEIR_DEVICE static void load(const uint8_t* tile, uint32_t (&a)[4][4]) {
    const auto* planes = reinterpret_cast<const uint4*>(tile) + device::lane();
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint4 words = planes[j * device::kWarp];
      a[j][0] = words.x;
      a[j][1] = words.y;
      a[j][2] = words.z;
      a[j][3] = words.w;
    }
  }
};

template <>
struct PackedTile<kGpuFp8Block> {
  static constexpr int kBytes = packed_tile_bytes(kGpuFp8Block);
  WEIR_DEVICE static void load(const uint8_t* tile, uint32_t (&a)[4][4]) {
    const auto* planes = reinterpret_cast<const uint4*>(tile) + device::lane();
    const uint4 low = planes[0];
    const uint4 high = planes[device::kWarp];
    const uint32_t lows[4] = {low.x, low.y, low.z, low.w};
    const uint32_t highs[4] = {high.x, high.y, high.z, high.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      device::fp8_to_f16x4(lows[j], &a[j][0], &a[j][2]);
      device::fp8_to_f16x4(highs[j], &a[j][1], &a[j][3]);
    }
  }
};

template <>
struct PackedTile<kGpuMxfp4> {
  static constexpr int kBytes = packed_tile_bytes(kGpuMxfp4);
  WEIR_DEVICE static void load(const uint8_t* tile, uint32_t (&a)[4][4]) {
    const uint4 codes = reinterpret_cast<const uint4*>(tile)[device::lane()];
    const uint32_t scales = reinterpret_cast<const uint32_t*>(tile + 512)[device::lane() / 4];
    const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) mxfp4_unpack(words[j], a[j]);
    multiply(a, mxfp4_factors(scales, 0), mxfp4_factors(scales, 1));
    if (mxfp4_has_large(scales)) [[unlikely]] {
      const uint32_t large[2] = {mxfp4_large_factors(scales, 0), mxfp4_large_factors(scales, 1)};
      multiply(a, large[0], large[1]);
      multiply(a, large[0], large[1]);
    }
  }

 private:
  // Steps 0 and 1 by `first`, 2 and 3 by `second`: row g by the lower half, row g + 8 by the upper one.
  WEIR_DEVICE static void multiply(uint32_t (&a)[4][4], uint32_t first, uint32_t second) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint32_t pair = j < 2 ? first : second;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t factor = i % 2 == 0 ? device::low_twice(pair) : device::high_twice(pair);
        a[j][i] = device::multiply_bf16x2(a[j][i], factor);
      }
    }
  }
};

template <int kFormat>
WEIR_DEVICE void packed_mma(float* d, const uint32_t* a, uint32_t b0, uint32_t b1) {
  if constexpr (operand_type(kFormat) == kOperandF16) {
    device::mma_f16(d, a, b0, b1);
  } else {
    device::mma_bf16(d, a, b0, b1);
  }
}

// d[unit][tile of 8 columns][4] = the products of kUnits blocks of K, kTiles tiles each, of weights in shared memory.
// `columns[unit][c]`: the shared address of this lane's part of B at the block's first k: row l % 8 of column tile c, k
// 8 (l / 8), so that load_matrices() brings 32 k. Units are independent chains, side by side.
template <int kFormat, int kUnits, int kTiles8, int kTiles>
WEIR_DEVICE void block_products(const uint8_t* const (&weights)[kUnits], const uint32_t (&columns)[kUnits][kTiles8],
                                float (&d)[kUnits][kTiles8][4]) {
#pragma unroll
  for (int u = 0; u < kUnits; ++u) {
#pragma unroll
    for (int c = 0; c < kTiles8; ++c) {
#pragma unroll
      for (int i = 0; i < 4; ++i) d[u][c][i] = 0;
    }
  }
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    uint32_t a[kUnits][4][4];
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      PackedTile<kFormat>::load(weights[u] + tile * PackedTile<kFormat>::kBytes, a[u]);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t b[kUnits][kTiles8][4];
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
#pragma unroll
        for (int c = 0; c < kTiles8; ++c) {
          device::load_matrices(b[u][c], columns[u][c] + static_cast<uint32_t>(tile * kTileK + half * 32) * 2U);
        }
      }
#pragma unroll
      for (int step = 0; step < 2; ++step) {
#pragma unroll
        for (int u = 0; u < kUnits; ++u) {
#pragma unroll
          for (int c = 0; c < kTiles8; ++c) {
            packed_mma<kFormat>(d[u][c], a[u][2 * half + step], b[u][c][2 * step], b[u][c][2 * step + 1]);
          }
        }
      }
    }
  }
}

// Calls f.template operator()<format>() for a packed format known at run time.
template <class Function>
WEIR_DEVICE void with_packed_format(int32_t format, const Function& f) {
  switch (format) {
    case kGpuBf16:
      return f.template operator()<kGpuBf16>();
    case kGpuMxfp4:
      return f.template operator()<kGpuMxfp4>();
    default:
      return f.template operator()<kGpuFp8Block>();
  }
}

}  // namespace weir
