#include "models/binding.h"

#include <gtest/gtest.h>

#include <set>

#include "models/anchors.h"
#include "models/test_configs.h"

namespace weir {
namespace {

struct Totals {
  int64_t tensors = 0;
  int64_t bytes = 0;
  int64_t scales = 0;
};

Totals multiply_out(const ModelConfig& config, const BindingVariant& variant, StorageLayout layout, bool gdn_f32) {
  std::vector<StoredTensor> stored;
  for (const Binding& binding : make_bindings(config, variant)) append_stored(binding, layout, gdn_f32, &stored);
  Totals totals;
  for (const StoredTensor& tensor : stored) {
    ++totals.tensors;
    totals.bytes += tensor.bytes();
    if (tensor.name.ends_with("weight_scale_inv")) ++totals.scales;
  }
  return totals;
}

ModelConfig parsed(const std::string& json) {
  Result<ModelConfig> config = parse_model_config(json);
  WEIR_CHECK(config.ok(), "{}", config.error().text());
  return std::move(config).value();
}

// Bytes of the vision towers, which depend on the text model's width alone.
int64_t vision_bytes(int64_t hidden) {
  switch (hidden) {
    case 2048:
      return 893'142'496;
    case 3072:
      return 902'581'728;
    default:
      return 912'020'960;
  }
}

TEST(Binding, ReproducesEveryPublishedTotalToTheByte) {
  const TestSizes sizes[] = {kSizes35B, kSizes35B, kSizes397B, kSizes397B, kSizes122B};
  for (size_t i = 0; i < kAnchors.size(); ++i) {
    const Anchor& anchor = kAnchors[i];
    const ModelConfig config = parsed(nested_moe_config(sizes[i]));
    const BindingVariant variant = {anchor.fused_experts, anchor.fused_mtp_experts, true};
    const Totals totals = multiply_out(config, variant, anchor.layout, anchor.gdn_f32);
    EXPECT_EQ(totals.tensors + kVisionTensors, anchor.tensors) << anchor.name;
    EXPECT_EQ(totals.bytes + vision_bytes(config.hidden), anchor.bytes) << anchor.name;
    EXPECT_EQ(find_anchor(anchor.tensors, anchor.bytes), &anchor);
    std::printf("%-28s %7lld tensors %15lld bytes\n", std::string(anchor.name).c_str(),
                static_cast<long long>(totals.tensors + kVisionTensors),
                static_cast<long long>(totals.bytes + vision_bytes(config.hidden)));
  }
}

TEST(Binding, TheFp8CheckpointsHaveThePublishedNumberOfScales) {
  const BindingVariant variant = {false, false, true};
  EXPECT_EQ(multiply_out(parsed(nested_moe_config(kSizes35B)), variant, StorageLayout::kFp8Block, false).scales,
            31'745);
  EXPECT_EQ(multiply_out(parsed(nested_moe_config(kSizes397B)), variant, StorageLayout::kFp8Block, true).scales,
            94'078);
}

TEST(Binding, LayersOfThe35BHaveThePublishedNumberOfTensors) {
  const ModelConfig config = parsed(nested_moe_config(kSizes35B));
  std::vector<StoredTensor> stored;
  for (const Binding& binding : make_bindings(config, {false, false, true})) {
    append_stored(binding, StorageLayout::kFp8Block, false, &stored);
  }
  const auto count = [&](std::string_view prefix) {
    return std::count_if(stored.begin(), stored.end(),
                         [&](const StoredTensor& t) { return t.name.starts_with(prefix); });
  };
  EXPECT_EQ(count("model.language_model.layers.0."), 1558) << "a linear layer";
  EXPECT_EQ(count("model.language_model.layers.3."), 1556) << "a full layer";
  EXPECT_EQ(count("mtp.layers.0."), 1556);
}

TEST(Binding, FullLayersAreEveryFourthAndEveryLayerHasARouter) {
  const ModelConfig config = parsed(nested_moe_config(kSizes35B));
  std::set<int32_t> full;
  std::set<int32_t> routed;
  for (const Binding& binding : make_bindings(config, {true, true, false})) {
    if (binding.slot == Slot::kAttnQ) full.insert(binding.layer);
    if (binding.slot == Slot::kRouter) {
      routed.insert(binding.layer);
      EXPECT_EQ(binding.name, fmt::format("model.language_model.layers.{}.mlp.gate.weight", binding.layer));
    }
  }
  EXPECT_EQ(full, (std::set<int32_t>{3, 7, 11, 15, 19, 23, 27, 31, 35, 39}));
  EXPECT_EQ(routed.size(), 40u);
}

TEST(Binding, QuarkStoresTheRoutedExpertsOfTheBackboneInMxfp4) {
  const ModelConfig config = parsed(nested_moe_config(kSizes397B));
  std::vector<StoredTensor> stored;
  for (const Binding& binding : make_bindings(config, {false, false, true})) {
    append_stored(binding, StorageLayout::kMxfp4, true, &stored);
  }
  const auto find = [&](std::string_view name) -> StoredTensor {
    for (const StoredTensor& tensor : stored) {
      if (tensor.name == name) return tensor;
    }
    return {};
  };
  const std::string expert = "model.language_model.layers.59.mlp.experts.511.";
  EXPECT_EQ(find(expert + "up_proj.weight").shape, (Shape{1024, 2048}));
  EXPECT_EQ(find(expert + "up_proj.weight").dtype, DType::kU8);
  EXPECT_EQ(find(expert + "up_proj.weight_scale").shape, (Shape{1024, 128}));
  EXPECT_EQ(find(expert + "down_proj.weight").shape, (Shape{4096, 512}));
  EXPECT_EQ(find(expert + "down_proj.weight_scale").shape, (Shape{4096, 32}));
  EXPECT_EQ(find("mtp.layers.0.mlp.experts.0.up_proj.weight").dtype, DType::kBf16);
  EXPECT_EQ(find("model.language_model.layers.0.mlp.shared_expert.up_proj.weight").dtype, DType::kBf16);
  int64_t text = 0;
  int64_t mtp = 0;
  for (const StoredTensor& tensor : stored) (tensor.name.starts_with("mtp.") ? mtp : text) += tensor.bytes();
  // The derived sizes of this layout: 225 GB of text and 13.2 GB of draft head.
  EXPECT_NEAR(static_cast<double>(text), 225e9, 1e9);
  EXPECT_NEAR(static_cast<double>(mtp), 13.2e9, 0.1e9);
}

TEST(Binding, NamesAreUniqueAndATiedHeadIsAbsent) {
  for (const std::string& json : {dense_config(), next_config()}) {
    const ModelConfig config = parsed(json);
    std::set<std::string> names;
    for (const Binding& binding : make_bindings(config, {false, false, true})) {
      EXPECT_TRUE(names.insert(binding.name).second) << binding.name;
    }
    EXPECT_EQ(names.contains("lm_head.weight"), !config.tied);
  }
}

}  // namespace
}  // namespace weir
