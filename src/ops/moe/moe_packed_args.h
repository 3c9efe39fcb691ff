// Arguments of the sparse experts over few rows with packed weights.
#pragma once

#include <cstdint>

#include "ops/linear/packed.h"

namespace weir {

inline constexpr int32_t kPackedExpertsMax = 512;  // X
inline constexpr int32_t kPackedTopMax = 15;       // experts of a row, without the shared one
inline constexpr int32_t kPackedMoeRows = 64;      // rows of a call

// Routing: p = softmax over the X logits of a row; the top_k largest (ties: the lower index; NaN behind everything),
// weights that sum to 1. A row's slots are its experts in ascending index, the shared expert (weight sigmoid of logit
// X) behind them. hidden[row][slot][F] = SiLU(gate x) * up x; the shared expert's is there already. x and hidden are in
// operand_type(format). y[row] (+)=
// sum over slots, ascending, of weight * down(hidden), from zero.
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
  int32_t format = kGpuFp8Block;  // of all experts
  int32_t slots = 0;              // of a warp's ring; filled in, as the next
  int32_t sum_slots = 0;          // groups whose sums may wait to be joined
};

}  // namespace weir
