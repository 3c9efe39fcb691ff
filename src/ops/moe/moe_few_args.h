// Arguments of the sparse experts over at most eight rows, and over at most 64, with packed FP8 or MXFP4 weights.
#pragma once

#include <cstdint>

#include "ops/linear/linear_few_args.h"

namespace weir {

inline constexpr int32_t kFewMoeRows = 8;
inline constexpr int32_t kFewSlots = 16;  // of a row, the shared expert's among them

inline constexpr int32_t kFewEntries = kFewMoeRows * kFewSlots;

// A unit is a block of K of a strip; so many come together, into one slot of a ring: 16 or 17 KiB.
constexpr int32_t few_unit_bytes(int32_t format) {
  return 2 * packed_tile_bytes(format);
}
constexpr int32_t few_chunk_units(int32_t format) {
  if (format == kGpuMxfp4) return 16;
  return format == kGpuBf16 ? 4 : 8;
}
// Warps that multiply, a unit each: MXFP4 takes three times the instructions of as many bytes of FP8, and twice the
// warps hide what each one waits for.
constexpr int32_t few_warps(int32_t format) {
  return format == kGpuMxfp4 ? 16 : kFewWarps;
}
static_assert(few_chunk_units(kGpuFp8Block) == few_warps(kGpuFp8Block) &&
                  few_chunk_units(kGpuMxfp4) == few_warps(kGpuMxfp4),
              "a unit a warp");
constexpr int32_t few_chunk_bytes(int32_t format) {
  return few_chunk_units(format) * few_unit_bytes(format);
}
// Of the formats in which experts are taken, MXFP4's shared expert may be stored in another one: in BF16.
constexpr int32_t kFewApartFormat = kGpuBf16;
constexpr bool few_may_be_apart(int32_t format) {
  return format == kGpuMxfp4;
}
static_assert(few_chunk_bytes(kFewApartFormat) <= few_chunk_bytes(kGpuMxfp4), "both come through the same ring");
// Whether there are scales beside the weights, two of a unit.
constexpr bool few_has_scales(int32_t format) {
  return format == kGpuFp8Block;
}

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

// Threads that multiply; those of a block of moe_one.cu, with a warp that brings weights; and of one of moe_few.cu:
// with another warp that posts what is done, and one that fetches hidden values.
constexpr int32_t few_multiply(int32_t format) {
  return few_warps(format) * 32;
}
constexpr int32_t few_threads(int32_t format) {
  return few_multiply(format) + 32;
}
constexpr int32_t few_experts_threads(int32_t format) {
  return few_threads(format) + 2 * 32;
}
// Barriers of such a block: the ring's, three of shares, two of each part; an even number.
inline constexpr int32_t kFewExpertsBarriers = (kFewBarriers + 3 + 2 * kFewParts + 1) / 2 * 2;

// Threads of the blocks of moe_some.cu: those of a block of moe_one.cu, and others that join; barriers.
inline constexpr int32_t kSomeUpJoinWarps = 4;
inline constexpr int32_t kSomeDownJoinWarps = 8;
constexpr int32_t some_threads(int32_t format, int32_t join_warps) {
  return few_threads(format) + join_warps * 32;
}
inline constexpr int32_t kSomeBarriers = kFewBarriers + 8;

// What moe_few.cu leaves free in shared memory so that what lies behind it begins in another bank: bytes of a row,
// floats of an entry's sums in the first half and in the second, and of an expert's scales.
inline constexpr int32_t kFewRowPad = 16;
inline constexpr int32_t kFewGatePad = 8;
inline constexpr int32_t kFewDownPad = 16;
inline constexpr int32_t kFewScalesPad = 2;

// As GpuExpertsArgs of moe_packed_args.h; the weights of expert e lie e * stride bytes behind those of expert 0, and
// the shared expert's behind those of the last one, or elsewhere in kFewApartFormat.
struct GpuFewExpertsArgs {
  const uint8_t* gate_up = nullptr;
  const uint8_t* down = nullptr;
  const float* gate_up_scales = nullptr;  // null where the format has none
  const float* down_scales = nullptr;
  const uint8_t* shared_gate_up = nullptr;  // in kFewApartFormat; null: as the others
  const uint8_t* shared_down = nullptr;
  int64_t stride = 0;
  const float* router = nullptr;  // [rows][X + shared]
  const uint16_t* x = nullptr;    // [rows][D], in the operand type of the format
  uint16_t* hidden = nullptr;     // the same: [rows][top_k][F], then the shared expert's [rows][F]; see experts_few()
  uint8_t* routes = nullptr;      // of experts_some(): some_routes_bytes()
  GpuFewTurns* turns = nullptr;   // of experts_few() with more than one row
  float* y = nullptr;
  int64_t y_stride = 0;
  int32_t add = 1;
  int32_t routes_bytes = 0;  // of it that kernels read; filled in
  int32_t format = kGpuFp8Block;
  int32_t rows = 0;
  int32_t experts = 0;  // X
  int32_t top_k = 0;
  int32_t shared = 0;
  int32_t d = 0;           // 128 times a power of two
  int32_t f = 0;           // the same
  int32_t ring_bytes = 0;  // of the kernel's weights on their way; filled in
  int32_t under_way = 0;   // chunks at a time; the same
  int32_t items_max = 0;   // strips of experts of a share of gate and up; filled in
  int32_t pairs_max = 0;   // of moe_few.cu: of such a strip and a row that has chosen its expert; the same
};

}  // namespace weir
