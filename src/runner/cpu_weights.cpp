#include "runner/cpu_weights.h"

#include <algorithm>

#include "base/check.h"

namespace weir {

// Collects what is to be packed, then packs it in one parallel region: matrices are independent.
class CpuWeights::Packer {
 public:
  void add(PackedMatrix* target, const WeightMatrix& source) { jobs_.push_back({target, source}); }
  void add(PackedMlp* target, const MlpWeights& source) {
    add(&target->gate, source.gate);
    add(&target->up, source.up);
    add(&target->down, source.down);
  }
  int64_t run(Cpu& cpu) {
    cpu.pool().parallel_for(static_cast<int64_t>(jobs_.size()), [&](int64_t task, int) {
      Job& job = jobs_[static_cast<size_t>(task)];
      *job.target = weir::pack(job.source);
    });
    int64_t bytes = 0;
    for (const Job& job : jobs_) bytes += job.target->bytes();
    return bytes;
  }

 private:
  struct Job {
    PackedMatrix* target;
    WeightMatrix source;
  };
  std::vector<Job> jobs_;
};

GdnShape gdn_shape(const ModelConfig& config) {
  GdnShape shape;
  shape.key_heads = config.gdn_key_heads;
  shape.value_heads = config.gdn_value_heads;
  shape.key_dim = config.gdn_key_dim;
  shape.value_dim = config.gdn_value_dim;
  shape.norm_eps = config.rms_eps;
  return shape;
}

AttentionShape attention_shape(const ModelConfig& config) {
  AttentionShape shape;
  shape.heads = config.heads;
  shape.kv_heads = config.kv_heads;
  shape.head_dim = config.head_dim;
  shape.rope_dim = config.rope_dims;
  shape.eps = config.rms_eps;
  shape.fp8 = config.kv_format == KvFormat::kFp8;
  return shape;
}

CacheSizes cpu_cache_sizes(const ModelConfig& config) {
  CacheSizes sizes;
  sizes.kv_page_bytes = kv_page_bytes(attention_shape(config));
  if (config.count_layers(LayerKind::kLinear) > 0) sizes.gdn_slot_bytes = gdn_slot_bytes(gdn_shape(config));
  return sizes;
}

int32_t CpuWeights::key(WeightRef ref) {
  return (ref.layer - kMtpLayer) * 256 + static_cast<int32_t>(ref.slot);
}

CpuWeights::Layer& CpuWeights::layer(int32_t index) {
  return index == kMtpLayer ? layers_.back() : layers_.at(static_cast<size_t>(index));
}
const CpuWeights::Layer& CpuWeights::layer(int32_t index) const {
  return index == kMtpLayer ? layers_.back() : layers_.at(static_cast<size_t>(index));
}

CpuWeights CpuWeights::pack(const ModelConfig& config, const ModelWeights& weights, Cpu& cpu) {
  CpuWeights out;
  Packer packer;
  out.moe_ = config.moe();
  out.has_draft_head_ = weights.mtp.has_value();
  out.layers_.resize(weights.layers.size() + (out.has_draft_head_ ? 1 : 0));

  const auto matrix = [&](Slot slot, int32_t layer, const WeightMatrix& source) {
    packer.add(&out.matrices_[key({slot, layer})], source);
  };
  const auto vector = [&](Slot slot, int32_t layer, VectorView source) {
    out.vectors_[key({slot, layer})].assign(source.data, source.data + source.size);
  };
  const auto add_layer = [&](int32_t index, const LayerWeights& source) {
    vector(Slot::kInputNorm, index, source.input_norm);
    vector(Slot::kPostNorm, index, source.post_norm);
    Layer& target = out.layer(index);
    if (source.kind == LayerKind::kLinear) {
      matrix(Slot::kGdnQkv, index, source.gdn.in_qkv);
      matrix(Slot::kGdnZ, index, source.gdn.in_z);
      matrix(Slot::kGdnB, index, source.gdn.in_b);
      matrix(Slot::kGdnA, index, source.gdn.in_a);
      matrix(Slot::kGdnOut, index, source.gdn.out);
      target.gdn = make_gdn_parameters(gdn_shape(config), source.gdn.conv, source.gdn.a_log, source.gdn.dt_bias,
                                       source.gdn.norm);
    } else {
      matrix(Slot::kAttnQ, index, source.attention.q);
      matrix(Slot::kAttnK, index, source.attention.k);
      matrix(Slot::kAttnV, index, source.attention.v);
      matrix(Slot::kAttnO, index, source.attention.o);
      vector(Slot::kAttnQNorm, index, source.attention.q_norm);
      vector(Slot::kAttnKNorm, index, source.attention.k_norm);
    }
    if (!config.moe()) {
      packer.add(&target.mlp, source.dense);
      return;
    }
    target.moe.top_k = config.experts_per_token;
    packer.add(&target.moe.router, source.moe.router);
    packer.add(&target.moe.shared_gate, source.moe.shared_gate);
    packer.add(&target.moe.shared, source.moe.shared);
    target.moe.experts.resize(source.moe.experts.size());
    for (size_t e = 0; e < source.moe.experts.size(); ++e) packer.add(&target.moe.experts[e], source.moe.experts[e]);
  };

  if (!config.tied) packer.add(&out.embed_, weights.embed);
  matrix(Slot::kLmHead, kNoLayer, weights.lm_head);
  vector(Slot::kFinalNorm, kNoLayer, weights.final_norm);
  for (size_t i = 0; i < weights.layers.size(); ++i) add_layer(static_cast<int32_t>(i), weights.layers[i]);
  if (weights.mtp) {
    matrix(Slot::kMtpFc, kMtpLayer, weights.mtp->fc);
    vector(Slot::kMtpNormEmbedding, kMtpLayer, weights.mtp->norm_embedding);
    vector(Slot::kMtpNormHidden, kMtpLayer, weights.mtp->norm_hidden);
    vector(Slot::kMtpNorm, kMtpLayer, weights.mtp->norm);
    if (weights.mtp->head.n > 0) matrix(Slot::kMtpHead, kMtpLayer, weights.mtp->head);
    add_layer(kMtpLayer, weights.mtp->layer);
  }
  out.bytes_ = packer.run(cpu);
  for (const auto& [unused, values] : out.vectors_) out.bytes_ += static_cast<int64_t>(values.size() * sizeof(float));
  return out;
}

const PackedMatrix& CpuWeights::matrix(WeightRef ref) const {
  const auto found = matrices_.find(key(ref));
  WEIR_CHECK(found != matrices_.end(), "no matrix {} in layer {}", slot_name(ref.slot), ref.layer);
  return found->second;
}

VectorView CpuWeights::vector(WeightRef ref) const {
  const auto found = vectors_.find(key(ref));
  WEIR_CHECK(found != vectors_.end(), "no vector {} in layer {}", slot_name(ref.slot), ref.layer);
  return {found->second.data(), static_cast<int64_t>(found->second.size())};
}

const GdnParameters& CpuWeights::gdn(int32_t index) const {
  return layer(index).gdn;
}

const PackedMoe* CpuWeights::moe(int32_t index) const {
  return moe_ ? &layer(index).moe : nullptr;
}

const PackedMlp& CpuWeights::mlp(int32_t index) const {
  return layer(index).mlp;
}

int64_t CpuWeights::feed_forward_scratch_bytes(int64_t rows, int threads) const {
  int64_t bytes = 0;
  for (const Layer& layer : layers_) {
    bytes = std::max(bytes,
                     moe_ ? moe_scratch_bytes(layer.moe, rows, threads) : mlp_scratch_bytes(layer.mlp, rows, threads));
  }
  return bytes;
}

}  // namespace weir
