// Arguments of the mixture of experts over the rows of a prompt.
#pragma once

#include <cstdint>

#include "ops/linear/linear_prompt_args.h"

namespace weir {

inline constexpr int32_t kMoePromptSlotsMax = 33;  // experts of a row, the shared one among them
inline constexpr int32_t kMoePromptChunk = 64;     // rows whose assignments a block places: the bits of a mask
inline constexpr int32_t kMoePromptTableMax = 1024;

// Products of the second matrices stand in tiles of so many columns, [tiles][rows * slots][64], each column of a tile
// where moe_prompt_place() says; they go there from shared memory, so many positions of the list at a time, a half of a
// warpgroup's part being written while the other is read.
inline constexpr int32_t kMoePromptColumns = 64;
inline constexpr int32_t kMoePromptTogether = 32;
inline constexpr int32_t kMoePromptStaging = 2 * 2 * kMoePromptTogether * kMoePromptColumns * 4;

// Up to kPromptTokens rows of one expert: list positions [first, first + rows).
struct GpuMoeTile {
  int32_t expert;
  int32_t first;
  int32_t rows;
  int32_t reserved;
};

// y[rows][columns] (+)= the sum over a row's slots, in ascending order of experts, of weight * down(SiLU(gate x) * up
// x): total = fma(weight, product, total) from zero. An expert appears at most once in a row; its two matrices are of
// one operand type, and its hidden values are rounded to it.
struct GpuMoePromptArgs {
  const GpuPackedMlp* table = nullptr;  // [experts_total], on the device
  const uint16_t* x_bf16 = nullptr;     // the rows in the operand types of the experts' formats, those that occur
  const uint16_t* x_f16 = nullptr;
  const int32_t* experts = nullptr;  // [rows][slots]
  const float* weights = nullptr;    // [rows][slots]
  float* y = nullptr;
  int64_t x_stride = 0;  // elements
  int64_t y_stride = 0;
  int32_t rows = 0;
  int32_t slots = 0;
  int32_t experts_total = 0;  // the shared one, the last, among them
  int32_t columns = 0;        // D
  int32_t width = 0;          // the largest F
  int32_t tile_bytes = 0;     // the largest packed_tile_bytes() of the table
  int32_t add = 1;
  // The rest is filled in: work memory, and what the products take.
  int32_t slots_of_ring = 0;
  int32_t weight_bytes = 0;
  int32_t row_tiles = 0;          // of 128 rows of weights, of the largest expert
  int32_t* counts = nullptr;      // [chunks][experts_total]
  int32_t* list = nullptr;        // [rows * slots]: rows, by expert, ascending
  int32_t* positions = nullptr;   // [rows][slots]: where in the list
  GpuMoeTile* tiles = nullptr;    // of the list
  int32_t* tile_count = nullptr;  // 1
  int32_t* counters = nullptr;    // 2: of units that blocks have taken, of each product
  uint16_t* hidden = nullptr;     // [rows * slots][width], in the order of the list
  float* products = nullptr;
  // The rows quantised (ops/quantize/quantize_rows_args.h), instead of x_bf16 and x_f16: all experts take_e4m3(), and
  // hidden values, rounded to f16, are quantised as well.
  const uint8_t* x_e4m3 = nullptr;  // x_stride, a multiple of 16, is of these
  const float* x_scales = nullptr;  // [D / 128][scale_stride]
  int64_t scale_stride = 0;
  // Filled in.
  uint8_t* hidden_e4m3 = nullptr;  // [rows * slots][width]
  float* hidden_scales = nullptr;  // [width / 128][rows * slots]
};

}  // namespace weir
