#include "models/inspect.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "weights/test_files.h"

namespace weir {
namespace {

TEST(Inspect, AGoldenCheckpointIsDescribedWithItsFormats) {
  const Result<CheckpointReport> report = describe_checkpoint("tests/data/goldens/moe-fp8");
  ASSERT_TRUE(report.ok()) << report.error().text();
  EXPECT_TRUE(report->usable) << report->text;
  for (const char* word : {"routed experts", "FP8 128x128", "every tensor is in its place", "Gated DeltaNet"}) {
    EXPECT_NE(report->text.find(word), std::string::npos) << word << " in\n" << report->text;
  }
  EXPECT_EQ(report->text.find("unknown"), std::string::npos) << report->text;
}

TEST(Inspect, WhatWouldNotLoadIsStillDescribed) {
  const TestFolder folder;
  std::filesystem::copy("tests/data/goldens/moe-odd/config.json", folder.path());
  folder.write("model.safetensors", safetensors_file({{"model.norm.weight", DType::kBf16, {40}, {}}}));
  const Result<CheckpointReport> report = describe_checkpoint(folder.path());
  ASSERT_TRUE(report.ok()) << report.error().text();
  EXPECT_FALSE(report->usable);
  EXPECT_NE(report->text.find("tensors are missing"), std::string::npos) << report->text;
  EXPECT_NE(report->text.find("no tokenizer.json"), std::string::npos) << report->text;
}

TEST(Inspect, AFolderThatIsNoCheckpointIsAnError) {
  const TestFolder folder;
  EXPECT_FALSE(describe_checkpoint(folder.path()).ok());
  folder.write("config.json", "{}");
  EXPECT_FALSE(describe_checkpoint(folder.path()).ok());
}

}  // namespace
}  // namespace weir
