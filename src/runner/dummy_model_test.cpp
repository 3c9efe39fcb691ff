// Random weights of every format through a whole model, on the tests' device beside the float32 kernels of the CPU:
// hidden states keep their size, rows differ, and what is computed is the model, in steps of few rows and of many.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "runner/offline.h"
#include "runner/test_model.h"

namespace weir {
namespace {

constexpr int64_t kTokens = 96;
constexpr double kLogitDeviation = 2.0;  // that dummy weights aim at

using Rows = std::vector<std::vector<float>>;

std::vector<TokenId> random_tokens(const ModelConfig& config) {
  std::vector<TokenId> tokens;
  std::mt19937 random(3);
  for (int64_t i = 0; i < kTokens; ++i) {
    tokens.push_back(static_cast<TokenId>(random() % static_cast<uint32_t>(config.vocabulary)));
  }
  return tokens;
}

Rows score(Model* model, const std::vector<TokenId>& tokens, int64_t chunk) {
  Rows rows;
  auto offline = OfflineModel::create(model, kTokens, chunk);
  EXPECT_TRUE(offline.ok());
  (*offline)->score(tokens, 0, [&](int64_t, std::span<const float> row) { rows.emplace_back(row.begin(), row.end()); });
  return rows;
}

double mean_difference(const Rows& a, const Rows& b) {
  double sum = 0;
  int64_t count = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    for (size_t n = 0; n < a[i].size(); ++n, ++count) {
      sum += std::abs(static_cast<double>(a[i][n]) - static_cast<double>(b[i][n]));
    }
  }
  return sum / static_cast<double>(count);
}

class DummyModel : public testing::TestWithParam<WeightFormat> {
 protected:
  void SetUp() override {
    auto config = read_model_config("tests/data/goldens/moe-fit");
    ASSERT_TRUE(config.ok()) << config.error().text();
    config_ = std::move(*config);
    // Columns enough for the logits to be normal, experts enough for rows to differ in them.
    config_.hidden = 256;
    config_.experts = 24;
    config_.experts_per_token = 4;
    auto weights = dummy_weights(config_, GetParam(), 11);
    ASSERT_TRUE(weights.ok()) << weights.error().text();
    weights_ = std::move(*weights);
    tokens_ = random_tokens(config_);
  }
  Rows logits(Model* model, int64_t chunk) const { return score(model, tokens_, chunk); }

  ModelConfig config_;
  ModelWeights weights_;
  std::vector<TokenId> tokens_;
};

double deviation(const std::vector<float>& row) {
  double sum = 0;
  for (const float x : row) sum += static_cast<double>(x) * static_cast<double>(x);
  return std::sqrt(sum / static_cast<double>(row.size()));
}
double correlation(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum / static_cast<double>(a.size()) / deviation(a) / deviation(b);
}

TEST_P(DummyModel, KeepsTheSizeOfHiddenStatesAndTellsRowsApart) {
  auto model = make_test_model(config_, weights_, kTokens);
  ASSERT_TRUE(model.ok()) << model.error().text();
  const Rows rows = logits(model->get(), kTokens);
  ASSERT_EQ(rows.size(), static_cast<size_t>(kTokens));
  double alike = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    // NaN and infinity fail this too. Powers of two bound the weights' size to a factor of sqrt 2 either way.
    EXPECT_NEAR(std::log2(deviation(rows[i]) / kLogitDeviation), 0.0, 1.0) << "row " << i;
    if (i > 0 && tokens_[i] != tokens_[i - 1])
      alike += correlation(rows[i], rows[i - 1]) / static_cast<double>(kTokens);
  }
  EXPECT_LT(alike, 0.5);
}

TEST_P(DummyModel, IsTheSameModelOnTheCpuAndInStepsOfAnySize) {
  auto model = make_test_model(config_, weights_, kTokens);
  ASSERT_TRUE(model.ok()) << model.error().text();
  CpuOptions options;
  options.threads = 2;
  const std::unique_ptr<Model> on_cpu = CpuModel::create(config_, weights_, options, kTokens);
  const Rows expected = logits(on_cpu.get(), kTokens);
  const Rows many = logits(model->get(), kTokens);
  const double difference = mean_difference(many, expected);
  std::printf("  mean difference %.2e of logits of %.1f\n", difference, kLogitDeviation);
  EXPECT_LT(difference, 0.1);
  for (const int64_t chunk : {1, 4, 32}) EXPECT_EQ(logits(model->get(), chunk), many) << "chunks of " << chunk;
}

// Rows of prompts as FP8 codes: all matrices of these shapes take them.
TEST(QuantisedPrompts, AreTheSameModelInStepsOfAnySize) {
  if (!tests_use_gpu()) GTEST_SKIP() << "the CPU has no kernels for it";
  for (const bool dense : {false, true}) {
    ModelConfig config = read_model_config("tests/data/goldens/moe-fit").value();
    config.hidden = 256;
    config.expert_width = config.shared_width = 128;
    if (dense) config.experts = config.experts_per_token = config.shared_width = 0;
    config.dense_width = dense ? 256 : 0;
    const ModelWeights weights = dummy_weights(config, WeightFormat::kFp8Block, 11).value();
    const std::vector<TokenId> tokens = random_tokens(config);
    CpuOptions options;
    options.threads = 2;
    const std::unique_ptr<Model> on_cpu = CpuModel::create(config, weights, options, kTokens);
    const Rows expected = score(on_cpu.get(), tokens, kTokens);
    const auto unquantised = make_test_model(config, weights, kTokens).value();
    const double rounded = mean_difference(score(unquantised.get(), tokens, kTokens), expected);
    config.prefill_activations = PrefillActivations::kFp8;
    const auto model = make_test_model(config, weights, kTokens).value();
    const Rows many = score(model.get(), tokens, kTokens);
    const double difference = mean_difference(many, expected);
    std::printf("  %s: mean difference %.2e, %.2e quantised, of logits of %.1f\n", dense ? "dense" : "sparse", rounded,
                difference, kLogitDeviation);
    EXPECT_GT(difference, 2 * rounded);
    EXPECT_LT(difference, 0.4);
    for (const int64_t chunk : {1, 4, 32}) EXPECT_EQ(score(model.get(), tokens, chunk), many) << "chunks of " << chunk;
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, DummyModel,
                         testing::Values(WeightFormat::kFp8Block, WeightFormat::kBf16, WeightFormat::kMxfp4),
                         [](const auto& info) {
                           return std::string(info.param == WeightFormat::kMxfp4  ? "mxfp4"
                                              : info.param == WeightFormat::kBf16 ? "bf16"
                                                                                  : "fp8");
                         });

}  // namespace
}  // namespace weir
