// Arguments of the products of prompts with packed weights, and the sizes that host and kernels share.
#pragma once

#include <cstdint>

#include "ops/linear/packed.h"

namespace weir {

inline constexpr int kPromptStrips = 8;                           // of a unit: 128 rows of weights
inline constexpr int kPromptTokens = 128;                         // of a unit, at most
inline constexpr int kPromptXBytes = kPromptTokens * kTileK * 2;  // of one of the two tiles of k of a stage
inline constexpr int kPromptAlign = 1024;                    // what the matrix units' order of shared memory repeats by
inline constexpr int kPromptScaleBytes = kPromptTokens * 4;  // of a stage, of quantised rows
inline constexpr int kPromptSlotsMax = 6;
inline constexpr int kPromptUnitBytes = 96;  // of a unit's description, at most

// The fewest columns of a matrix product that hold so many rows of x.
constexpr int32_t prompt_columns(int64_t rows) {
  return rows <= 16 ? 16 : rows <= 32 ? 32 : rows <= 64 ? 64 : kPromptTokens;
}

// Stages of shared memory: as many as fit, and what they take.
struct PromptStages {
  int32_t weight_bytes = 0;  // of a stage
  int32_t slots = 0;
  int64_t shared_bytes = 0;
};
// `beside`: bytes of shared memory for other use. `e4m3`: of quantised rows.
constexpr PromptStages prompt_stages(int32_t tile_bytes, int32_t beside = 0, bool e4m3 = false) {
  constexpr int32_t kShared = 227 * 1024;
  constexpr int32_t kRest =
      16 + 2 * 8 + (2 * 8 + kPromptUnitBytes) * kPromptSlotsMax;  // next unit; turns; barriers; descriptions
  PromptStages stages;
  stages.weight_bytes = 2 * kPromptStrips * tile_bytes;
  const int32_t stage = (e4m3 ? kPromptXBytes + kPromptScaleBytes : 2 * kPromptXBytes) + stages.weight_bytes;
  const int32_t fit = (kShared - kRest - beside) / stage;
  stages.slots = fit < kPromptSlotsMax ? fit : kPromptSlotsMax;
  stages.shared_bytes = kRest + beside + int64_t{stages.slots} * stage;
  return stages;
}

struct GpuPromptOutput {
  GpuPacked weight;
  float* y = nullptr;
  int64_t y_stride = 0;  // elements
  int32_t add = 0;       // y += x W^T
  int32_t tile_end = 0;  // the first unit's rows of all outputs behind this one's; filled in, as what follows `count`
};

// Up to four matrices of one K over the same rows, y_i = x W_i^T. x: row by row in the operand types of the matrices'
// formats, those that occur.
struct GpuPromptArgs {
  GpuPromptOutput outputs[kGpuLinearGroupMax];
  const uint16_t* x_bf16 = nullptr;
  const uint16_t* x_f16 = nullptr;
  int64_t x_stride = 0;  // elements, a multiple of 8
  int32_t rows = 0;
  int32_t count = 0;
  int32_t strips = 0;   // of a unit: 8, or 4, and both warpgroups take the same strips
  int32_t columns = 0;  // of a unit's products: 16, 32, 64 or 128
  int32_t unit_rows = 0;
  int32_t row_tiles = 0;
  int32_t token_tiles = 0;
  int32_t slots = 0;
  int32_t weight_bytes = 0;
  int32_t reserved = 0;
  // x quantised (ops/quantize/quantize_rows_args.h), instead of the types above: all matrices take_e4m3().
  const uint8_t* x_e4m3 = nullptr;  // x_stride, a multiple of 16, is of these
  const float* x_scales = nullptr;  // [K / 128][scale_stride]
  int64_t scale_stride = 0;
};

}  // namespace weir
