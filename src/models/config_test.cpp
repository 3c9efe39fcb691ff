#include "models/config.h"

#include <gtest/gtest.h>

#include "models/test_configs.h"

namespace weir {
namespace {

std::string error_of(const std::string& json) {
  const Result<ModelConfig> config = parse_model_config(json);
  return config.ok() ? "accepted" : config.error().text();
}

TEST(Config, ThePublished35BIsReadWhole) {
  const Result<ModelConfig> parsed = parse_model_config(nested_moe_config(kSizes35B));
  ASSERT_TRUE(parsed.ok()) << parsed.error().text();
  const ModelConfig& config = *parsed;
  EXPECT_EQ(config.family, ModelFamily::kQwen35Moe);
  EXPECT_EQ(config.prefix, "model.language_model.");
  EXPECT_EQ(config.hidden, 2048);
  EXPECT_EQ(config.layer_count(), 40);
  EXPECT_EQ(config.count_layers(LayerKind::kFull), 10);
  for (size_t layer = 0; layer < config.layers.size(); ++layer) {
    EXPECT_EQ(config.layers[layer] == LayerKind::kFull, layer % 4 == 3) << layer;
  }
  EXPECT_EQ(config.rope_dims, 64);
  EXPECT_EQ(config.rope_theta, 1e7);
  EXPECT_EQ(config.qkv_width(), 8192);
  EXPECT_EQ(config.experts_per_token, 8);
  EXPECT_EQ(config.vocabulary, 248320);
  EXPECT_EQ(config.max_positions, 262144);
  EXPECT_EQ(config.mtp_layers, 1);
  EXPECT_FALSE(config.tied);
  EXPECT_EQ(config.eos_ids, (std::vector<int64_t>{248044}));
}

TEST(Config, AFlatFileIsTheSameModelUnderTheShortPrefix) {
  const Result<ModelConfig> config = parse_model_config(flat_moe_config(kSizes35B));
  ASSERT_TRUE(config.ok()) << config.error().text();
  EXPECT_EQ(config->prefix, "model.");
  EXPECT_EQ(config->hidden, 2048);
}

TEST(Config, Qwen3NextKeepsItsOldRotaryKeysAndItsListOfEosIds) {
  const Result<ModelConfig> config = parse_model_config(next_config());
  ASSERT_TRUE(config.ok()) << config.error().text();
  EXPECT_EQ(config->family, ModelFamily::kQwen3Next);
  EXPECT_EQ(config->rope_dims, 64);
  EXPECT_EQ(config->eos_ids, (std::vector<int64_t>{151645, 151643}));
  EXPECT_EQ(config->mtp_layers, 0);
}

TEST(Config, ADenseModelMayTieItsHead) {
  const Result<ModelConfig> config = parse_model_config(dense_config());
  ASSERT_TRUE(config.ok()) << config.error().text();
  EXPECT_EQ(config->family, ModelFamily::kQwen35);
  EXPECT_FALSE(config->moe());
  EXPECT_EQ(config->dense_width, 9216);
  EXPECT_TRUE(config->tied);
}

TEST(Config, ExplicitLayerTypesWinAndMayUseTheOldWord) {
  const std::string types =
      R"("layer_types": ["attention", "linear_attention", "full_attention"], "num_hidden_layers": 3)";
  const Result<ModelConfig> config =
      parse_model_config(replaced(flat_moe_config(kSizes35B), "\"num_hidden_layers\": 40", types));
  ASSERT_TRUE(config.ok()) << config.error().text();
  EXPECT_EQ(config->layers, (std::vector<LayerKind>{LayerKind::kFull, LayerKind::kLinear, LayerKind::kFull}));
}

TEST(Config, EveryRequiredKeyIsMissedByName) {
  for (const char* key : {"hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim", "linear_num_key_heads",
                          "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim", "num_experts",
                          "num_experts_per_tok", "moe_intermediate_size", "shared_expert_intermediate_size",
                          "vocab_size", "max_position_embeddings", "rope_theta", "model_type"}) {
    const std::string quoted = fmt::format("\"{}\"", key);
    const std::string error = error_of(replaced(flat_moe_config(kSizes35B), quoted, "\"renamed\""));
    EXPECT_NE(error.find(key), std::string::npos) << error;
    EXPECT_NE(error.find("missing"), std::string::npos) << error;
  }
}

TEST(Config, AbsurdAndMistypedValuesAreRefusedByName) {
  const struct {
    const char* from;
    const char* to;
  } cases[] = {
      {"\"hidden_size\": 2048", "\"hidden_size\": 0"},
      {"\"hidden_size\": 2048", "\"hidden_size\": -2048"},
      {"\"hidden_size\": 2048", "\"hidden_size\": 9223372036854775807"},
      {"\"hidden_size\": 2048", "\"hidden_size\": 18446744073709551615"},
      {"\"hidden_size\": 2048", "\"hidden_size\": 2048.0"},
      {"\"hidden_size\": 2048", "\"hidden_size\": \"2048\""},
      {"\"hidden_size\": 2048", "\"hidden_size\": [2048]"},
      {"\"num_hidden_layers\": 40", "\"num_hidden_layers\": 4000000"},
      {"\"num_experts\": 256", "\"num_experts\": 60000"},
      {"\"num_experts_per_tok\": 8", "\"num_experts_per_tok\": 257"},
      {"\"num_attention_heads\": 16", "\"num_attention_heads\": 15"},
      {"\"linear_num_value_heads\": 32", "\"linear_num_value_heads\": 33"},
      {"\"vocab_size\": 248320", "\"vocab_size\": 1e400"},
      {"\"rms_norm_eps\": 1e-06", "\"rms_norm_eps\": -1"},
      {"\"rope_theta\": 10000000", "\"rope_theta\": 0"},
      {"\"partial_rotary_factor\": 0.25", "\"partial_rotary_factor\": 2"},
      {"\"eos_token_id\": 248044", "\"eos_token_id\": 248320"},
      {"\"eos_token_id\": 248044", "\"eos_token_id\": [-1]"},
      {"\"full_attention_interval\": 4", "\"full_attention_interval\": 0"},
      {"\"full_attention_interval\": 4", "\"layer_types\": [\"full_attention\"]"},
  };
  for (const auto& bad : cases) {
    const std::string json = replaced(flat_moe_config(kSizes35B), bad.from, bad.to);
    const std::string key = std::string(bad.to).substr(1, std::string(bad.to).find('"', 1) - 1);
    const std::string error = error_of(json);
    EXPECT_NE(error.find(key), std::string::npos) << bad.to << ": " << error;
    EXPECT_LT(error.size(), 300u);
  }
}

TEST(Config, KnownFeaturesThatAreNotServedAreNamed) {
  const struct {
    const char* from;
    const char* to;
    const char* named;
  } cases[] = {
      {"\"rope_type\": \"default\"", "\"rope_type\": \"yarn\", \"factor\": 4", "yarn"},
      {"\"attention_bias\": false", "\"attention_bias\": true", "attention_bias"},
      {"\"attn_output_gate\": true", "\"attn_output_gate\": false", "attn_output_gate"},
      {"\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\"", "gelu"},
      {"\"mlp_only_layers\": []", "\"mlp_only_layers\": [0]", "mlp_only_layers"},
      {"\"mlp_only_layers\": []", "\"output_gate_type\": \"sigmoid\"", "output_gate_type"},
      {"\"mlp_only_layers\": []", "\"norm_topk_prob\": false", "norm_topk_prob"},
      {"\"mlp_only_layers\": []", "\"decoder_sparse_step\": 2", "decoder_sparse_step"},
      {"\"mlp_only_layers\": []", "\"quantization_config\": {\"quant_method\": \"awq\"}", "awq"},
      {"\"mlp_only_layers\": []",
       "\"quantization_config\": {\"quant_method\": \"fp8\", \"weight_block_size\": [64, 64]}", "weight_block_size"},
      {"\"linear_conv_kernel_dim\": 4", "\"linear_conv_kernel_dim\": 3", "linear_conv_kernel_dim"},
      {"\"mtp_num_hidden_layers\": 1", "\"mtp_num_hidden_layers\": 2", "mtp_num_hidden_layers"},
      {"\"mtp_use_dedicated_embeddings\": false", "\"mtp_use_dedicated_embeddings\": true", "dedicated"},
      {"\"model_type\": \"qwen3_5_moe_text\"", "\"model_type\": \"glm_moe_dsa\"", "glm_moe_dsa"},
  };
  for (const auto& bad : cases) {
    const Result<ModelConfig> config = parse_model_config(replaced(flat_moe_config(kSizes35B), bad.from, bad.to));
    ASSERT_FALSE(config.ok()) << bad.to;
    EXPECT_EQ(config.error().code, ErrorCode::kUnsupported) << bad.to;
    EXPECT_NE(config.error().message.find(bad.named), std::string::npos) << config.error().message;
  }
}

TEST(Config, QuantizationMethodsAreRecognised) {
  const std::string fp8 =
      R"("quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]})";
  Result<ModelConfig> config = parse_model_config(replaced(flat_moe_config(kSizes35B), "\"mlp_only_layers\": []", fp8));
  ASSERT_TRUE(config.ok()) << config.error().text();
  EXPECT_EQ(config->quant_method, QuantMethod::kFp8);
  config = parse_model_config(replaced(flat_moe_config(kSizes35B), "\"mlp_only_layers\": []",
                                       "\"quantization_config\": {\"quant_method\": \"quark\"}"));
  ASSERT_TRUE(config.ok()) << config.error().text();
  EXPECT_EQ(config->quant_method, QuantMethod::kQuark);
}

TEST(Config, WhatIsNoConfigAtAllIsAnError) {
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("null"), std::string("[]"), std::string("{}"),
        std::string("{\"model_type\": 3}"), std::string("{\"model_type\": \"qwen3_5_moe\", \"text_config\": []}"),
        std::string(100000, '['), std::string("{\"model_type\":\"\xff\"}"),
        std::string("{\"model_type\":\"qwen3_next\",\"model_type\":\"qwen3_next\"}")}) {
    EXPECT_NE(error_of(text).find("config.json"), std::string::npos) << text.substr(0, 40);
  }
}

}  // namespace
}  // namespace weir
