#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <set>

#include "models/test_configs.h"
#include "models/weights.h"
#include "tensor/bf16.h"
#include "tensor/fp8.h"
#include "tensor/mxfp4.h"

namespace weir {
namespace {

ModelConfig parsed(const std::string& json) {
  Result<ModelConfig> config = parse_model_config(json);
  WEIR_CHECK(config.ok(), "{}", config.error().text());
  return std::move(config).value();
}

ModelConfig small_config(const TestSizes& sizes) {
  return parsed(replaced(replaced(flat_moe_config(sizes), "248320", "1000"), "248044", "1"));
}

// The 35B's router and expert sizes on a narrow model of four layers.
ModelConfig narrow_config() {
  TestSizes sizes = kSizes35B;
  sizes.hidden = 512;
  sizes.layers = 4;
  sizes.experts = 64;
  sizes.width = 64;
  return small_config(sizes);
}

std::vector<float> row_values(const WeightMatrix& m, int64_t n) {
  std::vector<float> values;
  const std::byte* row = m.data + n * m.row_bytes;
  for (int64_t k = 0; k < m.k; ++k) {
    if (m.format == WeightFormat::kBf16) {
      uint16_t bits = 0;
      std::memcpy(&bits, row + 2 * k, sizeof(bits));
      values.push_back(bf16_to_float(bits));
    } else if (m.format == WeightFormat::kFp8Block) {
      uint16_t bits = 0;
      std::memcpy(&bits, m.scales + 2 * (n / kFp8Block * m.scale_stride + k / kFp8Block), sizeof(bits));
      values.push_back(fp8_e4m3_to_float(static_cast<uint8_t>(row[k])) * bf16_to_float(bits));
    } else {
      const auto pair = static_cast<unsigned>(row[k / 2]);
      const auto scale = static_cast<uint8_t>(m.scales[n * m.scale_stride + k / kMxfp4Group]);
      values.push_back(e2m1_to_float(static_cast<uint8_t>(k % 2 == 0 ? pair & 15u : pair >> 4)) * e8m0_to_float(scale));
    }
  }
  return values;
}

float root_mean_square(const WeightMatrix& m) {
  double sum = 0;
  for (int64_t n = 0; n < m.n; ++n) {
    for (const float value : row_values(m, n)) sum += static_cast<double>(value) * value;
  }
  return static_cast<float>(std::sqrt(sum / static_cast<double>(m.n * m.k)));
}

TEST(Dummy, EveryFormatHasTheSizeOfValuesThatKeepsActivationsNearOne) {
  const ModelConfig config = narrow_config();
  for (const WeightFormat format : {WeightFormat::kBf16, WeightFormat::kFp8Block, WeightFormat::kMxfp4}) {
    const Result<ModelWeights> weights = dummy_weights(config, format, 1);
    ASSERT_TRUE(weights.ok()) << weights.error().text();
    const WeightMatrix& up = weights->layers[0].moe.experts[5].up;
    EXPECT_EQ(up.format, format);
    // Powers of two bound the choice of BF16 and MXFP4 to a factor of sqrt 2 either way.
    EXPECT_NEAR(std::log2(root_mean_square(up) * std::sqrt(static_cast<float>(up.k))), 0.0f, 0.75f);
    const WeightMatrix& down = weights->layers[0].moe.experts[5].down;
    EXPECT_NEAR(std::log2(root_mean_square(down) * std::sqrt(static_cast<float>(down.k)) / 0.3f), 0.0f, 0.75f);
    EXPECT_NEAR(std::log2(root_mean_square(weights->embed)), 0.0f, 0.75f);
    EXPECT_EQ(weights->layers[0].moe.router.format, WeightFormat::kBf16);
    ASSERT_TRUE(weights->mtp.has_value());
  }
}

// Whatever power of two the width asks for: of MXFP4 an even exponent or an odd one.
TEST(Dummy, ExpertsOfEveryWidthHaveThatSize) {
  for (const int64_t width : {64, 128, 256, 512}) {
    TestSizes sizes = kSizes35B;
    sizes.hidden = 4 * width;
    sizes.layers = 1;
    sizes.experts = 16;
    sizes.width = width;
    const ModelConfig config = small_config(sizes);
    for (const WeightFormat format : {WeightFormat::kBf16, WeightFormat::kFp8Block, WeightFormat::kMxfp4}) {
      const Result<ModelWeights> weights = dummy_weights(config, format, 1);
      ASSERT_TRUE(weights.ok()) << weights.error().text();
      const MlpWeights& expert = weights->layers[0].moe.experts[2];
      const auto exponent = [](const WeightMatrix& m, float gain) {
        return std::log2(root_mean_square(m) * std::sqrt(static_cast<float>(m.k)) / gain);
      };
      EXPECT_NEAR(exponent(expert.gate, 1.0f), 0.0f, 0.6f) << weight_format_name(format) << ", K " << expert.gate.k;
      EXPECT_NEAR(exponent(expert.down, 0.3f), 0.0f, 0.6f) << weight_format_name(format) << ", K " << expert.down.k;
    }
  }
}

TEST(Dummy, EqualSeedsGiveEqualWeightsAndOthersDoNot) {
  const ModelConfig config = narrow_config();
  const Result<ModelWeights> a = dummy_weights(config, WeightFormat::kFp8Block, 7);
  const Result<ModelWeights> b = dummy_weights(config, WeightFormat::kFp8Block, 7);
  const Result<ModelWeights> c = dummy_weights(config, WeightFormat::kFp8Block, 8);
  const WeightMatrix& x = a->layers[3].attention.q;
  const auto bytes = static_cast<size_t>(x.n * x.row_bytes);
  EXPECT_EQ(std::memcmp(x.data, b->layers[3].attention.q.data, bytes), 0);
  EXPECT_NE(std::memcmp(x.data, c->layers[3].attention.q.data, bytes), 0);
  const MoeWeights& moe = a->layers[0].moe;
  EXPECT_NE(std::memcmp(moe.experts[0].up.data, moe.experts[1].up.data, 4096), 0) << "experts must be distinct";
}

TEST(Dummy, RoutingOfIndependentRowsUsesAsManyExpertsAsChanceWould) {
  const ModelConfig config = narrow_config();
  const Result<ModelWeights> weights = dummy_weights(config, WeightFormat::kBf16, 3);
  ASSERT_TRUE(weights.ok());
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  const auto experts = static_cast<size_t>(config.experts);
  const auto top_k = static_cast<size_t>(config.experts_per_token);
  std::vector<std::vector<float>> rows;
  for (int64_t e = 0; e < config.experts; ++e) rows.push_back(row_values(weights->layers[1].moe.router, e));
  for (const int tokens : {1, 4, 16}) {
    double distinct = 0;
    constexpr int kTrials = 100;
    for (int trial = 0; trial < kTrials; ++trial) {
      std::set<size_t> used;
      for (int token = 0; token < tokens; ++token) {
        std::vector<float> x(static_cast<size_t>(config.hidden));
        for (float& value : x) value = normal(random);
        std::vector<float> logits(experts);
        for (size_t e = 0; e < experts; ++e) logits[e] = std::inner_product(x.begin(), x.end(), rows[e].begin(), 0.0f);
        std::vector<size_t> order(experts);
        std::iota(order.begin(), order.end(), size_t{0});
        std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(top_k), order.end(),
                          [&](size_t a, size_t b) { return logits[a] > logits[b]; });
        used.insert(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(top_k));
      }
      distinct += static_cast<double>(used.size()) / kTrials;
    }
    const double x = static_cast<double>(experts);
    const double expected = x * (1.0 - std::pow(1.0 - static_cast<double>(top_k) / x, tokens));
    std::printf("%2d tokens: %.2f experts, by chance %.2f\n", tokens, distinct, expected);
    EXPECT_NEAR(distinct / expected, 1.0, 0.05);
  }
}

TEST(Dummy, EveryFamilyIsMade) {
  std::string next = next_config();
  for (const auto& [from, to] : {std::pair{"\"hidden_size\": 2048", "\"hidden_size\": 128"},
                                 std::pair{"\"num_hidden_layers\": 48", "\"num_hidden_layers\": 4"},
                                 std::pair{"\"num_experts\": 512", "\"num_experts\": 16"}}) {
    next = replaced(next, from, to);
  }
  const Result<ModelWeights> weights = dummy_weights(parsed(next), WeightFormat::kFp8Block, 1, false);
  ASSERT_TRUE(weights.ok());
  EXPECT_EQ(weights->layers[0].gdn.in_qkv.n, 8192);
  EXPECT_EQ(weights->layers[0].gdn.in_a.n, 32);
  EXPECT_FALSE(weights->mtp.has_value());

  std::string dense = replaced(dense_config(), "\"num_hidden_layers\": 32", "\"num_hidden_layers\": 4");
  dense = replaced(dense, "\"hidden_size\": 2560", "\"hidden_size\": 64");
  const Result<ModelWeights> tied = dummy_weights(parsed(dense), WeightFormat::kBf16, 1);
  ASSERT_TRUE(tied.ok());
  EXPECT_EQ(tied->lm_head.data, tied->embed.data);
}

TEST(Dummy, ShapesAloneAreThoseOfTheWeights) {
  const ModelConfig config = narrow_config();
  for (const WeightFormat format : {WeightFormat::kBf16, WeightFormat::kFp8Block, WeightFormat::kMxfp4}) {
    const Result<ModelWeights> weights = dummy_weights(config, format, 1);
    const Result<ModelWeights> shapes = dummy_shapes(config, format);
    ASSERT_TRUE(weights.ok() && shapes.ok());
    EXPECT_EQ(shapes->total_bytes, weights->total_bytes) << weight_format_name(format);
    EXPECT_EQ(shapes->store.bytes(), 0);
    BindingVariant variant;
    variant.mtp = true;
    for (const Binding& binding : make_bindings(config, variant)) {
      const WeightMatrix* made = find_matrix(*weights, binding.slot, binding.layer, binding.expert);
      const WeightMatrix* shape = find_matrix(*shapes, binding.slot, binding.layer, binding.expert);
      ASSERT_EQ(made == nullptr, shape == nullptr) << binding.name;
      if (made == nullptr) continue;
      EXPECT_EQ(shape->format, made->format) << binding.name;
      EXPECT_EQ(shape->n, made->n) << binding.name;
      EXPECT_EQ(shape->k, made->k) << binding.name;
      EXPECT_EQ(shape->bytes(), made->bytes()) << binding.name;
    }
  }
}

TEST(Dummy, WhatDoesNotFitInMemoryIsRefusedBeforeAnythingIsAllocated) {
  TestSizes sizes = kSizes397B;
  sizes.hidden = 1 << 19;
  const Result<ModelWeights> weights = dummy_weights(parsed(flat_moe_config(sizes)), WeightFormat::kBf16, 1);
  ASSERT_FALSE(weights.ok());
  EXPECT_EQ(weights.error().code, ErrorCode::kTooLarge);
}

TEST(Dummy, AGigabyteIsMade) {
  TestSizes sizes = kSizes35B;
  sizes.layers = 1;
  const ModelConfig config = parsed(replaced(replaced(flat_moe_config(sizes), "248320", "1000"), "248044", "1"));
  const auto start = std::chrono::steady_clock::now();
  const Result<ModelWeights> weights = dummy_weights(config, WeightFormat::kFp8Block, 1, false);
  const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
  ASSERT_TRUE(weights.ok());
  std::printf("%.2f GB in %.2f s\n", static_cast<double>(weights->total_bytes) / 1e9, spent.count());
  EXPECT_GT(weights->total_bytes, 800'000'000);
}

}  // namespace
}  // namespace weir
