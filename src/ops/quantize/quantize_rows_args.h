// Rows of activations as e4m3 codes with a scale for every 128 k: what the optional second family of prompt rows takes
// (ops/linear/packed.h).
//
// Of 128 numbers that follow each other, m the largest magnitude: s = m / 448 in float32; the code of x is x / s
// (float32) rounded to e4m3, to nearest even, at most 448, with the sign of x. Where s is 0, codes are zeros. A number
// that is not finite makes s and all 128 codes NaN (0x7f).
//
// e4m3[rows][size], a byte each. Within 16 k the codes stand in the order in which packed weights have theirs: byte 4 t
// + b is k 2 t + b % 2 + 8 (b / 2), so that both operands are taken as they lie. scales[size / 128][scale_stride]: rows
// follow each other.
#pragma once

#include <cstdint>

#include "ops/linear/packed.h"

namespace weir {

inline constexpr float kE4m3Largest = 448.0F;
inline constexpr int kQuantizeThreads = 256;
inline constexpr int kQuantizeChunk = 512;  // numbers of a row that a warp takes

// x: rows of `size` numbers of one type, x_stride apart, 16-byte aligned.
struct GpuQuantizeRowsArgs {
  const uint16_t* x_bf16 = nullptr;  // this or the next
  const uint16_t* x_f16 = nullptr;
  uint8_t* e4m3 = nullptr;   // 16-byte aligned
  float* scales = nullptr;   // [size / 128][scale_stride]
  int64_t x_stride = 0;      // elements, a multiple of 8
  int64_t scale_stride = 0;  // at least the rows
  int32_t size = 0;          // a multiple of 128
  int32_t rows = 0;
};

}  // namespace weir
