// For kernel files: products of one strip of packed weights with up to 8 rows per column tile, block of K by block, as
// ops/linear/packed.h states them.
#pragma once

#include "device/mma.h"
#include "ops/linear/packed.h"

namespace weir {

inline constexpr uint32_t kBf16Two120 = 0x7b807b80U;  // 2^120, twice: what moves e4m3 exponents to bf16's
inline constexpr uint32_t kBf16Two126 = 0x7e807e80U;  // 2^126: the same for e2m1

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

// Bytes 0 and 2 (even), or 1 and 3 (odd), of four e4m3 codes as bf16. NaN codes become 480.
WEIR_DEVICE uint32_t fp8_even(uint32_t codes) {
  return device::multiply_bf16x2(((codes << 8) & 0x80008000U) | ((codes << 4) & 0x07f007f0U), kBf16Two120);
}
WEIR_DEVICE uint32_t fp8_odd(uint32_t codes) {
  return device::multiply_bf16x2((codes & 0x80008000U) | ((codes >> 4) & 0x07f007f0U), kBf16Two120);
}

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
      a[j][0] = fp8_even(lows[j]);
      a[j][1] = fp8_even(highs[j]);
      a[j][2] = fp8_odd(lows[j]);
      a[j][3] = fp8_odd(highs[j]);
    }
  }
};

template <>
struct PackedTile<kGpuMxfp4> {
  static constexpr int kBytes = packed_tile_bytes(kGpuMxfp4);
  // 2^(code - 127) twice; code 0 is 2^-127.
  WEIR_DEVICE static uint32_t scale_pair(uint32_t code) {
    const uint32_t bits = code == 0 ? 0x40U : code << 7;
    return bits | bits << 16;
  }
  WEIR_DEVICE static void load(const uint8_t* tile, uint32_t (&a)[4][4]) {
    const uint4 codes = reinterpret_cast<const uint4*>(tile)[device::lane()];
    const uint32_t scales = reinterpret_cast<const uint32_t*>(tile + 512)[device::lane() / 4];
    const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint32_t low = scale_pair((scales >> (j / 2 * 8)) & 0xffU);
      const uint32_t high = scale_pair((scales >> (16 + j / 2 * 8)) & 0xffU);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t x = words[j] >> (4 * i);
        const uint32_t value =
            device::multiply_bf16x2(((x & 0x00080008U) << 12) | ((x & 0x00070007U) << 6), kBf16Two126);
        a[j][i] = device::multiply_bf16x2(value, i % 2 == 0 ? low : high);
      }
    }
  }
};

// d[tile of 8 columns][4] = the products of one block of K (1 or 2 tiles of weights at `weights`, in shared memory).
// `columns[c]`: the shared address of this lane's part of B at the block's first k: row l % 8 of column tile c, k 8 (l
// / 8), so that load_matrices() brings 32 k.
template <int kFormat, int kTiles8>
WEIR_DEVICE void block_product(const uint8_t* weights, int tiles, const uint32_t (&columns)[kTiles8],
                               float (&d)[kTiles8][4]) {
#pragma unroll
  for (int c = 0; c < kTiles8; ++c) {
#pragma unroll
    for (int i = 0; i < 4; ++i) d[c][i] = 0;
  }
#pragma unroll
  for (int tile = 0; tile < kBlockK / kTileK; ++tile) {
    if (tile >= tiles) break;
    uint32_t a[4][4];
    PackedTile<kFormat>::load(weights + tile * PackedTile<kFormat>::kBytes, a);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int c = 0; c < kTiles8; ++c) {
        uint32_t b[4];
        device::load_matrices(b, columns[c] + static_cast<uint32_t>(tile * kTileK + half * 32) * 2U);
        device::mma_bf16(d[c], a[2 * half], b[0], b[1]);
        device::mma_bf16(d[c], a[2 * half + 1], b[2], b[3]);
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
