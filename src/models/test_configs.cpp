#include "models/test_configs.h"

#include <fmt/core.h>

#include "base/check.h"

namespace weir {
namespace {

constexpr std::string_view kRope =
    R"("rope_parameters": {"rope_type": "default", "rope_theta": 10000000, "partial_rotary_factor": 0.25,
     "mrope_interleaved": true, "mrope_section": [11, 11, 10]})";

}  // namespace

std::string flat_moe_config(const TestSizes& sizes) {
  return fmt::format(R"({{"architectures": ["Qwen3_5MoeForCausalLM"], "model_type": "qwen3_5_moe_text",
    "hidden_size": {}, "num_hidden_layers": {}, "num_attention_heads": {}, "num_key_value_heads": 2, "head_dim": 256,
    "linear_num_key_heads": 16, "linear_num_value_heads": {}, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4, "num_experts": {}, "num_experts_per_tok": {}, "moe_intermediate_size": {},
    "shared_expert_intermediate_size": {}, "vocab_size": 248320, "full_attention_interval": 4, "attn_output_gate": true,
    "attention_bias": false, "hidden_act": "silu", "rms_norm_eps": 1e-06, "max_position_embeddings": 262144,
    "mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": false, "eos_token_id": 248044, "mlp_only_layers": [],
    "mamba_ssm_dtype": "float32", {}}})",
                     sizes.hidden, sizes.layers, sizes.heads, sizes.value_heads, sizes.experts, sizes.top_k,
                     sizes.width, sizes.width, kRope);
}

std::string nested_moe_config(const TestSizes& sizes) {
  return fmt::format(R"({{"architectures": ["Qwen3_5MoeForConditionalGeneration"], "model_type": "qwen3_5_moe",
    "image_token_id": 248056, "tie_word_embeddings": false, "vision_config": {{"depth": 27, "hidden_size": 1152}},
    "text_config": {}}})",
                     flat_moe_config(sizes));
}

std::string next_config() {
  return R"({"architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "hidden_size": 2048,
    "num_hidden_layers": 48, "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256,
    "linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4, "num_experts": 512, "num_experts_per_tok": 10, "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512, "intermediate_size": 5120, "decoder_sparse_step": 1, "norm_topk_prob": true,
    "vocab_size": 151936, "full_attention_interval": 4, "rms_norm_eps": 1e-06, "max_position_embeddings": 262144,
    "partial_rotary_factor": 0.25, "rope_theta": 10000000, "rope_scaling": null, "eos_token_id": [151645, 151643],
    "hidden_act": "silu", "tie_word_embeddings": false})";
}

std::string dense_config() {
  return fmt::format(R"({{"architectures": ["Qwen3_5ForConditionalGeneration"], "model_type": "qwen3_5",
    "tie_word_embeddings": true, "text_config": {{"model_type": "qwen3_5_text", "hidden_size": 2560,
    "num_hidden_layers": 32, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 256,
    "linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4, "intermediate_size": 9216, "vocab_size": 248320, "rms_norm_eps": 1e-06,
    "max_position_embeddings": 262144, "mtp_num_hidden_layers": 1, {}}}}})",
                     kRope);
}

std::string replaced(std::string json, const std::string& from, const std::string& to) {
  const size_t at = json.find(from);
  WEIR_CHECK(at != std::string::npos, "no {} in the config", from);
  return json.replace(at, from.size(), to);
}

}  // namespace weir
