// Arguments of the sparse experts over at most eight rows with packed FP8 weights.
#pragma once

#include <cstdint>

#include "ops/linear/linear_few_args.h"

namespace weir {

inline constexpr int32_t kFewMoeRows = 8;
inline constexpr int32_t kFewSlots = 16;  // of a row, the shared expert's among them

// The rows' experts, each row's in ascending order, the shared one behind them; weights of the rows' entries, those of
// the shared expert behind them.
struct FewRoutes {
  int32_t experts[kFewMoeRows * kFewSlots];  // [rows][top_k], without gaps, then the shared one
  float weights[kFewMoeRows * kFewSlots];    // [rows][top_k], then [rows]
};

// As GpuExpertsArgs of moe_packed_args.h; the weights of expert e lie e * stride bytes behind those of expert 0.
struct GpuFewExpertsArgs {
  const uint8_t* gate_up = nullptr;
  const uint8_t* down = nullptr;
  const float* gate_up_scales = nullptr;
  const float* down_scales = nullptr;
  int64_t stride = 0;
  const float* router = nullptr;  // [rows][X + shared]
  const uint16_t* x = nullptr;    // [rows][D], f16
  uint16_t* hidden = nullptr;     // f16: [rows][top_k][F], then the shared expert's [rows][F]; see experts_few()
  uint8_t* routes = nullptr;      // of experts_some(): some_routes_bytes(); of experts_few(): FewRoutes
  float* y = nullptr;
  int64_t y_stride = 0;
  int32_t add = 1;
  int32_t routes_bytes = 0;  // of it that kernels read; filled in
  int32_t rows = 0;
  int32_t experts = 0;  // X
  int32_t top_k = 0;
  int32_t shared = 0;
  int32_t d = 0;           // 128 times a power of two
  int32_t f = 0;           // the same
  int32_t ring_bytes = 0;  // of the kernel's weights on their way; filled in
  int32_t under_way = 0;   // chunks of eight units at a time; the same
  int32_t items_max = 0;   // strips of a block of the first kernel; filled in
  int32_t ahead = 0;       // entries of the second kernel whose weights the first one asks for; the same
  int32_t hands_on = 0;    // whether the second kernel has its routes from the first one's; the same
};

}  // namespace weir
