#include "text/generation.h"

#include <gtest/gtest.h>

#include <fstream>

namespace weir {
namespace {

class Generation : public testing::Test {
 protected:
  Generation() : folder_(std::filesystem::path(testing::TempDir()) / "weir_generation_test") {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    tokenizer_ = Tokenizer::load("tests/data/tokenizer/qwen35_part.json").value();
  }
  ~Generation() override { std::filesystem::remove_all(folder_); }

  void write(const std::string& name, const std::string& text) { std::ofstream(folder_ / name) << text; }
  Result<GenerationDefaults> load() { return load_generation_defaults(folder_, tokenizer_.get()); }

  std::filesystem::path folder_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(Generation, EndIdsAreTheUnionOfAllFiles) {
  write("generation_config.json",
        R"({"eos_token_id": [248046, 248044], "temperature": 1.0, "top_p": 0.95, "top_k": 20})");
  write("config.json", R"({"eos_token_id": 7, "text_config": {"eos_token_id": 248044}})");
  write("tokenizer_config.json", R"({"eos_token": {"content": "<|im_end|>", "lstrip": false}})");
  const auto defaults = load();
  ASSERT_TRUE(defaults.ok()) << defaults.error().text();
  EXPECT_EQ(defaults->eos_ids, (std::vector<int32_t>{7, 248044, 248046}));
  EXPECT_EQ(defaults->temperature, 1.0f);
  EXPECT_EQ(defaults->top_p, 0.95f);
  EXPECT_EQ(defaults->top_k, 20);
  EXPECT_FALSE(defaults->min_p.has_value());
  EXPECT_FALSE(defaults->repetition_penalty.has_value());
}

TEST_F(Generation, MissingFilesAndNullFieldsSayNothing) {
  auto defaults = load();
  ASSERT_TRUE(defaults.ok()) << defaults.error().text();
  EXPECT_TRUE(defaults->eos_ids.empty());
  write("generation_config.json", R"({"eos_token_id": null, "top_k": null, "temperature": null})");
  write("tokenizer_config.json", R"({"eos_token": "<|im_end|>"})");
  defaults = load();
  ASSERT_TRUE(defaults.ok()) << defaults.error().text();
  EXPECT_EQ(defaults->eos_ids, std::vector<int32_t>{248046});
  EXPECT_FALSE(defaults->top_k.has_value());
}

TEST_F(Generation, WrongFieldsAreNamedWithTheirFile) {
  const std::pair<const char*, const char*> wrong[] = {{R"({"temperature": -1})", "temperature"},
                                                       {R"({"temperature": "hot"})", "temperature"},
                                                       {R"({"top_p": 0})", "top_p"},
                                                       {R"({"top_p": 1.5})", "top_p"},
                                                       {R"({"min_p": 2})", "min_p"},
                                                       {R"({"repetition_penalty": 0})", "repetition_penalty"},
                                                       {R"({"top_k": 1.5})", "top_k"},
                                                       {R"({"eos_token_id": "x"})", "eos_token_id"},
                                                       {R"({"eos_token_id": [-4]})", "eos_token_id"},
                                                       {R"([])", "object"},
                                                       {R"({)", "JSON"}};
  for (const auto& [text, name] : wrong) {
    write("generation_config.json", text);
    const auto defaults = load();
    ASSERT_FALSE(defaults.ok()) << text;
    EXPECT_EQ(defaults.error().code, ErrorCode::kCorrupt);
    EXPECT_NE(defaults.error().message.find(name), std::string::npos) << defaults.error().text();
    EXPECT_NE(defaults.error().message.find("generation_config.json"), std::string::npos) << defaults.error().text();
  }
}

TEST_F(Generation, AnEndTokenThatTheVocabularyLacksIsAnError) {
  write("tokenizer_config.json", R"({"eos_token": "<|no such|>"})");
  EXPECT_FALSE(load().ok());
}

}  // namespace
}  // namespace weir
