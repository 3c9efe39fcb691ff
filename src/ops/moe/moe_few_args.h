// Arguments of the sparse experts over at most eight rows with packed FP8 weights.
#pragma once

#include <cstdint>

#include "ops/linear/linear_few_args.h"

namespace weir {

inline constexpr int32_t kFewMoeRows = 8;
inline constexpr int32_t kFewSlots = 16;  // of a row, the shared expert's among them

inline constexpr int32_t kFewEntries = kFewMoeRows * kFewSlots;

// The only row's experts (moe_one.cu) in ascending order, the shared one behind them; the entries' weights.
struct OneRoutes {
  int32_t experts[kFewSlots];
  float weights[kFewSlots];
};

// The entries of several rows (moe_few.cu), row by row of slot by slot, and those of the shared expert behind them; and
// the experts that a row or several have chosen: numbered in ascending order, `count` of them, the shared one behind
// them.
struct alignas(16) FewRoutes {
  int32_t experts[kFewEntries];               // by number
  uint8_t columns[kFewEntries][kFewMoeRows];  // by number: each row's entry, or how many there are in all
  float weights[kFewEntries];                 // by entry
  uint8_t numbers[kFewEntries];               // the same
  int32_t count;
};

// The experts of several rows are worked off in so many parts, one after the other.
inline constexpr int32_t kFewParts = 2;

// What the blocks of moe_few.cu count together: zeros before a kernel and after it.
struct GpuFewTurns {
  uint32_t taken;            // shares of the first half, and askings when there was none left
  uint32_t done[kFewParts];  // shares, by part
  uint32_t left;             // blocks that wait for none any more
};

// Threads that multiply, and those of a block of moe_few.cu: with a warp that brings weights, one that posts what is
// done, and one that fetches hidden values.
inline constexpr int32_t kFewMultiply = kFewWarps * 32;
inline constexpr int32_t kFewExpertsThreads = kFewMultiply + 3 * 32;
// Barriers of such a block: the ring's, three of shares, two of each part; an even number.
inline constexpr int32_t kFewExpertsBarriers = (kFewBarriers + 3 + 2 * kFewParts + 1) / 2 * 2;

// What moe_few.cu leaves free in shared memory so that what lies behind it begins in another bank: bytes of a row,
// floats of an entry's sums in the first half and in the second, and of an expert's scales.
inline constexpr int32_t kFewRowPad = 16;
inline constexpr int32_t kFewGatePad = 8;
inline constexpr int32_t kFewDownPad = 16;
inline constexpr int32_t kFewScalesPad = 2;
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
  uint8_t* routes = nullptr;      // of experts_some(): some_routes_bytes()
  GpuFewTurns* turns = nullptr;   // of experts_few() with more than one row
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
  int32_t items_max = 0;   // strips of experts of a share of gate and up; filled in
  int32_t pairs_max = 0;   // of moe_few.cu: of such a strip and a row that has chosen its expert; the same
};

}  // namespace weir
