// The scales of a quantised matrix, whatever dtype they are stored in.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/check.h"
#include "tensor/bf16.h"
#include "tensor/dtype.h"

namespace weir {

// Entry `index` of the scales of a block or row FP8 matrix. Programmer error: scales that are neither F32 nor BF16.
inline float scale_at(const WeightMatrix& w, int64_t index) {
  if (w.scale_dtype == DType::kF32) {
    float value = 0;
    std::memcpy(&value, w.scales + index * 4, sizeof(value));
    return value;
  }
  WEIR_CHECK(w.scale_dtype == DType::kBf16, "scales of dtype {}", dtype_name(w.scale_dtype));
  uint16_t raw = 0;
  std::memcpy(&raw, w.scales + index * 2, sizeof(raw));
  return bf16_to_float(raw);
}

}  // namespace weir
