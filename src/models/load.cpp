// Loading: the binding table against a checkpoint's header, one tensor at a time.
#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "models/stored_matrix.h"
#include "models/weights.h"
#include "tensor/bf16.h"

namespace weir {
namespace {

constexpr size_t kNamesShown = 8;
constexpr std::string_view kEmbedName = "embed_tokens.weight";
constexpr std::string_view kHeadName = "lm_head.weight";
constexpr std::string_view kMtpPrefix = "mtp.";
constexpr std::string_view kVisionPrefix = "model.visual.";

std::string list_names(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < std::min(names.size(), kNamesShown); ++i) {
    text += fmt::format("{}\"{}\"", i == 0 ? "" : ", ", names[i]);
  }
  if (names.size() > kNamesShown) text += fmt::format(" and {} more", names.size() - kNamesShown);
  return text;
}

class Loader {
 public:
  Loader(const ModelConfig& config, const Checkpoint& checkpoint, bool check_only)
      : config_(config), checkpoint_(checkpoint), check_only_(check_only) {}

  Result<ModelWeights> load() {
    config_.prefix = find_prefix(config_, checkpoint_);
    const BindingVariant variant = find_variant(config_, checkpoint_);
    used_.assign(checkpoint_.tensors().size(), false);
    weights_ = empty_weights(config_, variant.mtp);
    for (const Binding& binding : make_bindings(config_, variant)) {
      const TensorInfo* info = checkpoint_.find(binding.name);
      if (info == nullptr) {
        missing_.push_back(binding.name);
        continue;
      }
      use(info);
      WEIR_RETURN_IF_ERROR(place(binding, *info));
    }
    WEIR_RETURN_IF_ERROR(check_names());
    if (config_.tied) weights_.lm_head = weights_.embed;
    return std::move(weights_);
  }

 private:
  void use(const TensorInfo* info) {
    const auto index = static_cast<size_t>(info - checkpoint_.tensors().data());
    used_[index] = true;
    weights_.total_bytes += static_cast<int64_t>(info->bytes.size());
  }

  Status place(const Binding& binding, const TensorInfo& info) {
    if (binding.rule == DTypeRule::kVector) return place_vector(binding, info);
    WEIR_ASSIGN_OR_RETURN(const StoredMatrix stored, read_stored_matrix(binding, info, checkpoint_, &weights_.store));
    if (stored.scales != nullptr) use(stored.scales);
    if (check_only_) return Ok{};
    switch (binding.slot) {
      case Slot::kExpertsGateUp:
      case Slot::kExpertsDown:
        return place_fused(binding, stored);
      case Slot::kGdnQkvz:
        return place_qkvz(binding, stored.matrix);
      case Slot::kGdnBa:
        return place_ba(binding, stored.matrix);
      default:
        *find_matrix(&weights_, binding.slot, binding.layer, binding.expert) = stored.matrix;
        return Ok{};
    }
  }

  Status place_vector(const Binding& binding, const TensorInfo& info) {
    if (info.shape != binding.shape || (info.dtype != DType::kBf16 && info.dtype != DType::kF32)) {
      return make_error(ErrorCode::kCorrupt, "tensor \"{}\" should be BF16 or F32 {}, is {} {}", binding.name,
                        binding.shape.text(), dtype_name(info.dtype), info.shape.text());
    }
    if (check_only_) return Ok{};
    const int64_t count = binding.shape.elements();
    auto* values = reinterpret_cast<float*>(weights_.store.allocate(count * dtype_bytes(DType::kF32)).data());
    if (info.dtype == DType::kF32) {
      std::memcpy(values, info.bytes.data(), info.bytes.size());
    } else {
      for (int64_t i = 0; i < count; ++i) {
        uint16_t bits = 0;
        std::memcpy(&bits, info.bytes.data() + i * dtype_bytes(DType::kBf16), sizeof(bits));
        values[i] = bf16_to_float(bits);
      }
    }
    *find_vector(&weights_, binding.slot, binding.layer) = {values, count};
    return Ok{};
  }

  Status place_fused(const Binding& binding, const StoredMatrix& stored) {
    const bool down = binding.slot == Slot::kExpertsDown;
    const int64_t rows_each = binding.shape[1];
    const int64_t width = config_.expert_width;
    for (int32_t expert = 0; expert < config_.experts; ++expert) {
      const auto slice = [&](Slot slot, int64_t first, int64_t count) -> Status {
        WEIR_ASSIGN_OR_RETURN(*find_matrix(&weights_, slot, binding.layer, expert),
                              slice_stacked(stored, binding, expert, rows_each, first, count));
        return Ok{};
      };
      if (down) {
        WEIR_RETURN_IF_ERROR(slice(Slot::kExpertDown, 0, rows_each));
        continue;
      }
      WEIR_RETURN_IF_ERROR(slice(Slot::kExpertGate, 0, width));
      WEIR_RETURN_IF_ERROR(slice(Slot::kExpertUp, width, width));
    }
    return Ok{};
  }

