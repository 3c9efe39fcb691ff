// Weights in the order in which the tensor cores take them; shared by host code and kernels.
//
// W[N, K] is cut into strips of 16 rows and tiles of 64 k; tiles of a strip follow each other, strips follow each
// other, so that a strip is one contiguous read. Rows behind N and k behind K are zeros. Within a tile every lane's
// part stands where the warp reads it in one go; lane l, g = l / 4, t = l % 4; step j = 0..3 is k 16j .. 16j + 15:
//   BF16 (2,048 bytes): [j][lane][4 words]: the registers a[0..3] of mma_bf16.
//   FP8 (1,024 bytes): [row g, row g + 8][lane][j][4 bytes]: k 16j + 2t, + 2t + 1, + 2t + 8, + 2t + 9.
//   MXFP4 (544 bytes): [lane][j][4 bytes]: the codes of a[0..3], bit by bit as ops/linear/mxfp4_word.h states; then
//     [g][4 bytes]: E8M0 scales of row g, k 0 and 32, then of row g + 8.
//
// Numeric contract of all products with packed weights, whatever the number of rows: activations and weights are taken
// in the operand type of the weights' format, f16 for FP8, bf16 for BF16 and MXFP4. Activations are rounded to it, to
// nearest (f16: beyond +-65,504 they stay there; NaN stays NaN); weights are exact in it (MXFP4 with its scale; FP8's
// NaN codes 0x7f and 0xff are NaN, as all of a group with the E8M0 code 255). K is cut into blocks of 128; a block is
// one chain of products on the tensor cores, 16 k a step, ascending, float32 sums from zero; the sums of blocks are
// joined in ascending order, total = fma(sum, scale of the block, total) from zero (scale 1 where the format has none).
//
// Prompt rows have another contract if they are asked for so: activations are e4m3 codes with a scale for every 128 k
// of a row (ops/quantize/quantize_rows_args.h), all matrices FP8 with scales of blocks, K a multiple of 128. A block is
// one chain of four products of codes, 32 k a step, ascending, sums as device/wgmma.h says; total = fma(sum, scale of
// the weights' block * scale of the row's, total), blocks in ascending order.
#pragma once

#include <cstdint>

#include "ops/linear/gpu_args.h"

namespace weir {

inline constexpr int kStripRows = 16;
inline constexpr int kTileK = 64;
inline constexpr int kBlockK = 128;

// Bytes of a tile; 0: the format has no packed form.
constexpr int32_t packed_tile_bytes(int32_t format) {
  if (format == kGpuBf16) return 2048;
  if (format == kGpuFp8Block || format == kGpuFp8Row) return 1024;
  if (format == kGpuMxfp4) return 544;
  return 0;
}

// 16-bit types of activations.
enum : int32_t { kOperandBf16, kOperandF16 };

// The type that products with weights of this format take activations in.
constexpr int32_t operand_type(int32_t format) {
  return format == kGpuFp8Block || format == kGpuFp8Row ? kOperandF16 : kOperandBf16;
}

struct GpuPacked {
  const uint8_t* data = nullptr;      // [strips][tiles]
  const float* scales = nullptr;      // [strips][ceil(tiles / 2)][2]: of rows 0-7 and rows 8-15; null: 1
  const float* row_scales = nullptr;  // [strips * 16], multiplied into the finished sum; null: 1
  int32_t n = 0;                      // rows that are there
  int32_t k = 0;
  int32_t strips = 0;
  int32_t tiles = 0;  // of a strip
  int32_t format = kGpuBf16;

  int32_t reserved = 0;
};

// down(SiLU(gate x) * up x). gate_up: each strip holds gate rows 8s .. 8s + 7, then the same rows of up, so a lane
// holds a hidden value's gate in row g and its up in row g + 8.
struct GpuPackedMlp {
  GpuPacked gate_up;
  GpuPacked down;
};

// Whether rows quantised to e4m3 can be multiplied with it.
constexpr bool takes_e4m3(const GpuPacked& w) {
  return w.format == kGpuFp8Block && w.k % kBlockK == 0;
}
constexpr bool takes_e4m3(const GpuPackedMlp& mlp) {
  return takes_e4m3(mlp.gate_up) && takes_e4m3(mlp.down);
}

}  // namespace weir
