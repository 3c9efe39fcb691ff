// Feed-forward blocks: the sparse mixture of experts with its shared expert, and the dense one.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/cpu/cpu.h"
#include "ops/linear/linear.h"

namespace weir {

// down(SiLU(gate x) * (up x)). gate, up: [F, D]; down: [D, F].
struct PackedMlp {
  PackedMatrix gate;
  PackedMatrix up;
  PackedMatrix down;
  int64_t bytes() const { return gate.bytes() + up.bytes() + down.bytes(); }
};

struct PackedMoe {
  PackedMatrix router;       // [X, D]
  PackedMatrix shared_gate;  // [1, D]; empty: no shared expert
  PackedMlp shared;
  std::vector<PackedMlp> experts;  // [X], all of one F
  int64_t top_k = 0;
  int64_t bytes() const;
};

// p = softmax(logits) over X in float32; the top_k largest (ties: the lowest index first), in descending order of p;
// weights renormalised to sum to 1. logits: [rows, X]; experts, weights: [rows, top_k].
struct RouteArgs {
  const float* logits = nullptr;
  int64_t logits_stride = 0;
  int64_t rows = 0;
  int64_t experts_total = 0;
  int64_t top_k = 0;
  int32_t* experts = nullptr;
  float* weights = nullptr;
};
void route(Cpu& cpu, const RouteArgs& args);

// y (+)= sum over slots s of weights[s] * expert_s(x), then + sigmoid(shared_gate x) * shared(x). The sum starts at
// zero and runs in the row's own order of slots, shared expert last; with `add` it is added to what y holds when
// finished.
struct FeedForwardArgs {
  const float* x = nullptr;  // [rows, D]
  int64_t x_stride = 0;
  int64_t rows = 0;
  float* y = nullptr;  // [rows, D]; must not overlap x
  int64_t y_stride = 0;
  bool add = true;
};
void moe(Cpu& cpu, const PackedMoe& weights, const FeedForwardArgs& args);
void mlp(Cpu& cpu, const PackedMlp& weights, const FeedForwardArgs& args);

int64_t moe_scratch_bytes(const PackedMoe& weights, int64_t rows, int threads);
int64_t mlp_scratch_bytes(const PackedMlp& weights, int64_t rows, int threads);

}  // namespace weir
