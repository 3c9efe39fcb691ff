#include "weights/safetensors.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>

#include "weights/test_files.h"

namespace weir {
namespace {

Result<SafetensorsHeader> parse(const std::string& file) {
  const auto* bytes = reinterpret_cast<const std::byte*>(file.data());
  return parse_safetensors_header({bytes, file.size()}, static_cast<int64_t>(file.size()));
}

Result<SafetensorsHeader> parse_header(std::string_view header, size_t data_bytes) {
  return parse(safetensors_bytes(header, std::string(data_bytes, 'x')));
}

TEST(Safetensors, ReadsNamesShapesAndRangesInOrderOfTheirBytes) {
  const Result<SafetensorsHeader> header = parse_header(
      R"({"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},"__metadata__":{"format":"pt"},)"
      R"("a":{"shape":[],"data_offsets":[0,4],"dtype":"F32"},"empty":{"dtype":"U8","shape":[3,0],"data_offsets":[16,16]}}  )",
      16);
  ASSERT_TRUE(header.ok()) << header.error().text();
  ASSERT_EQ(header->tensors.size(), 3u);
  EXPECT_EQ(header->tensors[0].name, "a");
  EXPECT_EQ(header->tensors[0].shape, Shape{});
  EXPECT_EQ(header->tensors[1].name, "b");
  EXPECT_EQ(header->tensors[1].dtype, DType::kBf16);
  EXPECT_EQ(header->tensors[1].shape, (Shape{2, 3}));
  EXPECT_EQ(header->tensors[1].begin, 4);
  EXPECT_EQ(header->tensors[1].end, 16);
  EXPECT_EQ(header->tensors[2].name, "empty");
}

TEST(Safetensors, AFileWithoutTensorsIsAFile) {
  EXPECT_TRUE(parse_header("{}", 0).ok());
  EXPECT_FALSE(parse_header("{}", 1).ok()) << "data that no tensor owns";
}

struct BadHeader {
  const char* why;
  const char* header;
  size_t data_bytes;
  const char* message;
};

TEST(Safetensors, EveryLieOfTheHeaderIsRefusedWithItsReason) {
  const BadHeader cases[] = {
      {"not JSON", "{\"a\":", 0, "not valid JSON"},
      {"array", "[1]", 0, "does not start with '{'"},
      {"leading space", " {}", 0, "does not start with '{'"},
      {"trailing text", "{}x", 0, "JSON"},
      {"no dtype", R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4, "missing"},
      {"no offsets", R"({"a":{"dtype":"F32","shape":[1]}})", 4, "missing"},
      {"one offset", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4, "two numbers"},
      {"three offsets", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,4]}})", 4, "two numbers"},
      {"unknown dtype", R"({"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}})", 8, "\"F64\""},
      {"unknown key", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"extra":1}})", 4, "unknown key"},
      {"repeated key", R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4, "appears twice"},
      {"repeated name",
       R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
       2, "twice"},
      {"repeated metadata", R"({"__metadata__":{},"__metadata__":{}})", 0, "appears twice"},
      {"metadata that is no text", R"({"__metadata__":{"a":1}})", 0, "number"},
      {"nested metadata", R"({"__metadata__":{"a":{}}})", 0, "object"},
      {"entry that is no object", R"({"a":1})", 0, "number"},
      {"nameless", R"({"":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1, "without a name"},
      {"NUL in a name", "{\"a\\u0000\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "NUL"},
      {"invalid UTF-8", "{\"\xff\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "not valid JSON"},
      {"negative extent", R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}})", 1, "negative"},
      {"fractional extent", R"({"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}})", 1, "no integer"},
      {"huge extent", R"({"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,1]}})", 1, "2^63"},
      {"overflowing product", R"({"a":{"dtype":"F32","shape":[4294967296,4294967296,1],"data_offsets":[0,0]}})", 0,
       "does not fit"},
      {"overflow to the right size",
       R"({"a":{"dtype":"U8","shape":[4294967297,4294967296],"data_offsets":[0,4294967296]}})", 8, "does not fit"},
      {"shape and range disagree", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, "does not fit"},
      {"range runs backwards", R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}})", 1, "does not fit"},
      {"past the end", R"({"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}})", 8, "of which the file has 8"},
      {"short of the end", R"({"a":{"dtype":"U8","shape":[7],"data_offsets":[0,7]}})", 8, "of which the file has 8"},
      {"hole at the start", R"({"a":{"dtype":"U8","shape":[7],"data_offsets":[1,8]}})", 8, "hole"},
      {"overlap",
       R"({"a":{"dtype":"U8","shape":[5],"data_offsets":[0,5]},"b":{"dtype":"U8","shape":[5],"data_offsets":[3,8]}})",
       8, "overlaps"},
      {"hole",
       R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
       8, "hole"},
      {"nine axes", R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}})", 1, "rank"},
      {"nested shape", R"({"a":{"dtype":"U8","shape":[[1]],"data_offsets":[0,1]}})", 1, "array"},
      {"null", R"({"a":null})", 0, "null"},
  };
  for (const BadHeader& bad : cases) {
    const Result<SafetensorsHeader> header = parse_header(bad.header, bad.data_bytes);
    ASSERT_FALSE(header.ok()) << bad.why;
    EXPECT_NE(header.error().message.find(bad.message), std::string::npos) << bad.why << ": " << header.error().message;
  }
}

