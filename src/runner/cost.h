// What one row of a program costs at least: the numerators of every "percent of the limit".
#pragma once

#include <cstdint>

#include "models/program.h"
#include "runner/cpu_weights.h"

namespace weir {

struct RowCost {
  int64_t body_bytes = 0;  // weights and recurrent state that one row reads
  int64_t body_macs = 0;   // multiply-adds of the body, attention over earlier tokens excluded
  int64_t head_bytes = 0;  // of the vocabulary head
  int64_t head_macs = 0;
  int64_t macs_a_context_token = 0;  // attention: more for each token of context
};

// One row alone: the experts it picks, not those of its neighbours.
RowCost program_cost(const Program& program, const ModelConfig& config, const CpuWeights& weights);

}  // namespace weir
