#include "models/binding.h"

#include <array>
#include <utility>

#include "base/check.h"

namespace weir {
namespace {

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

struct Row {
  Slot slot;
  std::string_view name;  // behind the layer's prefix
  Shape shape;
  DTypeRule rule;
  ShardRule shard;
};

class Table {
 public:
  explicit Table(const ModelConfig& config) : config_(config) {}

  void add(std::string name, Slot slot, Shape shape, DTypeRule rule, ShardRule shard, int32_t layer = kNoLayer,
           int32_t expert = kNoExpert) {
    bindings_.push_back({std::move(name), slot, layer, expert, shape, rule, shard});
  }

  void add_rows(const std::string& prefix, int32_t layer, std::initializer_list<Row> rows) {
    for (const Row& row : rows) add(prefix + std::string(row.name), row.slot, row.shape, row.rule, row.shard, layer);
  }

  void add_layer(const std::string& prefix, int32_t layer, LayerKind kind, bool fused_experts) {
    const int64_t d = config_.hidden;
    add_rows(prefix, layer,
             {{Slot::kInputNorm, "input_layernorm.weight", {d}, DTypeRule::kVector, ShardRule::kReplicate},
              {Slot::kPostNorm, "post_attention_layernorm.weight", {d}, DTypeRule::kVector, ShardRule::kReplicate}});
    if (kind == LayerKind::kFull) {
      add_attention(prefix + "self_attn.", layer);
    } else {
      add_gdn(prefix + "linear_attn.", layer);
    }
    if (config_.moe()) {
      add_moe(prefix + "mlp.", layer, fused_experts);
    } else {
      add_dense(prefix + "mlp.", layer);
    }
  }

  std::vector<Binding> take() { return std::move(bindings_); }

 private:
  void add_attention(const std::string& prefix, int32_t layer) {
    const int64_t d = config_.hidden;
    const int64_t e = config_.head_dim;
    const int64_t q = config_.heads * e;
    const int64_t kv = config_.kv_heads * e;
    add_rows(prefix, layer,
             {{Slot::kAttnQ, "q_proj.weight", {2 * q, d}, DTypeRule::kMatrix, ShardRule::kHeadRows},
              {Slot::kAttnK, "k_proj.weight", {kv, d}, DTypeRule::kMatrix, ShardRule::kKvHeadRows},
              {Slot::kAttnV, "v_proj.weight", {kv, d}, DTypeRule::kMatrix, ShardRule::kKvHeadRows},
              {Slot::kAttnO, "o_proj.weight", {d, q}, DTypeRule::kMatrix, ShardRule::kHeadColumns},
              {Slot::kAttnQNorm, "q_norm.weight", {e}, DTypeRule::kVector, ShardRule::kReplicate},
              {Slot::kAttnKNorm, "k_norm.weight", {e}, DTypeRule::kVector, ShardRule::kReplicate}});
  }

  void add_gdn(const std::string& prefix, int32_t layer) {
    const int64_t d = config_.hidden;
    const int64_t c = config_.qkv_width();
    const int64_t v = config_.value_width();
    const int64_t nv = config_.gdn_value_heads;
    if (config_.family == ModelFamily::kQwen3Next) {
      add_rows(prefix, layer,
               {{Slot::kGdnQkvz, "in_proj_qkvz.weight", {c + v, d}, DTypeRule::kMatrix, ShardRule::kGdnKeyGroups},
                {Slot::kGdnBa, "in_proj_ba.weight", {2 * nv, d}, DTypeRule::kMatrix, ShardRule::kGdnKeyGroups}});
    } else {
      add_rows(prefix, layer,
               {{Slot::kGdnQkv, "in_proj_qkv.weight", {c, d}, DTypeRule::kMatrix, ShardRule::kGdnSections},
                {Slot::kGdnZ, "in_proj_z.weight", {v, d}, DTypeRule::kMatrix, ShardRule::kGdnRows},
                {Slot::kGdnB, "in_proj_b.weight", {nv, d}, DTypeRule::kMatrix, ShardRule::kGdnRows},
                {Slot::kGdnA, "in_proj_a.weight", {nv, d}, DTypeRule::kMatrix, ShardRule::kGdnRows}});
    }
    add_rows(
        prefix, layer,
        {{Slot::kGdnConv, "conv1d.weight", {c, 1, config_.conv_width}, DTypeRule::kVector, ShardRule::kGdnSections},
         {Slot::kGdnALog, "A_log", {nv}, DTypeRule::kVector, ShardRule::kGdnRows},
         {Slot::kGdnDtBias, "dt_bias", {nv}, DTypeRule::kVector, ShardRule::kGdnRows},
         {Slot::kGdnNorm, "norm.weight", {config_.gdn_value_dim}, DTypeRule::kVector, ShardRule::kReplicate},
         {Slot::kGdnOut, "out_proj.weight", {d, v}, DTypeRule::kMatrix, ShardRule::kGdnColumns}});
  }

