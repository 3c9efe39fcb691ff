// What a step costs at least: the numerators of every "percent of the limit".
#pragma once

#include <cstdint>

#include "models/program.h"
#include "models/weights.h"
#include "runner/cpu_weights.h"

namespace weir {

struct StepCost {
  // Bytes read.
  int64_t shared_bytes = 0;   // weights that every step reads once: all but the routed experts
  int64_t expert_bytes = 0;   // routed experts of all layers
  double experts_a_row = 0;   // share of the experts that one row picks: top_k / experts
  int64_t state_bytes = 0;    // recurrent state, for each stream
  int64_t context_bytes = 0;  // KV, for each stream and token of context
  // Multiply-adds.
  int64_t body_macs = 0;     // a row, attention over earlier tokens excluded
  int64_t head_macs = 0;     // a row of the vocabulary head
  int64_t context_macs = 0;  // a row's attention, for each token of context

  // A step of one row for each of `streams` sequences with `context` tokens each. Experts are counted as routing at
  // random touches them: E (1 - (1 - k/E)^streams).
  double bytes(int64_t streams, int64_t context) const;
  double macs(int64_t streams, int64_t context) const;
  // The prompt of one sequence: `tokens` rows of the body, one of the head.
  double prompt_macs(int64_t tokens) const;
  // The share of the experts that `rows` rows touch when routing is random: 1 - (1 - k/E)^rows.
  double touched(int64_t rows) const;
};

StepCost program_cost(const Program& program, const ModelConfig& config, const CpuWeights& weights);

// The same of weights as stored and a KV element of `kv_value_bytes`: a GPU's floor. Only shapes are read.
StepCost stored_cost(const Program& program, const ModelConfig& config, const ModelWeights& weights,
                     int64_t kv_value_bytes);

}  // namespace weir
