// Rows to block FP8, the format of block-FP8 checkpoints: e4m3 codes with one float scale per 128 x 128 block.
#pragma once

#include <cstdint>

namespace weir {

// Quantises one band of blocks: `rows` [n, k], finite, n at most 128, to `codes` [n, k] and `scales` [ceil(k / 128)]. A
// block's scale takes its largest magnitude to 448; values become the nearest code of value / scale, ties to even. A
// block of zeros, or of values too small to scale, has the smallest normal scale.
void quantise_fp8_band(const float* rows, int64_t n, int64_t k, uint8_t* codes, float* scales);

}  // namespace weir
