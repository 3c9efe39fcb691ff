#include "runner/cost.h"

namespace weir {
namespace {

struct Counter {
  const ModelConfig& config;
  const CpuWeights& weights;
  RowCost cost;
  int64_t* bytes;
  int64_t* macs;

  void matrix(const PackedMatrix& m, int64_t times = 1) {
    *bytes += m.bytes() * times;
    *macs += m.n() * m.k() * times;
  }
  void mlp(const PackedMlp& m, int64_t times = 1) {
    matrix(m.gate, times);
    matrix(m.up, times);
    matrix(m.down, times);
  }
  void operator()(const EmbedOp&) {}
  void operator()(const NormOp&) {}
  void operator()(const LinearOp& op) {
    for (const LinearOp::Output& output : op.outputs) matrix(weights.matrix(output.weight));
  }
  void operator()(const AttentionOp&) { cost.macs_a_context_token += 2 * config.heads * config.head_dim; }
  void operator()(const GdnOp&) {
    // The state is read once, for the key's and the query's product, and written once in 64 rows. The rows of the ring
    // are left out: at most 64 against a state of dk.
    const int64_t state = config.gdn_value_heads * config.gdn_key_dim * config.gdn_value_dim;
    *bytes += state * static_cast<int64_t>(sizeof(float));
    *macs += 2 * state;
  }
  void operator()(const FeedForwardOp& op) {
    const PackedMoe* moe = weights.moe(op.layer);
    if (moe == nullptr) return mlp(weights.mlp(op.layer));
    matrix(moe->router);
    matrix(moe->shared_gate);
    mlp(moe->shared);
    mlp(moe->experts.front(), moe->top_k);
  }
};

}  // namespace

RowCost program_cost(const Program& program, const ModelConfig& config, const CpuWeights& weights) {
  Counter counter{config, weights, {}, nullptr, nullptr};
  counter.bytes = &counter.cost.body_bytes;
  counter.macs = &counter.cost.body_macs;
  for (const Operation& operation : program.body) std::visit(counter, operation);
  counter.bytes = &counter.cost.head_bytes;
  counter.macs = &counter.cost.head_macs;
  for (const Operation& operation : program.head) std::visit(counter, operation);
  return counter.cost;
}

}  // namespace weir
