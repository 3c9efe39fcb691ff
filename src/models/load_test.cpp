// Loading small checkpoints that the binding table itself lays out, whole and damaged; and the stored golden
// checkpoints.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "models/test_configs.h"
#include "models/weights.h"
#include "tensor/bf16.h"
#include "tensor/fp8.h"
#include "tensor/mxfp4.h"
#include "weights/test_files.h"

namespace weir {
namespace {

// Two linear layers and a full one, four experts; widths of 256 so that every matrix has several scale blocks.
constexpr TestSizes kTiny = {256, 3, 2, 4, 4, 2, 256};

ModelConfig parsed(const std::string& json) {
  Result<ModelConfig> config = parse_model_config(json);
  WEIR_CHECK(config.ok(), "{}", config.error().text());
  return std::move(config).value();
}

std::string tiny_json() {
  std::string json = flat_moe_config(kTiny);
  json = replaced(json, "\"linear_num_key_heads\": 16", "\"linear_num_key_heads\": 2");
  json = replaced(json, "\"full_attention_interval\": 4", "\"full_attention_interval\": 3");
  json = replaced(json, "\"eos_token_id\": 248044", "\"eos_token_id\": 1");
  return replaced(json, "\"vocab_size\": 248320", "\"vocab_size\": 96");
}

ModelConfig tiny_config() {
  return parsed(tiny_json());
}

ModelConfig tiny_next_config() {
  return parsed(replaced(tiny_json(), "\"model_type\": \"qwen3_5_moe_text\"", "\"model_type\": \"qwen3_next\""));
}

// Bytes that differ from tensor to tensor and are finite as any dtype: the low bits vary, exponents are moderate.
std::string pattern(const StoredTensor& tensor, uint32_t seed) {
  std::string bytes(static_cast<size_t>(tensor.bytes()), '\0');
  uint32_t state = seed * 2654435761u + 1;
  const auto next = [&state] {
    state = state * 1664525u + 1013904223u;
    return state >> 16;
  };
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (tensor.dtype == DType::kBf16) {
      // 0.5 .. 2 with random mantissa and sign.
      bytes[i] = static_cast<char>(i % 2 == 0 ? (next() & 0x7fu) : (0x3fu | (next() & 0x80u)));
    } else if (tensor.dtype == DType::kF32) {
      bytes[i] = static_cast<char>(i % 4 == 3 ? 0x3f : static_cast<int>(next() & 0x7fu));
    } else {
      bytes[i] = static_cast<char>(next() & 0x7eu);  // no FP8 NaN; as an E8M0 scale at most 2^-1
    }
  }
  return bytes;
}

std::vector<TestTensor> stored_tensors(const ModelConfig& config, const BindingVariant& variant, StorageLayout layout) {
  std::vector<StoredTensor> stored;
  for (const Binding& binding : make_bindings(config, variant)) append_stored(binding, layout, false, &stored);
  std::vector<TestTensor> tensors;
  uint32_t seed = 0;
  for (const StoredTensor& tensor : stored) {
    tensors.push_back({tensor.name, tensor.dtype, tensor.shape, pattern(tensor, ++seed)});
  }
  return tensors;
}

TestTensor& named(std::vector<TestTensor>* tensors, std::string_view name) {
  for (TestTensor& tensor : *tensors) {
    if (tensor.name == name) return tensor;
  }
  WEIR_CHECK(false, "no {}", name);
}

// A folder with the tensors, open.
struct Opened {
  explicit Opened(const std::vector<TestTensor>& tensors) {
    folder.write("model.safetensors", safetensors_file(tensors));
    Result<std::unique_ptr<Checkpoint>> opened = Checkpoint::open(folder.path());
    WEIR_CHECK(opened.ok(), "{}", opened.error().text());
    checkpoint = std::move(opened).value();
  }
  TestFolder folder;
  std::unique_ptr<Checkpoint> checkpoint;
};

std::string error_of(const ModelConfig& config, const std::vector<TestTensor>& tensors) {
  const Opened opened(tensors);
  const Result<ModelWeights> weights = load_weights(config, *opened.checkpoint);
  return weights.ok() ? "loaded" : weights.error().text();
}

float scale_at(const WeightMatrix& m, int64_t row, int64_t column) {
  const int64_t at = row * m.scale_stride + column;
  if (m.scale_dtype == DType::kU8) return e8m0_to_float(static_cast<uint8_t>(m.scales[at]));
  if (m.scale_dtype == DType::kF32) return reinterpret_cast<const float*>(m.scales)[at];
  return bf16_to_float(reinterpret_cast<const uint16_t*>(m.scales)[at]);
}

// w[n, k] by the definition of the matrix's format.
float value_at(const WeightMatrix& m, int64_t n, int64_t k) {
  const std::byte* row = m.data + n * m.row_bytes;
  switch (m.format) {
    case WeightFormat::kF32:
      return reinterpret_cast<const float*>(row)[k];
    case WeightFormat::kBf16:
      return bf16_to_float(reinterpret_cast<const uint16_t*>(row)[k]);
    case WeightFormat::kFp8Block:
      return fp8_e4m3_to_float(static_cast<uint8_t>(row[k])) * scale_at(m, n / kFp8Block, k / kFp8Block);
    case WeightFormat::kFp8Row:
      return fp8_e4m3_to_float(static_cast<uint8_t>(row[k])) * scale_at(m, m.scale_stride == 0 ? 0 : n, 0);
    case WeightFormat::kMxfp4: {
      const auto pair = static_cast<unsigned>(row[k / 2]);
      const auto code = static_cast<uint8_t>(k % 2 == 0 ? pair & 15u : pair >> 4);
      return e2m1_to_float(code) * scale_at(m, n, k / kMxfp4Group);
    }
  }
  return 0;
}

// Element [n, k] of a BF16 tensor of the test's list.
float stored_at(const TestTensor& tensor, int64_t n, int64_t k) {
  const int64_t width = tensor.shape[tensor.shape.rank() - 1];
  uint16_t bits = 0;
  std::memcpy(&bits, tensor.bytes.data() + 2 * (n * width + k), sizeof(bits));
  return bf16_to_float(bits);
}

void expect_all_places_filled(const ModelConfig& config, ModelWeights* weights) {
  BindingVariant variant;
  variant.mtp = weights->mtp.has_value();
  ModelConfig plain = config;
  plain.family = ModelFamily::kQwen35Moe;  // the loader has undone qwen3_next's interleaving
  if (!config.moe()) plain.family = ModelFamily::kQwen35;
  for (const Binding& binding : make_bindings(plain, variant)) {
    if (binding.rule == DTypeRule::kVector) {
      const VectorView* vector = find_vector(weights, binding.slot, binding.layer);
      ASSERT_NE(vector, nullptr) << binding.name;
      ASSERT_EQ(vector->size, binding.shape.elements()) << binding.name;
      continue;
    }
    const WeightMatrix* matrix = find_matrix(weights, binding.slot, binding.layer, binding.expert);
    ASSERT_NE(matrix, nullptr) << binding.name;
    ASSERT_EQ(matrix->n, binding.shape[0]) << binding.name;
    ASSERT_EQ(matrix->k, binding.shape[1]) << binding.name;
    ASSERT_NE(matrix->data, nullptr) << binding.name;
  }
  EXPECT_EQ(weights->lm_head.n, config.vocabulary);
}

TEST(Load, EveryLayoutFillsEveryPlaceAndCountsEveryByte) {
  for (const bool fused : {false, true}) {
    for (const StorageLayout layout : {StorageLayout::kBf16, StorageLayout::kFp8Block, StorageLayout::kMxfp4}) {
      for (const ModelConfig& config : {tiny_config(), tiny_next_config()}) {
        const Opened opened(stored_tensors(config, {fused, fused, true}, layout));
        Result<ModelWeights> weights = load_weights(config, *opened.checkpoint);
        ASSERT_TRUE(weights.ok()) << weights.error().text();
        EXPECT_EQ(weights->total_bytes, opened.checkpoint->total_bytes());
        expect_all_places_filled(config, &*weights);
        const WeightFormat expert = stored_format(layout, Slot::kExpertUp, 0);
        EXPECT_EQ(weights->layers[0].moe.experts[3].up.format, expert);
      }
    }
  }
}

TEST(Load, MatricesAreViewsAndValuesAreTheStoredOnes) {
  const ModelConfig config = tiny_config();
  std::vector<TestTensor> tensors = stored_tensors(config, {true, true, false}, StorageLayout::kBf16);
  const Opened opened(tensors);
  const Result<ModelWeights> weights = load_weights(config, *opened.checkpoint);
  ASSERT_TRUE(weights.ok()) << weights.error().text();
  const TestTensor& gate_up = named(&tensors, "model.layers.1.mlp.experts.gate_up_proj");
  const TestTensor& down = named(&tensors, "model.layers.1.mlp.experts.down_proj");
  const MlpWeights& expert = weights->layers[1].moe.experts[2];
  EXPECT_EQ(value_at(expert.gate, 5, 7), stored_at(gate_up, 2 * 512 + 5, 7));
  EXPECT_EQ(value_at(expert.up, 5, 7), stored_at(gate_up, 2 * 512 + 256 + 5, 7));
  EXPECT_EQ(value_at(expert.down, 5, 7), stored_at(down, 2 * 256 + 5, 7));
  const TestTensor& conv = named(&tensors, "model.layers.0.linear_attn.conv1d.weight");
  EXPECT_EQ(weights->layers[0].gdn.conv.data[9], stored_at(conv, 0, 9));
  EXPECT_FALSE(weights->mtp.has_value());
}

TEST(Load, FusedFp8ExpertsAreCutWithTheirScales) {
  const ModelConfig config = tiny_config();
  std::vector<TestTensor> tensors = stored_tensors(config, {true, false, false}, StorageLayout::kFp8Block);
  const Opened opened(tensors);
  const Result<ModelWeights> weights = load_weights(config, *opened.checkpoint);
  ASSERT_TRUE(weights.ok()) << weights.error().text();
  const TestTensor& codes = named(&tensors, "model.layers.1.mlp.experts.gate_up_proj");
  const TestTensor& scales = named(&tensors, "model.layers.1.mlp.experts.gate_up_proj_scale_inv");
  const int64_t row = 3 * 512 + 256 + 130;  // expert 3, up, row 130
  const auto code = static_cast<uint8_t>(codes.bytes[static_cast<size_t>(row * 256 + 200)]);
  const float expected = fp8_e4m3_to_float(code) * stored_at(scales, row / 128, 1);
  EXPECT_EQ(value_at(weights->layers[1].moe.experts[3].up, 130, 200), expected);
}

TEST(Load, TheInterleavedProjectionsOfQwen3NextComeOutByKind) {
  const ModelConfig config = tiny_next_config();
  const int64_t value_rows = 2 * 128;  // two value heads a key head
  const int64_t stride = 2 * 128 + 2 * value_rows;
  for (const StorageLayout layout : {StorageLayout::kBf16, StorageLayout::kFp8Block}) {
    std::vector<TestTensor> tensors = stored_tensors(config, {}, layout);
    const Opened opened(tensors);
    const Result<ModelWeights> weights = load_weights(config, *opened.checkpoint);
    ASSERT_TRUE(weights.ok()) << weights.error().text();
    const GdnWeights& gdn = weights->layers[0].gdn;
    const TestTensor& qkvz = named(&tensors, "model.layers.0.linear_attn.in_proj_qkvz.weight");
    const auto expected = [&](int64_t row, int64_t k) {
      if (layout == StorageLayout::kBf16) return stored_at(qkvz, row, k);
      const TestTensor& scales = named(&tensors, qkvz.name + "_scale_inv");
      const auto code = static_cast<uint8_t>(qkvz.bytes[static_cast<size_t>(row * 256 + k)]);
      return fp8_e4m3_to_float(code) * stored_at(scales, row / 128, k / 128);
    };
    for (const int64_t k : {0, 129, 255}) {
      for (const int64_t i : {0, 77, 127}) {
        EXPECT_EQ(value_at(gdn.in_qkv, 128 + i, k), expected(stride + i, k)) << "second q head";
        EXPECT_EQ(value_at(gdn.in_qkv, 256 + i, k), expected(128 + i, k)) << "first k head";
        EXPECT_EQ(value_at(gdn.in_qkv, 512 + 256 + 128 + i, k), expected(stride + 256 + 128 + i, k)) << "last v head";
        EXPECT_EQ(value_at(gdn.in_z, 256 + i, k), expected(stride + 256 + value_rows + i, k)) << "third z head";
      }
    }
    const TestTensor& ba = named(&tensors, "model.layers.0.linear_attn.in_proj_ba.weight");
    EXPECT_EQ(value_at(gdn.in_b, 2, 5), stored_at(ba, 4, 5));
    EXPECT_EQ(value_at(gdn.in_a, 1, 5), stored_at(ba, 3, 5));
  }
}

TEST(Load, Fp8ScalesMayBeByRowOrByTensor) {
  const ModelConfig config = tiny_config();
  const struct {
    Shape shape;
    int64_t stride;
  } kinds[] = {{{256}, 1}, {{256, 1}, 1}, {{1}, 0}, {{}, 0}};
  for (const auto& kind : kinds) {
    std::vector<TestTensor> tensors = stored_tensors(config, {}, StorageLayout::kFp8Block);
    TestTensor& scale = named(&tensors, "model.layers.2.self_attn.o_proj.weight_scale_inv");
    scale = {"model.layers.2.self_attn.o_proj.weight_scale", DType::kF32, kind.shape,
             f32_bytes(std::vector<float>(static_cast<size_t>(kind.shape.elements()), 0.75f))};
    const Opened opened(tensors);
    const Result<ModelWeights> weights = load_weights(config, *opened.checkpoint);
    ASSERT_TRUE(weights.ok()) << weights.error().text();
    EXPECT_EQ(weights->layers[2].attention.o.format, WeightFormat::kFp8Row);
    EXPECT_EQ(weights->layers[2].attention.o.scale_stride, kind.stride);
  }
}

TEST(Load, MissingTensorsAreNamedAndCounted) {
  const ModelConfig config = tiny_config();
  std::vector<TestTensor> tensors = stored_tensors(config, {}, StorageLayout::kBf16);
  std::erase_if(tensors, [](const TestTensor& t) { return t.name.find("layers.1.mlp.experts") != std::string::npos; });
  const std::string error = error_of(config, tensors);
  EXPECT_NE(error.find("12 of the model's tensors are missing"), std::string::npos) << error;
  EXPECT_NE(error.find("\"model.layers.1.mlp.experts.0.gate_proj.weight\""), std::string::npos) << error;
  EXPECT_NE(error.find("and 4 more"), std::string::npos) << error;
}

TEST(Load, UnknownTensorsAreErrorsButTheVisionTowerIsNot) {
  const ModelConfig config = tiny_config();
  std::vector<TestTensor> tensors = stored_tensors(config, {}, StorageLayout::kBf16);
  tensors.push_back({"model.visual.blocks.0.attn.qkv.weight", DType::kBf16, {3, 3}, {}});
  EXPECT_EQ(error_of(config, tensors), "loaded");
  tensors.push_back({"model.layers.0.self_attn.q_proj.weight", DType::kBf16, {3, 3}, {}});
  EXPECT_NE(error_of(config, tensors).find("have no place"), std::string::npos);
}

TEST(Load, WrongShapesAndDtypesSayWhatWasExpectedAndFound) {
  const ModelConfig config = tiny_config();
  const struct {
    const char* name;
    DType dtype;
    Shape shape;
    const char* expected;
    const char* found;
  } cases[] = {
      {"model.layers.2.self_attn.o_proj.weight", DType::kBf16, {256, 511}, "[256, 512]", "BF16 [256, 511]"},
      {"model.layers.2.self_attn.o_proj.weight", DType::kBf16, {512, 256}, "[256, 512]", "BF16 [512, 256]"},
      {"model.layers.2.self_attn.o_proj.weight", DType::kF16, {256, 512}, "BF16, F32", "F16 [256, 512]"},
      {"model.layers.2.self_attn.o_proj.weight", DType::kU8, {256, 512}, "MXFP4", "U8 [256, 512]"},
      {"model.layers.2.self_attn.o_proj.weight", DType::kU8, {256, 256}, "_scale\"", "U8"},
      {"model.layers.2.self_attn.o_proj.weight", DType::kF8E4M3, {256, 512}, "_scale_inv", "FP8"},
      {"model.layers.2.self_attn.o_proj.weight", DType::kBf16, {}, "[256, 512]", "BF16 []"},
      {"model.layers.0.input_layernorm.weight", DType::kBf16, {255}, "[256]", "BF16 [255]"},
      {"model.layers.0.input_layernorm.weight", DType::kF8E4M3, {256}, "BF16 or F32", "F8_E4M3 [256]"},
      {"model.embed_tokens.weight", DType::kF8E4M3, {96, 256}, "BF16 or F32 [96, 256]", "F8_E4M3"},
      {"lm_head.weight", DType::kBf16, {95, 256}, "[96, 256]", "BF16 [95, 256]"},
  };
  for (const auto& bad : cases) {
    std::vector<TestTensor> tensors = stored_tensors(config, {}, StorageLayout::kBf16);
    named(&tensors, bad.name) = {bad.name, bad.dtype, bad.shape, {}};
    const std::string error = error_of(config, tensors);
    EXPECT_NE(error.find(bad.name), std::string::npos) << error;
    EXPECT_NE(error.find(bad.expected), std::string::npos) << error;
    EXPECT_NE(error.find(bad.found), std::string::npos) << error;
  }
}

TEST(Load, WrongScalesAreErrors) {
  const ModelConfig config = tiny_config();
  const std::string name = "model.layers.2.self_attn.o_proj.weight_scale_inv";
  for (const Shape& shape : {Shape{2, 3}, Shape{4, 2}, Shape{255}, Shape{2}, Shape{2, 4, 1}}) {
    std::vector<TestTensor> tensors = stored_tensors(config, {}, StorageLayout::kFp8Block);
    named(&tensors, name) = {name, DType::kBf16, shape, {}};
    EXPECT_NE(error_of(config, tensors).find(name), std::string::npos) << shape.text();
  }
  std::vector<TestTensor> tensors = stored_tensors(config, {}, StorageLayout::kFp8Block);
  named(&tensors, name).dtype = DType::kI32;
  named(&tensors, name).bytes.clear();
  EXPECT_NE(error_of(config, tensors).find("I32"), std::string::npos);
}

TEST(Load, ATiedModelUsesTheEmbeddingAndRefusesAnotherHead) {
  const ModelConfig config = parsed(
      replaced(tiny_json(), "\"attention_bias\": false", "\"attention_bias\": false, \"tie_word_embeddings\": true"));
  std::vector<TestTensor> tensors = stored_tensors(config, {}, StorageLayout::kBf16);
  {
    const Opened opened(tensors);
    const Result<ModelWeights> weights = load_weights(config, *opened.checkpoint);
    ASSERT_TRUE(weights.ok()) << weights.error().text();
    EXPECT_EQ(weights->lm_head.data, weights->embed.data);
  }
  TestTensor head = named(&tensors, "model.embed_tokens.weight");
  head.name = "lm_head.weight";
  tensors.push_back(head);
  EXPECT_EQ(error_of(config, tensors), "loaded") << "the same bytes again are harmless";
  tensors.back().bytes[0] = static_cast<char>(tensors.back().bytes[0] ^ 1);
  EXPECT_NE(error_of(config, tensors).find("lm_head.weight"), std::string::npos);
}

TEST(Load, EitherPrefixIsFound) {
  const ModelConfig config = tiny_config();
  ModelConfig nested = config;
  nested.prefix = "model.language_model.";
  EXPECT_EQ(error_of(config, stored_tensors(nested, {}, StorageLayout::kBf16)), "loaded");
  EXPECT_EQ(error_of(nested, stored_tensors(config, {}, StorageLayout::kBf16)), "loaded");
}

TEST(Load, MisalignedTensorsAreCopied) {
  const ModelConfig config = tiny_config();
  std::vector<TestTensor> tensors = stored_tensors(config, {}, StorageLayout::kBf16);
  tensors.insert(tensors.begin(), {"model.visual.odd", DType::kU8, {1}, "x"});
  const Opened opened(tensors);
  const Result<ModelWeights> weights = load_weights(config, *opened.checkpoint);
  ASSERT_TRUE(weights.ok()) << weights.error().text();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(weights->embed.data) % 2, 0u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(weights->layers[2].attention.o.data) % 2, 0u);
  EXPECT_EQ(value_at(weights->embed, 3, 4), stored_at(named(&tensors, "model.embed_tokens.weight"), 3, 4));
}

std::string read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

TEST(Load, EveryGoldenCheckpointLoads) {
  const std::filesystem::path goldens = "tests/data/goldens";
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(goldens)) {
    if (!std::filesystem::exists(entry.path() / "config.json")) continue;
    ++count;
    const Result<ModelConfig> config = parse_model_config(read_file(entry.path() / "config.json"));
    ASSERT_TRUE(config.ok()) << entry.path() << ": " << config.error().text();
    const Result<std::unique_ptr<Checkpoint>> checkpoint = Checkpoint::open(entry.path().string());
    ASSERT_TRUE(checkpoint.ok()) << entry.path() << ": " << checkpoint.error().text();
    Result<ModelWeights> weights = load_weights(*config, **checkpoint);
    ASSERT_TRUE(weights.ok()) << entry.path() << ": " << weights.error().text();
    expect_all_places_filled(*config, &*weights);
  }
  EXPECT_GE(count, 6);
}

}  // namespace
}  // namespace weir
