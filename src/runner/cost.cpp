#include "runner/cost.h"

#include <cmath>

namespace weir {
namespace {

constexpr int64_t kFloat = sizeof(float);

struct Counter {
  const ModelConfig& config;
  const CpuWeights& weights;
  StepCost cost;
  int64_t* macs;

  void matrix(const PackedMatrix& m) {
    cost.shared_bytes += m.bytes();
    *macs += m.n() * m.k();
  }
  void mlp(const PackedMlp& m) {
    matrix(m.gate);
    matrix(m.up);
    matrix(m.down);
  }
  void operator()(const EmbedOp&) {}
  void operator()(const NormOp&) {}
  void operator()(const LinearOp& op) {
    for (const LinearOp::Output& output : op.outputs) matrix(weights.matrix(output.weight));
  }
  void operator()(const AttentionOp&) {
    cost.context_bytes += 2 * config.kv_heads * config.head_dim * kFloat;
    cost.context_macs += 2 * config.heads * config.head_dim;
  }
  void operator()(const GdnOp&) {
    // The state is read once, for the key's and the query's product, and written once in 64 rows. The rows of the ring
    // are left out: at most 64 against a state of dk.
    const int64_t state = config.gdn_value_heads * config.gdn_key_dim * config.gdn_value_dim;
    cost.state_bytes += state * kFloat;
    *macs += 2 * state;
  }
  void operator()(const FeedForwardOp& op) {
    const PackedMoe* moe = weights.moe(op.layer);
    if (moe == nullptr) return mlp(weights.mlp(op.layer));
    matrix(moe->router);
    matrix(moe->shared_gate);
    mlp(moe->shared);
    for (const PackedMlp& expert : moe->experts) cost.expert_bytes += expert.bytes();
    const PackedMlp& one = moe->experts.front();
    *macs += moe->top_k * (one.gate.n() * one.gate.k() + one.up.n() * one.up.k() + one.down.n() * one.down.k());
    cost.experts_a_row = static_cast<double>(moe->top_k) / static_cast<double>(moe->experts.size());
  }
};

}  // namespace

double StepCost::bytes(int64_t streams, int64_t context) const {
  const double touched = 1.0 - std::pow(1.0 - experts_a_row, static_cast<double>(streams));
  return static_cast<double>(shared_bytes) + static_cast<double>(expert_bytes) * touched +
         static_cast<double>(streams * (state_bytes + context * context_bytes));
}

double StepCost::macs(int64_t streams, int64_t context) const {
  return static_cast<double>(streams * (body_macs + head_macs + context * context_macs));
}

StepCost program_cost(const Program& program, const ModelConfig& config, const CpuWeights& weights) {
  Counter counter{config, weights, {}, nullptr};
  counter.macs = &counter.cost.body_macs;
  for (const Operation& operation : program.body) std::visit(counter, operation);
  counter.macs = &counter.cost.head_macs;
  for (const Operation& operation : program.head) std::visit(counter, operation);
  return counter.cost;
}

}  // namespace weir