  void add_moe(const std::string& prefix, int32_t layer, bool fused) {
    const int64_t d = config_.hidden;
    const int64_t f = config_.expert_width;
    const int64_t s = config_.shared_width;
    add_rows(
        prefix, layer,
        {{Slot::kRouter, "gate.weight", {config_.experts, d}, DTypeRule::kMatrix, ShardRule::kReplicate},
         {Slot::kSharedGate, "shared_expert_gate.weight", {1, d}, DTypeRule::kMatrix, ShardRule::kReplicate},
         {Slot::kSharedGateProj, "shared_expert.gate_proj.weight", {s, d}, DTypeRule::kMatrix, ShardRule::kRows},
         {Slot::kSharedUpProj, "shared_expert.up_proj.weight", {s, d}, DTypeRule::kMatrix, ShardRule::kRows},
         {Slot::kSharedDownProj, "shared_expert.down_proj.weight", {d, s}, DTypeRule::kMatrix, ShardRule::kColumns}});
    if (fused) {
      const Shape gate_up = {config_.experts, 2 * f, d};
      const Shape down = {config_.experts, d, f};
      add(prefix + "experts.gate_up_proj", Slot::kExpertsGateUp, gate_up, DTypeRule::kMatrix,
          ShardRule::kFusedExpertRows, layer);
      add(prefix + "experts.down_proj", Slot::kExpertsDown, down, DTypeRule::kMatrix, ShardRule::kExpertColumns, layer);
      return;
    }
    for (int32_t expert = 0; expert < config_.experts; ++expert) {
      const std::string base = fmt::format("{}experts.{}.", prefix, expert);
      add(base + "gate_proj.weight", Slot::kExpertGate, {f, d}, DTypeRule::kMatrix, ShardRule::kExpertRows, layer,
          expert);
      add(base + "up_proj.weight", Slot::kExpertUp, {f, d}, DTypeRule::kMatrix, ShardRule::kExpertRows, layer, expert);
      add(base + "down_proj.weight", Slot::kExpertDown, {d, f}, DTypeRule::kMatrix, ShardRule::kExpertColumns, layer,
          expert);
    }
  }

  void add_dense(const std::string& prefix, int32_t layer) {
    const int64_t d = config_.hidden;
    const int64_t f = config_.dense_width;
    add_rows(prefix, layer,
             {{Slot::kDenseGate, "gate_proj.weight", {f, d}, DTypeRule::kMatrix, ShardRule::kRows},
              {Slot::kDenseUp, "up_proj.weight", {f, d}, DTypeRule::kMatrix, ShardRule::kRows},
              {Slot::kDenseDown, "down_proj.weight", {d, f}, DTypeRule::kMatrix, ShardRule::kColumns}});
  }

