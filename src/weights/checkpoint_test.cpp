#include "weights/checkpoint.h"

#include <gtest/gtest.h>

#include "weights/test_files.h"

namespace weir {
namespace {

std::string index_json(std::string_view map) {
  return fmt::format(R"({{"metadata":{{"total_size":10}},"weight_map":{}}})", map);
}

std::string error_of(const std::string& folder) {
  const Result<std::unique_ptr<Checkpoint>> opened = Checkpoint::open(folder);
  return opened.ok() ? "opened" : opened.error().text();
}

class Sharded : public testing::Test {
 protected:
  Sharded() {
    folder.write("one.safetensors", safetensors_file({{"a", DType::kU8, {4}, "abcd"}, {"b", DType::kU8, {2}, "ef"}}));
    folder.write("two.safetensors", safetensors_file({{"c", DType::kU8, {4}, "ghij"}}));
  }
  std::string open_with(std::string_view map) {
    folder.write("model.safetensors.index.json", index_json(map));
    return error_of(folder.path());
  }
  TestFolder folder;
};

TEST_F(Sharded, TensorsOfAllShardsAreFoundByName) {
  folder.write("model.safetensors.index.json",
               index_json(R"({"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors"})"));
  const Result<std::unique_ptr<Checkpoint>> opened = Checkpoint::open(folder.path());
  ASSERT_TRUE(opened.ok()) << opened.error().text();
  const Checkpoint& checkpoint = **opened;
  EXPECT_EQ(checkpoint.tensors().size(), 3u);
  EXPECT_EQ(checkpoint.total_bytes(), 10);
  EXPECT_EQ(checkpoint.declared_bytes(), 10);
  EXPECT_EQ(checkpoint.shard_count(), 2);
  const TensorInfo* c = checkpoint.find("c");
  ASSERT_NE(c, nullptr);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(c->bytes.data()), c->bytes.size()), "ghij");
  EXPECT_EQ(checkpoint.find("d"), nullptr);
  checkpoint.release_pages();
  EXPECT_EQ(c->bytes[0], std::byte{'g'}) << "released pages come back from the file";
}

TEST_F(Sharded, AnIndexThatDisagreesWithTheShardsIsAnError) {
  EXPECT_NE(open_with(R"({"a":"one.safetensors","c":"two.safetensors"})").find("does not name"), std::string::npos);
  EXPECT_NE(open_with(R"({"a":"one.safetensors","b":"two.safetensors","c":"two.safetensors"})").find("places in two"),
            std::string::npos);
  EXPECT_NE(open_with(R"({"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors","d":"two.safetensors"})")
                .find("names 2"),
            std::string::npos);
  EXPECT_NE(open_with(R"({"a":"gone.safetensors"})").find("gone.safetensors"), std::string::npos);
}

TEST_F(Sharded, TheIndexCannotReachOutsideItsFolder) {
  for (const std::string_view name : {"../one.safetensors", "/etc/one.safetensors", "x/one.safetensors", ".safetensors",
                                      "..\\\\one.safetensors", "one.bin", ""}) {
    const std::string error = open_with(fmt::format(R"({{"a":"{}"}})", name));
    EXPECT_NE(error.find("is not the name of a .safetensors file"), std::string::npos) << name << ": " << error;
  }
}

TEST_F(Sharded, ABrokenIndexIsAnErrorThatNamesIt) {
  for (const std::string_view text : {"", "{", "[]", "{}", R"({"weight_map":[]})", R"({"weight_map":{"a":1}})",
                                      R"({"weight_map":{"a":"one.safetensors","a":"one.safetensors"}})", "\xff"}) {
    folder.write("model.safetensors.index.json", text);
    const std::string error = error_of(folder.path());
    EXPECT_NE(error.find("index.json"), std::string::npos) << text << ": " << error;
  }
}

TEST_F(Sharded, ATensorInTwoShardsIsAnError) {
  folder.write("two.safetensors", safetensors_file({{"a", DType::kU8, {4}, "ghij"}}));
  EXPECT_NE(open_with(R"({"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors"})").find("places in one"),
            std::string::npos);
}

TEST(Checkpoint, AFolderWithoutWeightsSaysWhatIsWanted) {
  const TestFolder folder;
  EXPECT_NE(error_of(folder.path()).find("only safetensors"), std::string::npos);
  EXPECT_NE(error_of(folder.file("none")).find("is not a folder"), std::string::npos);
}

TEST(Checkpoint, ASingleFileIsACheckpoint) {
  const TestFolder folder;
  folder.write("model.safetensors", safetensors_file({{"a", DType::kF32, {2, 2}, {}}}));
  const Result<std::unique_ptr<Checkpoint>> opened = Checkpoint::open(folder.path());
  ASSERT_TRUE(opened.ok());
  EXPECT_EQ((*opened)->total_bytes(), 16);
  EXPECT_EQ((*opened)->declared_bytes(), -1);
}

}  // namespace
}  // namespace weir
