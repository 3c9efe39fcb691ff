#pragma once

#include <cstdint>

namespace weir {

// sum = sum of exp(logits[i] - max): float lanes over 256 values, then double lanes.
struct SumExpRow {
  const float* logits = nullptr;
  int64_t size = 0;
  float max = 0;
  double* sum = nullptr;
};

}  // namespace weir