  const ModelConfig& config_;
  std::vector<Binding> bindings_;
};

// Rows and columns of one matrix of a binding (fused experts have a leading axis of experts).
struct Extents {
  int64_t n;
  int64_t k;
};

Extents extents(const Shape& shape) {
  WEIR_CHECK(shape.rank() >= 2, "matrix of shape {}", shape.text());
  return {shape[shape.rank() - 2], shape[shape.rank() - 1]};
}

Shape with_extents(const Shape& shape, int64_t n, int64_t k) {
  Shape out;
  for (int axis = 0; axis < shape.rank() - 2; ++axis) out.push_back(shape[axis]);
  out.push_back(n);
  out.push_back(k);
  return out;
}

}  // namespace

std::vector<Binding> make_bindings(const ModelConfig& config, const BindingVariant& variant) {
  Table table(config);
  const int64_t d = config.hidden;
  const int64_t v = config.vocabulary;
  table.add(config.prefix + "embed_tokens.weight", Slot::kEmbed, {v, d}, DTypeRule::kPlainMatrix, ShardRule::kRows);
  for (int32_t layer = 0; layer < config.layer_count(); ++layer) {
    const std::string prefix = fmt::format("{}layers.{}.", config.prefix, layer);
    table.add_layer(prefix, layer, config.layers[static_cast<size_t>(layer)], variant.fused_experts);
  }
  table.add(config.prefix + "norm.weight", Slot::kFinalNorm, {d}, DTypeRule::kVector, ShardRule::kReplicate);
  if (!config.tied) {
    table.add("lm_head.weight", Slot::kLmHead, {v, d}, DTypeRule::kMatrix, ShardRule::kRows);
  }
  if (variant.mtp) {
    table.add("mtp.fc.weight", Slot::kMtpFc, {d, 2 * d}, DTypeRule::kMatrix, ShardRule::kReplicate, kMtpLayer);
    table.add_rows(
        "mtp.", kMtpLayer,
        {{Slot::kMtpNormEmbedding, "pre_fc_norm_embedding.weight", {d}, DTypeRule::kVector, ShardRule::kReplicate},
         {Slot::kMtpNormHidden, "pre_fc_norm_hidden.weight", {d}, DTypeRule::kVector, ShardRule::kReplicate},
         {Slot::kMtpNorm, "norm.weight", {d}, DTypeRule::kVector, ShardRule::kReplicate}});
    table.add_layer("mtp.layers.0.", kMtpLayer, LayerKind::kFull, variant.fused_mtp_experts);
  }
  return table.take();
}

WeightFormat stored_format(StorageLayout layout, Slot slot, int32_t layer) {
  const bool routed = slot == Slot::kExpertsGateUp || slot == Slot::kExpertsDown || slot == Slot::kExpertGate ||
                      slot == Slot::kExpertUp || slot == Slot::kExpertDown;
  switch (layout) {
    case StorageLayout::kBf16:
      return WeightFormat::kBf16;
    case StorageLayout::kMxfp4:
      return routed && layer != kMtpLayer ? WeightFormat::kMxfp4 : WeightFormat::kBf16;
    case StorageLayout::kFp8Block:
      break;
  }
  switch (slot) {
    case Slot::kGdnQkv:
    case Slot::kGdnQkvz:
    case Slot::kGdnZ:
    case Slot::kGdnOut:
    case Slot::kAttnQ:
    case Slot::kAttnK:
    case Slot::kAttnV:
    case Slot::kAttnO:
    case Slot::kSharedGateProj:
    case Slot::kSharedUpProj:
    case Slot::kSharedDownProj:
    case Slot::kDenseGate:
    case Slot::kDenseUp:
    case Slot::kDenseDown:
      return WeightFormat::kFp8Block;
    default:
      return routed ? WeightFormat::kFp8Block : WeightFormat::kBf16;
  }
}

void append_stored(const Binding& binding, StorageLayout layout, bool gdn_f32, std::vector<StoredTensor>* out) {
  const bool f32 = gdn_f32 && (binding.slot == Slot::kGdnALog || binding.slot == Slot::kGdnNorm);
  const WeightFormat format = stored_format(layout, binding.slot, binding.layer);
  if (format == WeightFormat::kBf16) {
    out->push_back({binding.name, f32 ? DType::kF32 : DType::kBf16, binding.shape});
    return;
  }
  const Extents e = extents(binding.shape);
  if (format == WeightFormat::kMxfp4) {
    out->push_back({binding.name, DType::kU8, with_extents(binding.shape, e.n, e.k / 2)});
    out->push_back({binding.name + "_scale", DType::kU8, with_extents(binding.shape, e.n, e.k / kMxfp4Group)});
    return;
  }
  out->push_back({binding.name, DType::kF8E4M3, binding.shape});
  out->push_back({binding.name + "_scale_inv", DType::kBf16,
                  with_extents(binding.shape, ceil_div(e.n, kFp8Block), ceil_div(e.k, kFp8Block))});
}

std::string_view slot_name(Slot slot) {
  constexpr std::array<std::string_view, 40> kNames = {"embed",
                                                       "final_norm",
                                                       "lm_head",
                                                       "input_norm",
                                                       "post_norm",
                                                       "gdn_qkv",
                                                       "gdn_z",
                                                       "gdn_b",
                                                       "gdn_a",
                                                       "gdn_qkvz",
                                                       "gdn_ba",
                                                       "gdn_conv",
                                                       "gdn_a_log",
                                                       "gdn_dt_bias",
                                                       "gdn_norm",
                                                       "gdn_out",
                                                       "attn_q",
                                                       "attn_k",
                                                       "attn_v",
                                                       "attn_o",
                                                       "attn_q_norm",
                                                       "attn_k_norm",
                                                       "router",
                                                       "shared_gate",
                                                       "shared_gate_proj",
                                                       "shared_up_proj",
                                                       "shared_down_proj",
                                                       "experts_gate_up",
                                                       "experts_down",
                                                       "expert_gate",
                                                       "expert_up",
                                                       "expert_down",
                                                       "dense_gate",
                                                       "dense_up",
                                                       "dense_down",
                                                       "mtp_fc",
                                                       "mtp_norm_embedding",
                                                       "mtp_norm_hidden",
                                                       "mtp_norm",
                                                       "mtp_head"};
  static_assert(static_cast<size_t>(Slot::kMtpHead) + 1 == kNames.size());
  return kNames.at(static_cast<size_t>(slot));
}

}  // namespace weir
