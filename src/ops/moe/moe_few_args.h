// Arguments of the sparse experts over at most eight rows with packed FP8 weights.
#pragma once

#include <cstdint>

#include "ops/linear/linear_few_args.h"

namespace weir {

inline constexpr int32_t kFewMoeRows = 8;
inline constexpr int32_t kFewSlots = 16;  // of a row, the shared expert's among them

// More rows than this read each expert that one or several of them have chosen once (moe_few_once.cu), fewer have each
// row's experts read for itself (moe_few.cu): on an H200, eight rows of the top 8 of 256 experts take 57.0 us instead
// of 59.4, four 35.4 instead of 35.5, but one 15.2 instead of 14.5.
inline constexpr int32_t kFewEachMax = 4;

inline constexpr int32_t kFewEntries = kFewMoeRows * kFewSlots;

// The rows' experts, each row's in ascending order, the shared one behind them; weights of the rows' entries, those of
// the shared expert behind them.
struct FewRoutes {
  int32_t experts[kFewEntries];  // [rows][top_k], without gaps, then the shared one
  float weights[kFewEntries];    // [rows][top_k], then [rows]
};

// The same entries, and the experts that a row or several have chosen: numbered in ascending order, `count` of them,
// the shared one behind them.
struct alignas(16) OnceRoutes {
  int32_t experts[kFewEntries];               // by number
  uint8_t columns[kFewEntries][kFewMoeRows];  // by number: each row's entry, or how many there are in all
  float weights[kFewEntries];                 // by entry
  uint8_t numbers[kFewEntries];               // the same
  int32_t count;
};

// What the kernels of moe_few_once.cu leave free in shared memory so that what lies behind it begins in another bank:
// bytes of a row, floats of an entry's sums in the first kernel and in the second, and of an expert's scales.
inline constexpr int32_t kOnceRowPad = 16;
inline constexpr int32_t kOnceGatePad = 8;
inline constexpr int32_t kOnceDownPad = 16;
inline constexpr int32_t kOnceScalesPad = 2;

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
  uint8_t* routes = nullptr;      // of experts_some(): some_routes_bytes(); of experts_few(): FewRoutes or OnceRoutes
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
  int32_t items_max = 0;   // strips of experts of a block of the first kernel; filled in
  int32_t hands_on = 0;    // of moe_few.cu: whether the second kernel has its routes from the first one's; the same
  int32_t pairs_max = 0;   // of moe_few_once.cu: of such a strip and a row that has chosen its expert; the same
};

}  // namespace weir
