#include "runner/cost.h"

#include <cmath>
#include <functional>
#include <vector>

#include "base/check.h"

namespace weir {
namespace {

constexpr int64_t kFloat = sizeof(float);

struct MatrixSize {
  int64_t bytes = 0;
  int64_t n = 0;
  int64_t k = 0;
};

struct FeedForwardSize {
  std::vector<MatrixSize> shared;   // that every row takes
  std::vector<MatrixSize> experts;  // of all routed experts
  int64_t expert_count = 0;
  int64_t top_k = 0;
};

// Where sizes come from: packed for the CPU, or as stored.
struct Sizes {
  std::function<MatrixSize(WeightRef)> matrix;
  std::function<FeedForwardSize(int32_t)> feed_forward;
  int64_t kv_value_bytes = kFloat;
};

MatrixSize size_of(const PackedMatrix& m) {
  return {m.bytes(), m.n(), m.k()};
}
MatrixSize size_of(const WeightMatrix& m) {
  return {m.bytes(), m.n, m.k};
}

template <class Mlp>
void add_mlp(const Mlp& mlp, std::vector<MatrixSize>* sizes) {
  for (const auto* m : {&mlp.gate, &mlp.up, &mlp.down}) sizes->push_back(size_of(*m));
}

template <class Moe>
FeedForwardSize moe_size(const Moe& moe, int64_t top_k) {
  FeedForwardSize size;
  size.shared = {size_of(moe.router), size_of(moe.shared_gate)};
  add_mlp(moe.shared, &size.shared);
  for (const auto& expert : moe.experts) add_mlp(expert, &size.experts);
  size.expert_count = static_cast<int64_t>(moe.experts.size());
  size.top_k = top_k;
  return size;
}

template <class Mlp>
FeedForwardSize dense_size(const Mlp& mlp) {
  FeedForwardSize size;
  add_mlp(mlp, &size.shared);
  return size;
}

struct Counter {
  const ModelConfig& config;
  const Sizes& sizes;
  StepCost cost;
  int64_t* macs;

  void matrix(const MatrixSize& m) {
    cost.shared_bytes += m.bytes;
    *macs += m.n * m.k;
  }
  void operator()(const EmbedOp&) {}
  void operator()(const NormOp&) {}
  void operator()(const LinearOp& op) {
    for (const LinearOp::Output& output : op.outputs) matrix(sizes.matrix(output.weight));
  }
  void operator()(const AttentionOp&) {
    cost.context_bytes += 2 * config.kv_heads * config.head_dim * sizes.kv_value_bytes;
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
    const FeedForwardSize size = sizes.feed_forward(op.layer);
    for (const MatrixSize& m : size.shared) matrix(m);
    if (size.expert_count == 0) return;
    int64_t expert_macs = 0;
    for (const MatrixSize& m : size.experts) {
      cost.expert_bytes += m.bytes;
      expert_macs += m.n * m.k;
    }
    *macs += expert_macs / size.expert_count * size.top_k;
    cost.experts_a_row = static_cast<double>(size.top_k) / static_cast<double>(size.expert_count);
  }
};

StepCost count(const Program& program, const ModelConfig& config, const Sizes& sizes) {
  Counter counter{config, sizes, {}, nullptr};
  counter.macs = &counter.cost.body_macs;
  for (const Operation& operation : program.body) std::visit(counter, operation);
  counter.macs = &counter.cost.head_macs;
  for (const Operation& operation : program.head) std::visit(counter, operation);
  return counter.cost;
}

}  // namespace

double StepCost::touched(int64_t rows) const {
  return 1.0 - std::pow(1.0 - experts_a_row, static_cast<double>(rows));
}

double StepCost::bytes(int64_t streams, int64_t context) const {
  return static_cast<double>(shared_bytes) + static_cast<double>(expert_bytes) * touched(streams) +
         static_cast<double>(streams * (state_bytes + context * context_bytes));
}

double StepCost::macs(int64_t streams, int64_t context) const {
  return static_cast<double>(streams * (body_macs + head_macs + context * context_macs));
}

double StepCost::prompt_macs(int64_t tokens) const {
  const int64_t earlier = tokens / 2;  // of a row, in the mean
  return static_cast<double>(tokens) * static_cast<double>(body_macs + earlier * context_macs) +
         static_cast<double>(head_macs);
}

StepCost program_cost(const Program& program, const ModelConfig& config, const CpuWeights& weights) {
  Sizes sizes;
  if (config.kv_format == KvFormat::kFp8) sizes.kv_value_bytes = 1;  // and the scales, which are left out
  sizes.matrix = [&](WeightRef ref) { return size_of(weights.matrix(ref)); };
  sizes.feed_forward = [&](int32_t layer) {
    const PackedMoe* moe = weights.moe(layer);
    return moe == nullptr ? dense_size(weights.mlp(layer)) : moe_size(*moe, moe->top_k);
  };
  return count(program, config, sizes);
}

StepCost stored_cost(const Program& program, const ModelConfig& config, const ModelWeights& weights,
                     int64_t kv_value_bytes) {
  Sizes sizes;
  sizes.kv_value_bytes = kv_value_bytes;
  sizes.matrix = [&](WeightRef ref) {
    const WeightMatrix* matrix = find_matrix(weights, ref.slot, ref.layer);
    WEIR_CHECK(matrix != nullptr, "no matrix {} in layer {}", slot_name(ref.slot), ref.layer);
    return size_of(*matrix);
  };
  sizes.feed_forward = [&](int32_t layer) {
    const LayerWeights& of = layer == kMtpLayer ? weights.mtp->layer : weights.layers.at(static_cast<size_t>(layer));
    return config.moe() ? moe_size(of.moe, config.experts_per_token) : dense_size(of.dense);
  };
  return count(program, config, sizes);
}

}  // namespace weir
