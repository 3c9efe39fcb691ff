// config.json of the served families, checked and flattened into one struct.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace weir {

enum class LayerKind : uint8_t {
  kLinear,  // Gated DeltaNet mixer
  kFull,    // gated softmax attention
};

enum class ModelFamily : uint8_t {
  kQwen35Moe,  // qwen3_5_moe (nested) and qwen3_5_moe_text (flat)
  kQwen35,     // qwen3_5 (nested) and qwen3_5_text (flat): dense MLP
  kQwen3Next,  // qwen3_next: GDN projections fused and interleaved in the checkpoint
};

// How quantization_config says the checkpoint is stored; the loader believes the tensors, `weir inspect` compares.
enum class QuantMethod : uint8_t { kNone, kFp8, kQuark };

// How pages hold keys and values.
enum class KvFormat : uint8_t {
  kNative,  // as the device's kernels have them: float32, or BF16 by the kernels for packed weights
  kFp8,     // rows of codes with a scale each (tensor/fp8_row.h)
};

// What a prompt's rows are multiplied as.
enum class PrefillActivations : uint8_t {
  kNative,  // as generated tokens' rows are
  kFp8,     // where weights are block FP8: E4M3 codes with a scale for each row and 128 values
};

// Every size is checked against a range on parsing, so that products of two fit in int64_t with room.
struct ModelConfig {
  ModelFamily family = ModelFamily::kQwen35Moe;
  std::string model_type;    // as the outer level of the file spells it
  std::string architecture;  // architectures[0], or empty
  std::string prefix;        // of the text tensors: "model.language_model." or "model."
  QuantMethod quant_method = QuantMethod::kNone;

  int64_t hidden = 0;         // D
  int64_t vocabulary = 0;     // V: rows of the embedding, padding included
  int64_t max_positions = 0;  // longest context the model was made for
  float rms_eps = 0;
  bool tied = false;  // lm_head is the embedding
  std::vector<LayerKind> layers;

  // Full attention.
  int64_t heads = 0;      // H
  int64_t kv_heads = 0;   // K; divides heads
  int64_t head_dim = 0;   // E
  int64_t rope_dims = 0;  // first dimensions of a head that rotate, even
  double rope_theta = 0;

  // Gated DeltaNet.
  int64_t gdn_key_heads = 0;    // nk
  int64_t gdn_value_heads = 0;  // nv, a multiple of nk
  int64_t gdn_key_dim = 0;
  int64_t gdn_value_dim = 0;
  int64_t conv_width = 0;  // taps of the depthwise convolution

  // MLP: experts == 0 means dense with width dense_width.
  int64_t experts = 0;            // X
  int64_t experts_per_token = 0;  // top-k
  int64_t expert_width = 0;       // F
  int64_t shared_width = 0;
  int64_t dense_width = 0;

  int64_t mtp_layers = 0;  // as the file says; the tensors decide
  // What the file does not say: the caller's choices.
  KvFormat kv_format = KvFormat::kNative;
  PrefillActivations prefill_activations = PrefillActivations::kNative;
  std::vector<int64_t> eos_ids;

  bool moe() const { return experts > 0; }
  int64_t layer_count() const { return static_cast<int64_t>(layers.size()); }
  int64_t count_layers(LayerKind kind) const;
  int64_t key_width() const { return gdn_key_heads * gdn_key_dim; }
  int64_t value_width() const { return gdn_value_heads * gdn_value_dim; }
  // Rows of in_proj_qkv and channels of the convolution: all q heads, all k heads, all v heads.
  int64_t qkv_width() const { return 2 * key_width() + value_width(); }
};

// Parses config.json. Every missing, mistyped or absurd value is an error that names its key (kInvalidArgument); a
// known feature that this engine does not serve is kUnsupported and says which.
Result<ModelConfig> parse_model_config(std::string_view json);

// The config.json of a checkpoint folder.
Result<ModelConfig> read_model_config(const std::string& directory);

// "qwen3_5_moe" and so on.
std::string_view model_family_name(ModelFamily family);

}  // namespace weir
