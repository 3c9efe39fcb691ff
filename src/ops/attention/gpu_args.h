#pragma once

#include <cstdint>

namespace weir {

// A row of the step: a token of a sequence.
struct GpuRow {
  int32_t sequence = 0;  // index into GpuAttentionArgs::pages
  int32_t position = 0;
};

inline constexpr int32_t kGpuSegment = 512;     // tokens of a segment
inline constexpr int32_t kGpuHeadDimMax = 512;  // values of a head

// Page layout as ops/attention/attention.h states it. The rotation of position p is the product of two turns, coarse[p
// / 256] and fine[p % 256], each (cos, sin) in double: [.][rope_dim / 2][2].
struct GpuAttentionArgs {
  const float* qg = nullptr;
  const float* k = nullptr;
  const float* v = nullptr;
  float* q = nullptr;  // scratch [T][H * E]: normed, rotated and scaled queries
  float* y = nullptr;
  const float* q_norm = nullptr;
  const float* k_norm = nullptr;
  const double* coarse = nullptr;
  const double* fine = nullptr;
  const GpuRow* rows = nullptr;            // [T]
  uint8_t* const* const* pages = nullptr;  // per sequence: its pages' bases
  // Spread over segments: [T][H][segments][2 + E], the state of each segment; null: a block takes all of a row's.
  float* partial = nullptr;
  int64_t qg_stride = 0;
  int64_t k_stride = 0;
  int64_t v_stride = 0;
  int64_t y_stride = 0;
  int64_t page_offset = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t value_stride = 0;
  int32_t rope_half = 0;
  int32_t segments = 1;  // with `partial`: of the longest row
  float eps = 1e-6F;
};

}  // namespace weir
