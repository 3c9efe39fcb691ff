#include "runner/gpu_units.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "runner/gpu_model.h"

namespace weir {
namespace {

class GpuUnits : public ::testing::Test {
 protected:
  void load(const std::string& folder) {
    config_ = read_model_config("tests/data/goldens/" + folder).value();
    make();
  }
  // Weights and program of config_.
  void make(WeightFormat format = WeightFormat::kFp8Block) {
    weights_ = dummy_shapes(config_, format).value();
    program_ = make_main_program(config_, gpu_cache_sizes(config_));
  }
  std::vector<GpuUnit> units(const UnitRows& rows) const { return gpu_units(program_, config_, weights_, rows); }
  // Of the first operation of this kind, or whose words begin so.
  std::string kernel(const std::string& of, const UnitRows& rows) const {
    for (const GpuUnit& unit : units(rows)) {
      if (unit.operation == of || unit.what.starts_with(of)) return unit.kernel;
    }
    return "no such unit";
  }

  ModelConfig config_;
  ModelWeights weights_;
  Program program_;
};

TEST_F(GpuUnits, TogetherCostWhatTheProgramCosts) {
  for (const char* folder : {"moe-fit", "moe-odd", "dense-tied"}) {
    load(folder);
    const StepCost whole = stored_cost(program_, config_, weights_, gpu_kv_value_bytes(config_));
    for (const int64_t rows : {1, 16, 64}) {
      double bytes = 0;
      double macs = 0;
      for (const GpuUnit& unit : units({rows, false})) {
        EXPECT_EQ(unit.layers.size(), unit.parts.size());
        bytes += static_cast<double>(unit.parts.size()) * unit.cost.bytes(rows, 1000);
        macs += static_cast<double>(unit.parts.size()) * unit.cost.macs(rows, 1000);
      }
      EXPECT_DOUBLE_EQ(bytes, whole.bytes(rows, 1000)) << folder << ", " << rows << " rows";
      EXPECT_DOUBLE_EQ(macs, whole.macs(rows, 1000)) << folder << ", " << rows << " rows";
    }
  }
}

TEST_F(GpuUnits, HoldEveryOperationOnceAndNormsWithTheirReader) {
  load("moe-fit");
  for (const bool prompt : {false, true}) {
    std::vector<const Operation*> seen;
    for (const GpuUnit& unit : units({64, prompt})) {
      for (const GpuUnit::Part& part : unit.parts) {
        seen.insert(seen.end(), part.begin(), part.end());
        EXPECT_FALSE(std::holds_alternative<NormOp>(*part.back()));
      }
    }
    EXPECT_EQ(seen.size(), program_.body.size() + program_.head.size());
    std::sort(seen.begin(), seen.end());
    EXPECT_EQ(std::unique(seen.begin(), seen.end()), seen.end());
  }
}

TEST_F(GpuUnits, OfAPromptSampleOneRow) {
  load("moe-fit");
  EXPECT_EQ(units({64, true}).back().kernel, units({1, false}).back().kernel);
  EXPECT_EQ(units({64, false}).back().kernel, "norm_rows, linear_prompt, sample");
}

TEST_F(GpuUnits, TheExpertsOfFewRowsHaveKernelsOfTheirOwn) {
  load("moe-fit");
  config_.hidden = 512;  // 128 times a power of two, as the experts' width
  config_.expert_width = 128;
  config_.shared_width = 128;
  make();
  const auto has = [&](int64_t rows, const std::string& kernels) {
    const std::vector<GpuUnit> all = units({rows, false});
    return std::any_of(all.begin(), all.end(), [&](const GpuUnit& unit) { return unit.kernel.ends_with(kernels); });
  };
  for (const int64_t rows : {1, 2, 8, 9}) {
    EXPECT_EQ(has(rows, "linear_one, one_gate_up, one_down"), rows == 1) << rows << " rows";
    EXPECT_EQ(has(rows, "linear_few, few_experts"), rows > 1 && rows <= 8) << rows << " rows";
  }
}

// Before and behind Gated DeltaNet; sums of more than four rows of the larger model leave no room for a ring.
TEST_F(GpuUnits, ProjectionsOfFewRowsHaveKernelsOfTheirOwnInFp8AndBf16) {
  load("moe-fit");
  config_.hidden = 2048;
  config_.gdn_key_heads = 16;
  config_.gdn_value_heads = 32;
  for (const WeightFormat format : {WeightFormat::kFp8Block, WeightFormat::kBf16}) {
    make(format);
    EXPECT_EQ(kernel("gdn_qkv+gdn_z", {1, false}), "linear_one");
    EXPECT_EQ(kernel("gdn_qkv+gdn_z", {8, false}), "linear_few");
    EXPECT_TRUE(kernel("gdn_qkv+gdn_z", {9, false}).starts_with("linear_packed"))
        << kernel("gdn_qkv+gdn_z", {9, false});
    EXPECT_EQ(kernel("gdn_out", {8, false}), "linear_few");
    EXPECT_EQ(kernel("gdn_out", {9, false}), "linear_some");
    EXPECT_EQ(kernel("gdn_out", {32, false}), "linear_some");
    EXPECT_EQ(kernel("gdn_out", {33, false}), "linear_prompt");
    config_.hidden = 4096;
    config_.gdn_value_heads = 64;
    make(format);
    EXPECT_EQ(kernel("gdn_qkv+gdn_z", {4, false}), "linear_few");
    EXPECT_EQ(kernel("gdn_qkv+gdn_z", {5, false}), "linear_packed_8");
    config_.hidden = 2048;
    config_.gdn_value_heads = 32;
  }
}

// The shapes of the 35B.
TEST_F(GpuUnits, NamesTheKernelsOfExpertsAndOfQuantisedPrompts) {
  load("moe-fit");
  config_.hidden = 2048;
  config_.expert_width = config_.shared_width = 512;
  config_.gdn_key_heads = 16;
  config_.gdn_value_heads = 32;
  for (const WeightFormat format : {WeightFormat::kFp8Block, WeightFormat::kMxfp4}) {
    const std::string of = format == WeightFormat::kMxfp4 ? "_mxfp4" : "";
    make(format);
    EXPECT_EQ(kernel("feed-forward", {1, false}), "linear_one, one_gate_up" + of + ", one_down" + of);
    EXPECT_EQ(kernel("feed-forward", {4, false}), "linear_few, few_experts" + of);
    EXPECT_EQ(kernel("feed-forward", {8, false}), "norm_rows, linear_few, few_experts" + of);
    EXPECT_EQ(kernel("feed-forward", {64, false}),
              "norm_rows, linear_prompt, some_routes, some_gate_up" + of + ", some_down" + of);
  }
  make();
  EXPECT_EQ(kernel("linear", {256, true}), "norm_rows, linear_prompt");
  config_.prefill_activations = PrefillActivations::kFp8;
  EXPECT_EQ(kernel("linear", {256, true}), "norm_rows, linear_prompt_e4m3, linear_prompt");
  EXPECT_EQ(kernel("feed-forward", {256, true}), "norm_rows, linear_prompt, routes, moe_prompt, quantize_rows");
  EXPECT_EQ(kernel("feed-forward", {4, false}), "linear_few, few_experts");
}

// A device refuses them when it loads the weights; a plan is made all the same.
TEST_F(GpuUnits, MatricesWithoutAPackedFormHaveAPlan) {
  load("moe-fit");
  for (LayerWeights& layer : weights_.layers) layer.moe.router.format = WeightFormat::kF32;
  EXPECT_NE(kernel("feed-forward", {1, false}), "no such unit");
  EXPECT_EQ(kernel("feed-forward", {1, false}).find("few_experts"), std::string::npos);
}

TEST_F(GpuUnits, UpTo128HeadsOfGatedDeltaNetAreFew) {
  load("moe-fit");
  config_.gdn_key_heads = 16;
  config_.gdn_value_heads = 32;
  make();
  const auto has = [&](int64_t rows, const std::string& kernel) {
    const std::vector<GpuUnit> all = units({rows, false});
    return std::any_of(all.begin(), all.end(), [&](const GpuUnit& unit) { return unit.kernel == kernel; });
  };
  for (const int64_t rows : {1, 4, 5, 64}) {
    EXPECT_EQ(has(rows, "gdn_rows_few"), rows <= 4) << rows << " rows";
    EXPECT_EQ(has(rows, "gdn_rows"), rows > 4) << rows << " rows";
  }
}

TEST_F(GpuUnits, KernelsMatchByTheBeginningsOfTheirNames) {
  EXPECT_TRUE(kernels_match("paged_prepare, paged_rows, paged_merge", "paged_prepare, paged_rows, paged_merge_pages"));
  EXPECT_TRUE(kernels_match("gdn_chunk_products, gdn_chunks",
                            "gdn_chunk_products, gdn_chunks, gdn_chunk_products, gdn_chunks"));
  EXPECT_FALSE(kernels_match("linear_few", "linear_packed_8"));
  EXPECT_FALSE(kernels_match("linear_few, sample", "linear_few"));
  EXPECT_FALSE(kernels_match("linear_few", "linear_few, sample_kernel"));
}

TEST_F(GpuUnits, RandomRoutingTouchesExpertsAsOftenAsItsFormulaSays) {
  load("moe-fit");
  const StepCost cost = stored_cost(program_, config_, weights_, 2);
  const double share = static_cast<double>(config_.experts_per_token) / static_cast<double>(config_.experts);
  EXPECT_DOUBLE_EQ(cost.touched(1), share);
  EXPECT_DOUBLE_EQ(cost.touched(2), 2 * share - share * share);
  EXPECT_DOUBLE_EQ(cost.bytes(1, 0), static_cast<double>(cost.shared_bytes + cost.state_bytes) +
                                         share * static_cast<double>(cost.expert_bytes));
}

}  // namespace
}  // namespace weir
