#pragma once

#include <cstdint>

#include "ops/linear/gpu_args.h"

namespace weir {

inline constexpr int32_t kGpuTopMax = 32;    // experts of a row
inline constexpr int kGpuExpertOutputs = 4;  // output values of a block of weir_expert_output

// experts, weights: [rows][slots]: the top_k experts of the row in descending order of probability (ties: the lower
// index first) with weights that sum to 1, then, where `shared` is set, expert X with sigmoid(shared_logit).
struct GpuRouteArgs {
  const float* logits = nullptr;         // [rows][X]
  const float* shared_logits = nullptr;  // [rows], or null: no shared expert
  int32_t* experts = nullptr;
  float* weights = nullptr;
  int32_t experts_total = 0;
  int32_t top_k = 0;
  int32_t slots = 0;
};

// hidden[rows][slots][width] = SiLU(gate x) * up x, then y (+)= sum over slots of weight * down hidden, from zero in
// the order of the slots. `table`: X experts, then the shared one. experts null: one slot, table[0], weight 1 (dense).
struct GpuFeedForwardArgs {
  const GpuMlp* table = nullptr;
  const float* x = nullptr;
  float* y = nullptr;
  float* hidden = nullptr;
  const int32_t* experts = nullptr;
  const float* weights = nullptr;
  int64_t x_stride = 0;
  int64_t y_stride = 0;
  int32_t slots = 1;
  int32_t width = 0;    // of hidden: at least every F
  int32_t columns = 0;  // D
  int32_t add = 1;
};

}  // namespace weir