  // Per key head: dk query rows, dk key rows, r * dv value rows, r * dv gate rows (r value heads share a key head).
  Status place_qkvz(const Binding& binding, const WeightMatrix& matrix) {
    const int64_t dk = config_.gdn_key_dim;
    const int64_t value_rows = config_.gdn_value_heads / config_.gdn_key_heads * config_.gdn_value_dim;
    const int64_t stride = 2 * dk + 2 * value_rows;
    std::vector<RowRange> qkv;
    std::vector<RowRange> z;
    const auto take = [&](std::vector<RowRange>* to, int64_t offset, int64_t count) {
      for (int64_t head = 0; head < config_.gdn_key_heads; ++head) to->push_back({head * stride + offset, count});
    };
    take(&qkv, 0, dk);
    take(&qkv, dk, dk);
    take(&qkv, 2 * dk, value_rows);
    take(&z, 2 * dk + value_rows, value_rows);
    GdnWeights& gdn = weights_.layers[static_cast<size_t>(binding.layer)].gdn;
    WEIR_ASSIGN_OR_RETURN(gdn.in_qkv, gather_rows(matrix, qkv, binding, &weights_.store));
    WEIR_ASSIGN_OR_RETURN(gdn.in_z, gather_rows(matrix, z, binding, &weights_.store));
    return Ok{};
  }

  // Per key head: r rows of b, then r rows of a.
  Status place_ba(const Binding& binding, const WeightMatrix& matrix) {
    const int64_t shared = config_.gdn_value_heads / config_.gdn_key_heads;
    std::vector<RowRange> b;
    std::vector<RowRange> a;
    for (int64_t head = 0; head < config_.gdn_key_heads; ++head) {
      b.push_back({head * 2 * shared, shared});
      a.push_back({head * 2 * shared + shared, shared});
    }
    GdnWeights& gdn = weights_.layers[static_cast<size_t>(binding.layer)].gdn;
    WEIR_ASSIGN_OR_RETURN(gdn.in_b, gather_rows(matrix, b, binding, &weights_.store));
    WEIR_ASSIGN_OR_RETURN(gdn.in_a, gather_rows(matrix, a, binding, &weights_.store));
    return Ok{};
  }

  // A head that is stored although the config ties it must be the embedding again.
  bool redundant_head(const TensorInfo& info) const {
    if (!config_.tied || info.name != kHeadName) return false;
    const TensorInfo* embed = checkpoint_.find(config_.prefix + std::string(kEmbedName));
    return embed != nullptr && embed->dtype == info.dtype && embed->shape == info.shape &&
           std::equal(embed->bytes.begin(), embed->bytes.end(), info.bytes.begin(), info.bytes.end());
  }

  Status check_names() const {
    if (!missing_.empty()) {
      return with_remedy(make_error(ErrorCode::kCorrupt, "{} of the model's tensors are missing: {}", missing_.size(),
                                    list_names(missing_)),
                         "the checkpoint is incomplete, or config.json belongs to another");
    }
    std::vector<std::string> unknown;
    for (size_t i = 0; i < used_.size(); ++i) {
      const TensorInfo& info = checkpoint_.tensors()[i];
      if (!used_[i] && !info.name.starts_with(kVisionPrefix) && !redundant_head(info)) unknown.push_back(info.name);
    }
    if (unknown.empty()) return Ok{};
    return with_remedy(
        make_error(ErrorCode::kCorrupt, "{} tensors have no place in a {} model: {}", unknown.size(),
                   model_family_name(config_.family), list_names(unknown)),
        "weights that would be left out silently give wrong answers: check that config.json belongs here");
  }

  ModelConfig config_;
  const Checkpoint& checkpoint_;
  bool check_only_;
  ModelWeights weights_;
  std::vector<bool> used_;
  std::vector<std::string> missing_;
};

}  // namespace

std::string find_prefix(const ModelConfig& config, const Checkpoint& checkpoint) {
  for (const std::string& prefix : {config.prefix, std::string("model."), std::string("model.language_model.")}) {
    if (checkpoint.find(prefix + std::string(kEmbedName)) != nullptr) return prefix;
  }
  return config.prefix;
}

BindingVariant find_variant(const ModelConfig& config, const Checkpoint& checkpoint) {
  BindingVariant variant;
  constexpr std::string_view kFused = "mlp.experts.gate_up_proj";
  variant.fused_experts = checkpoint.find(fmt::format("{}layers.0.{}", config.prefix, kFused)) != nullptr;
  variant.fused_mtp_experts = checkpoint.find(fmt::format("mtp.layers.0.{}", kFused)) != nullptr;
  variant.mtp = std::any_of(checkpoint.tensors().begin(), checkpoint.tensors().end(),
                            [](const TensorInfo& info) { return info.name.starts_with(kMtpPrefix); });
  return variant;
}

Result<ModelWeights> load_weights(const ModelConfig& config, const Checkpoint& checkpoint) {
  return Loader(config, checkpoint, false).load();
}

Status check_weights(const ModelConfig& config, const Checkpoint& checkpoint) {
  WEIR_RETURN_IF_ERROR(Loader(config, checkpoint, true).load());
  return Ok{};
}

}  // namespace weir
