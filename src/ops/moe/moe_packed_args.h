// Arguments of the sparse experts over few rows with packed weights.
#pragma once

#include <cstdint>

#include "ops/linear/packed_sizes.h"

namespace weir {

inline constexpr int32_t kPackedExpertsMax = 512;  // X
inline constexpr int32_t kPackedTopMax = 15;       // experts of a row, without the shared one
inline constexpr int32_t kPackedMoeRows = 64;      // rows of a call

// Sizes of the routing in shared memory (routes.h).
inline constexpr int kRouteSlots = kPackedTopMax + 1;
inline constexpr int kRouteEntryBytes = 24;
constexpr int route_words(int rows) {
  return (rows + 7) / 8;
}
// Entries at most: an expert begins a new one every eight rows; the shared expert's come last.
constexpr int route_entries_max(int rows, int experts, int top_k) {
  const int routed = rows * top_k;
  const int spread = experts + routed / 8;
  return (routed < spread ? routed : spread) + route_words(rows);
}
constexpr int64_t routes_bytes(int rows, int experts, int top_k) {
  return int64_t{kRouteEntryBytes} * route_entries_max(rows, experts, top_k) +
         4 * (int64_t{rows} * kRouteSlots + int64_t{experts} * (2 + route_words(rows)) + 33);
}

// Routing: p = softmax over the X logits of a row; the top_k largest (ties: the lower index; NaN behind everything),
// weights that sum to 1. A row's slots are its experts in ascending index, the shared expert (weight sigmoid of logit
// X) behind them. hidden[row][slot][F] = SiLU(gate x) * up x; the shared expert's is there already. x and hidden are in
// operand_type(format), the shared expert's hidden in operand_type(shared_format). y[row] (+)= sum over slots,
// ascending, of weight * down(hidden), from zero.
struct GpuExpertsArgs {
  const GpuPackedMlp* table = nullptr;  // [X], then the shared expert
  const float* router = nullptr;        // [rows][X + shared]
  const uint16_t* x = nullptr;          // [rows][D]
  uint16_t* hidden = nullptr;           // [rows][top_k + shared][F]
  float* y = nullptr;                   // [rows][y_stride]
  int64_t y_stride = 0;
  int32_t add = 1;
  int32_t rows = 0;
  int32_t experts = 0;  // X
  int32_t top_k = 0;
  int32_t shared = 0;  // 1: there is a shared expert
  int32_t d = 0;
  int32_t f = 0;
  int32_t format = kGpuFp8Block;         // of the routed experts
  int32_t shared_format = kGpuFp8Block;  // of the shared one; anything where there is none
  PackedRing ring;                       // filled in
};

// Units of a stage of `down`: whole dot products.
constexpr int32_t experts_down_units(const GpuExpertsArgs& args, int32_t units) {
  const int32_t few = packed_stage_units(args.format, units);
  return few * kBlockK >= args.f ? few : units;
}
// Whether the shared expert is stored otherwise than the routed ones: then each of its entries has a stage of its own.
constexpr bool experts_apart(const GpuExpertsArgs& args) {
  return args.shared != 0 && args.shared_format != args.format;
}
constexpr int32_t experts_down_strip_bytes(const GpuExpertsArgs& args, int32_t format) {
  return args.f / kTileK * packed_tile_bytes(format);
}
// Of a stage of `down`: what lies before the rows of hidden.
constexpr int32_t experts_down_weight_bytes(const GpuExpertsArgs& args, int32_t units) {
  const int32_t routed = experts_down_units(args, units) * packed_unit_bytes(args.format);
  const int32_t blocks = (args.f / kTileK + 1) / 2;
  const int32_t shared = experts_apart(args) ? blocks * packed_unit_bytes(args.shared_format) : 0;
  return routed > shared ? routed : shared;
}

}  // namespace weir
