#pragma once

#include <cstdint>

namespace weir {

// experts, weights: [rows][top_k + shared], as ops/moe/moe_packed_args.h says of routing and slots.
struct GpuRoutesArgs {
  const float* router = nullptr;  // [rows][X + shared]
  int32_t* experts = nullptr;
  float* weights = nullptr;
  int32_t rows = 0;
  int32_t experts_total = 0;  // X
  int32_t top_k = 0;
  int32_t shared = 0;
};

}  // namespace weir
