#pragma once

#include <cstdint>

namespace weir {

// Rows [row_begin, row_begin + row_count) of the step are tokens [position, ...) of the sequence whose slot this is.
struct GpuGdnSequence {
  uint8_t* slot = nullptr;
  int32_t row_begin = 0;
  int32_t row_count = 0;
  int32_t position = 0;
  int32_t base = 0;  // of the slot before this step
};

// The mixer of ops/gdn/gdn.h on the same slot layout; *_offset are bytes from the layer's part of a slot.
struct GpuGdnArgs {
  const GpuGdnSequence* sequences = nullptr;
  const float* u = nullptr;
  const float* z = nullptr;
  const float* b = nullptr;
  const float* a = nullptr;
  float* y = nullptr;
  const float* conv = nullptr;     // [4][C]
  const float* decay = nullptr;    // [nv]
  const float* dt_bias = nullptr;  // [nv]
  const float* norm = nullptr;     // [dv]
  int64_t u_stride = 0;
  int64_t z_stride = 0;
  int64_t b_stride = 0;
  int64_t a_stride = 0;
  int64_t y_stride = 0;
  int64_t slot_offset = 0;
  int64_t state_offset = 0;
  int64_t keys_offset = 0;
  int64_t update_offset = 0;
  int64_t log_decay_offset = 0;
  int64_t inputs_offset = 0;
  int32_t key_heads = 0;
  int32_t ratio = 0;  // value heads of a key head
  int32_t key_dim = 0;
  int32_t value_dim = 0;
  int32_t value_stride = 0;
  int32_t channels = 0;
  float eps = 1e-6F;
};

}  // namespace weir
