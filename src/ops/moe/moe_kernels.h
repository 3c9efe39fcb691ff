#pragma once

#include <cstdint>

namespace weir {

// out[row, c] = SiLU(gate[row, c]) * up[row, c] for c in [0, columns); all three with the same stride; out may be gate.
struct SiluMul {
  int64_t rows = 0;
  int64_t columns = 0;
  const float* gate = nullptr;
  const float* up = nullptr;
  float* out = nullptr;
  int64_t stride = 0;
};

// y[c] (+)= sum over parts p, in ascending order, of weights[p] * parts[p][c].
struct Combine {
  int64_t columns = 0;
  int64_t parts_count = 0;
  const float* const* parts = nullptr;
  const float* weights = nullptr;
  float* y = nullptr;
  bool add = false;
};

// The routes of one row. With a shared expert, weights[top_k] = sigmoid(*shared_logit).
struct RouteRow {
  const float* logits = nullptr;
  int64_t experts_total = 0;
  int64_t top_k = 0;
  int32_t* experts = nullptr;
  float* weights = nullptr;
  const float* shared_logit = nullptr;  // null: no shared expert
};

}  // namespace weir
