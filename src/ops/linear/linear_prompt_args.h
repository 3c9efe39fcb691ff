// Arguments of the products of prompts with packed weights, and the sizes that host and kernels share.
#pragma once

#include <cstdint>

#include "ops/linear/packed.h"

namespace weir {

inline constexpr int kPromptStrips = 8;    // of a unit: 128 rows of weights
inline constexpr int kPromptTokens = 128;  // of a unit, at most
inline constexpr int kPromptXBytes = kPromptTokens * kTileK * 2;
inline constexpr int kPromptAlign = 1024;  // what the matrix units' order of shared memory repeats by
inline constexpr int kPromptSlotsMin = 5;
inline constexpr int kPromptSlotsMax = 8;

// The smallest size of unit that holds so many rows of x.
constexpr int32_t prompt_unit_size(int64_t rows) {
  return rows <= 32 ? 32 : (rows <= 64 ? 64 : kPromptTokens);
}

// Stages of shared memory: as many as fit, and what they take.
struct PromptStages {
  int32_t weight_bytes = 0;  // of a stage
  int32_t slots = 0;
  int64_t shared_bytes = 0;
};
constexpr PromptStages prompt_stages(int32_t tile_bytes) {
  constexpr int32_t kShared = 227 * 1024;
  constexpr int32_t kRest = kPromptAlign + 2 * 8 * kPromptSlotsMax;  // aligning; barriers
  PromptStages stages;
  stages.weight_bytes = kPromptStrips * tile_bytes;
  const int32_t fit = (kShared - kRest) / (kPromptXBytes + stages.weight_bytes);
  stages.slots = fit < kPromptSlotsMax ? fit : kPromptSlotsMax;
  stages.shared_bytes = kRest + int64_t{stages.slots} * (kPromptXBytes + stages.weight_bytes);
  return stages;
}
static_assert(prompt_stages(2048).slots >= kPromptSlotsMin, "the largest format has too few stages");

struct GpuPromptOutput {
  GpuPacked weight;
  float* y = nullptr;
  int64_t y_stride = 0;  // elements
  int32_t add = 0;       // y += x W^T
  int32_t tile_end = 0;  // the first 128 rows of all outputs behind this one's; filled in, as what follows `count`
};

// Up to four matrices of one K over the same rows, y_i = x W_i^T; x: bf16, row by row.
struct GpuPromptArgs {
  GpuPromptOutput outputs[kGpuLinearGroupMax];
  const uint16_t* x = nullptr;
  int64_t x_stride = 0;  // elements, a multiple of 8
  int32_t rows = 0;
  int32_t count = 0;
  int32_t unit_rows = 0;  // 32, 64 or 128
  int32_t row_tiles = 0;
  int32_t token_tiles = 0;
  int32_t slots = 0;
  int32_t weight_bytes = 0;
  int32_t reserved = 0;
};

}  // namespace weir
