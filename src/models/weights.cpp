#include "models/weights.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>

#include "base/check.h"

namespace weir {
namespace {

// A cache line, and a vector register.
constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = 2u << 20;
// The vectors of a small model fit in one least block; the largest bounds what is reserved and not used.
constexpr size_t kBlockMin = 256u << 10;
constexpr size_t kBlockMax = 64u << 20;

LayerWeights* find_layer(ModelWeights* weights, int32_t layer) {
  if (layer == kMtpLayer) return weights->mtp ? &weights->mtp->layer : nullptr;
  WEIR_CHECK(layer >= 0 && static_cast<size_t>(layer) < weights->layers.size(), "layer {}", layer);
  return &weights->layers[static_cast<size_t>(layer)];
}

MlpWeights* find_expert(LayerWeights* layer, int32_t expert) {
  WEIR_CHECK(expert >= 0 && static_cast<size_t>(expert) < layer->moe.experts.size(), "expert {}", expert);
  return &layer->moe.experts[static_cast<size_t>(expert)];
}

LayerWeights empty_layer(const ModelConfig& config, LayerKind kind) {
  LayerWeights layer;
  layer.kind = kind;
  layer.moe.experts.resize(static_cast<size_t>(config.experts));
  return layer;
}

WeightMatrix* find_layer_matrix(LayerWeights* layer, Slot slot, int32_t expert) {
  switch (slot) {
    case Slot::kGdnQkv:
      return &layer->gdn.in_qkv;
    case Slot::kGdnZ:
      return &layer->gdn.in_z;
    case Slot::kGdnB:
      return &layer->gdn.in_b;
    case Slot::kGdnA:
      return &layer->gdn.in_a;
    case Slot::kGdnOut:
      return &layer->gdn.out;
    case Slot::kAttnQ:
      return &layer->attention.q;
    case Slot::kAttnK:
      return &layer->attention.k;
    case Slot::kAttnV:
      return &layer->attention.v;
    case Slot::kAttnO:
      return &layer->attention.o;
    case Slot::kRouter:
      return &layer->moe.router;
    case Slot::kSharedGate:
      return &layer->moe.shared_gate;
    case Slot::kSharedGateProj:
      return &layer->moe.shared.gate;
    case Slot::kSharedUpProj:
      return &layer->moe.shared.up;
    case Slot::kSharedDownProj:
      return &layer->moe.shared.down;
    case Slot::kExpertGate:
      return &find_expert(layer, expert)->gate;
    case Slot::kExpertUp:
      return &find_expert(layer, expert)->up;
    case Slot::kExpertDown:
      return &find_expert(layer, expert)->down;
    case Slot::kDenseGate:
      return &layer->dense.gate;
    case Slot::kDenseUp:
      return &layer->dense.up;
    case Slot::kDenseDown:
      return &layer->dense.down;
    default:
      return nullptr;
  }
}

VectorView* find_layer_vector(LayerWeights* layer, Slot slot) {
  switch (slot) {
    case Slot::kInputNorm:
      return &layer->input_norm;
    case Slot::kPostNorm:
      return &layer->post_norm;
    case Slot::kGdnConv:
      return &layer->gdn.conv;
    case Slot::kGdnALog:
      return &layer->gdn.a_log;
    case Slot::kGdnDtBias:
      return &layer->gdn.dt_bias;
    case Slot::kGdnNorm:
      return &layer->gdn.norm;
    case Slot::kAttnQNorm:
      return &layer->attention.q_norm;
    case Slot::kAttnKNorm:
      return &layer->attention.k_norm;
    default:
      return nullptr;
  }
}

}  // namespace

void WeightStore::Free::operator()(std::byte* block) const {
  std::free(block);
}

std::span<std::byte> WeightStore::allocate(int64_t bytes) {
  WEIR_CHECK(bytes >= 0, "{} bytes", bytes);
  const size_t rounded = (static_cast<size_t>(bytes) + kAlignment - 1) / kAlignment * kAlignment;
  if (rounded > left_.size()) {
    // A quarter of what there is: the unused rest stays a small share and the number of blocks small.
    const size_t grown = std::clamp(static_cast<size_t>(bytes_) / 4, kBlockMin, kBlockMax);
    const size_t unit = std::max(rounded, grown) < kHugePage ? kBlockMin : kHugePage;
    const size_t size = (std::max(rounded, grown) + unit - 1) / unit * unit;
    auto* block = static_cast<std::byte*>(std::aligned_alloc(size < kHugePage ? kAlignment : kHugePage, size));
    WEIR_CHECK(block != nullptr, "out of memory for {} bytes of weights", size);
    if (size >= kHugePage) ::madvise(block, size, MADV_HUGEPAGE);  // advice: refusal costs time only
    blocks_.emplace_back(block);
    left_ = {block, size};
  }
  const std::span<std::byte> taken = left_.first(static_cast<size_t>(bytes));
  left_ = left_.subspan(rounded);
  bytes_ += bytes;
  return taken;
}

ModelWeights empty_weights(const ModelConfig& config, bool mtp) {
  ModelWeights weights;
  weights.layers.reserve(config.layers.size());
  for (const LayerKind kind : config.layers) weights.layers.push_back(empty_layer(config, kind));
  if (mtp) {
    weights.mtp.emplace();
    weights.mtp->layer = empty_layer(config, LayerKind::kFull);
  }
  return weights;
}

WeightMatrix* find_matrix(ModelWeights* weights, Slot slot, int32_t layer, int32_t expert) {
  if (slot == Slot::kEmbed) return &weights->embed;
  if (slot == Slot::kLmHead) return &weights->lm_head;
  if (slot == Slot::kMtpFc) return weights->mtp ? &weights->mtp->fc : nullptr;
  if (slot == Slot::kMtpHead) return weights->mtp && weights->mtp->head.n > 0 ? &weights->mtp->head : nullptr;
  if (layer == kNoLayer) return nullptr;
  LayerWeights* found = find_layer(weights, layer);
  return found == nullptr ? nullptr : find_layer_matrix(found, slot, expert);
}

VectorView* find_vector(ModelWeights* weights, Slot slot, int32_t layer) {
  switch (slot) {
    case Slot::kFinalNorm:
      return &weights->final_norm;
    case Slot::kMtpNormEmbedding:
      return weights->mtp ? &weights->mtp->norm_embedding : nullptr;
    case Slot::kMtpNormHidden:
      return weights->mtp ? &weights->mtp->norm_hidden : nullptr;
    case Slot::kMtpNorm:
      return weights->mtp ? &weights->mtp->norm : nullptr;
    default:
      break;
  }
  if (layer == kNoLayer) return nullptr;
  LayerWeights* found = find_layer(weights, layer);
  return found == nullptr ? nullptr : find_layer_vector(found, slot);
}

const WeightMatrix* find_matrix(const ModelWeights& weights, Slot slot, int32_t layer, int32_t expert) {
  return find_matrix(const_cast<ModelWeights*>(&weights), slot, layer, expert);
}

const VectorView* find_vector(const ModelWeights& weights, Slot slot, int32_t layer) {
  return find_vector(const_cast<ModelWeights*>(&weights), slot, layer);
}

}  // namespace weir