TEST(Safetensors, ACutFileIsRefusedAtEveryLength) {
  const std::string file = safetensors_file({{"a", DType::kBf16, {3, 5}, {}}, {"b", DType::kU8, {7}, {}}});
  ASSERT_TRUE(parse(file).ok());
  for (size_t length = 0; length < file.size(); ++length) {
    EXPECT_FALSE(parse(file.substr(0, length)).ok()) << length;
  }
}

TEST(Safetensors, AHeaderLengthOverTheLimitAllocatesNothing) {
  for (const uint64_t length : {uint64_t{100'000'001}, uint64_t{1} << 40, UINT64_MAX, UINT64_MAX - 7}) {
    std::string file(64, '{');
    std::memcpy(file.data(), &length, sizeof(length));
    const Result<SafetensorsHeader> header = parse(file);
    ASSERT_FALSE(header.ok());
    EXPECT_NE(header.error().message.find("over the limit"), std::string::npos) << header.error().message;
  }
}

TEST(Safetensors, DeepNestingAndLongNamesAreRefused) {
  EXPECT_FALSE(parse_header("{\"a\":" + std::string(100000, '['), 0).ok());
  EXPECT_FALSE(parse_header("{\"a\":" + std::string(100000, '{'), 0).ok());
  const std::string name(2000, 'n');
  const std::string header = "{\"" + name + R"(":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
  const Result<SafetensorsHeader> parsed = parse_header(header, 1);
  ASSERT_FALSE(parsed.ok());
  EXPECT_LT(parsed.error().message.size(), 300u) << "the message must not repeat the whole name";
}

TEST(Safetensors, AHeaderOfSixtyFourThousandTensorsIsRead) {
  std::vector<TestTensor> tensors;
  for (int i = 0; i < 64196; ++i) {
    tensors.push_back({fmt::format("model.language_model.layers.7.mlp.experts.{}.down_proj.weight_scale_inv", i),
                       DType::kBf16,
                       {1, 1},
                       {}});
  }
  const std::string file = safetensors_file(tensors);
  const auto start = std::chrono::steady_clock::now();
  const Result<SafetensorsHeader> header = parse(file);
  const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - start;
  ASSERT_TRUE(header.ok());
  EXPECT_EQ(header->tensors.size(), tensors.size());
  RecordProperty("milliseconds", std::to_string(spent.count()));
  std::printf("64,196 tensors in %.1f ms\n", spent.count());
}

TEST(MappedFile, MissingEmptyAndFolderAreErrorsThatNameThePath) {
  const TestFolder folder;
  folder.write("empty", "");
  EXPECT_EQ(MappedFile::open(folder.file("none")).error().code, ErrorCode::kNotFound);
  EXPECT_FALSE(MappedFile::open(folder.file("empty")).ok());
  const Result<std::unique_ptr<MappedFile>> opened = MappedFile::open(folder.path());
  ASSERT_FALSE(opened.ok());
  EXPECT_NE(opened.error().message.find(folder.path()), std::string::npos);
}

}  // namespace
}  // namespace weir
