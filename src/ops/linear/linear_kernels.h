// What the linear kernels are given: plain values, so that sources compiled for one instruction set share no functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/dtype.h"

namespace weir {

// A packed matrix by its parts (see PackedMatrix).
struct WeightTiles {
  WeightFormat format = WeightFormat::kF32;
  int64_t n = 0;
  int64_t k = 0;
  const std::byte* data = nullptr;
  int64_t tile_bytes = 0;
  const std::byte* scales = nullptr;
  int64_t tile_scale_bytes = 0;
};

inline constexpr int64_t kLinearBlock = 128;     // K block of the numeric contract; also the side of an FP8 scale block
inline constexpr int64_t kPanelTiles = 4;        // tiles computed together: the register tile's four vectors
inline constexpr int64_t kPanelColumns = 64;     // 16 * kPanelTiles
inline constexpr int64_t kLinearTaskRows = 256;  // rows of a task: sums of 64 KiB stay in the second-level cache
// Floats of scratch: a decoded panel [128][64] and the sums [256][64].
inline constexpr int64_t kLinearTaskScratch = kLinearBlock * kPanelColumns + kLinearTaskRows * kPanelColumns;

// Columns [16 tile_begin, 16 tile_end) of y (+)= x W^T; rows <= kLinearTaskRows.
struct LinearTask {
  WeightTiles weight;
  int64_t tile_begin = 0;
  int64_t tile_end = 0;
  const float* const* x = nullptr;  // one pointer per row
  int64_t rows = 0;
  float* y = nullptr;  // row 0, column 16 tile_begin
  int64_t y_stride = 0;
  bool add = false;
  float* scratch = nullptr;  // kLinearTaskScratch floats, aligned to 64 bytes
};

}  // namespace weir
