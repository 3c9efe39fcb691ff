// What a tokenizer.json may and may not say.
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "text/tokenizer.h"

namespace weir {
namespace {

using Json = nlohmann::ordered_json;

// A tokenizer of the 94 printable ASCII bytes, "ab", "abc" and one special token.
Json small() {
  Json vocab = Json::object();
  for (char c = 0x21; c < 0x7F; ++c) vocab[std::string(1, c)] = vocab.size();
  vocab["ab"] = vocab.size();
  vocab["abc"] = vocab.size();
  return Json::parse(R"({"version": "1.0", "truncation": null, "padding": null, "normalizer": {"type": "NFC"},
    "added_tokens": [{"id": 96, "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": false,
                      "normalized": false, "special": true}],
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": "\\p{L}+|\\s+"}, "behavior": "Isolated", "invert": false},
      {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}]},
    "post_processor": null, "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false, "byte_fallback": false,
              "ignore_merges": false, "vocab": {}, "merges": [["a", "b"], "ab c"]}})")
      .patch(Json::array({{{"op", "add"}, {"path", "/model/vocab"}, {"value", vocab}}}));
}

Json patched(const char* patch) {
  return small().patch(Json::parse(patch));
}

TEST(TokenizerJson, TheSmallFileLoadsAndMerges) {
  const auto tokenizer = Tokenizer::parse(small().dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().text();
  EXPECT_EQ(*(*tokenizer)->encode("abcab<|end|>c"), (std::vector<TokenId>{95, 94, 96, 66}));
}

TEST(TokenizerJson, AByteThatTheVocabularyLacksIsAnErrorAndNotDropped) {
  const auto tokenizer = Tokenizer::parse(small().dump());
  const auto ids = (*tokenizer)->encode("a b");
  ASSERT_FALSE(ids.ok());
  EXPECT_NE(ids.error().message.find("0x20"), std::string::npos) << ids.error().text();
}

struct Refusal {
  const char* what;
  const char* patch;
  ErrorCode code;
  const char* message;  // a part of it
};

const Refusal kRefusals[] = {
    {"another model", R"([{"op": "replace", "path": "/model/type", "value": "Unigram"}])", ErrorCode::kUnsupported,
     "Unigram"},
    {"another normalizer", R"([{"op": "replace", "path": "/normalizer/type", "value": "NFKC"}])",
     ErrorCode::kUnsupported, "NFKC"},
    {"a normalizer in a sequence",
     R"([{"op": "replace", "path": "/normalizer", "value": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}}])",
     ErrorCode::kUnsupported, "Lowercase"},
    {"no pre-tokenizer", R"([{"op": "replace", "path": "/pre_tokenizer", "value": null}])", ErrorCode::kUnsupported,
     "pre_tokenizer"},
    {"no ByteLevel", R"([{"op": "remove", "path": "/pre_tokenizer/pretokenizers/1"}])", ErrorCode::kUnsupported,
     "ByteLevel"},
    {"another pre-tokenizer", R"([{"op": "replace", "path": "/pre_tokenizer/type", "value": "Metaspace"}])",
     ErrorCode::kUnsupported, "Metaspace"},
    {"another behavior",
     R"([{"op": "replace", "path": "/pre_tokenizer/pretokenizers/0/behavior", "value": "Removed"}])",
     ErrorCode::kUnsupported, "Removed"},
    {"an inverted split", R"([{"op": "replace", "path": "/pre_tokenizer/pretokenizers/0/invert", "value": true}])",
     ErrorCode::kUnsupported, "invert"},
    {"a literal pattern",
     R"([{"op": "replace", "path": "/pre_tokenizer/pretokenizers/0/pattern", "value": {"String": "x"}}])",
     ErrorCode::kUnsupported, "String"},
    {"a pattern of another meaning",
     R"([{"op": "replace", "path": "/pre_tokenizer/pretokenizers/0/pattern/Regex", "value": "\\w+"}])",
     ErrorCode::kUnsupported, "escape"},
    {"a tokens-adding post-processor",
     R"([{"op": "replace", "path": "/post_processor", "value": {"type": "TemplateProcessing", "single": [
        {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]}}])",
     ErrorCode::kUnsupported, "adds tokens"},
    {"another decoder", R"([{"op": "replace", "path": "/decoder/type", "value": "WordPiece"}])",
     ErrorCode::kUnsupported, "WordPiece"},
    {"no decoder", R"([{"op": "replace", "path": "/decoder", "value": null}])", ErrorCode::kUnsupported, "decoder"},
    {"dropout", R"([{"op": "replace", "path": "/model/dropout", "value": 0.1}])", ErrorCode::kUnsupported, "dropout"},
    {"byte fallback", R"([{"op": "replace", "path": "/model/byte_fallback", "value": true}])", ErrorCode::kUnsupported,
     "byte_fallback"},
    {"a reachable unknown token", R"([{"op": "replace", "path": "/model/unk_token", "value": "a"}])",
     ErrorCode::kUnsupported, "unk_token"},
    {"a word suffix", R"([{"op": "add", "path": "/model/end_of_word_suffix", "value": "</w>"}])",
     ErrorCode::kUnsupported, "end_of_word_suffix"},
    {"an unknown model field", R"([{"op": "add", "path": "/model/surprise", "value": 1}])", ErrorCode::kUnsupported,
     "surprise"},
    {"an unknown field", R"([{"op": "add", "path": "/surprise", "value": 1}])", ErrorCode::kUnsupported, "surprise"},
    {"no model", R"([{"op": "remove", "path": "/model"}])", ErrorCode::kCorrupt, "model"},
    {"no vocabulary", R"([{"op": "remove", "path": "/model/vocab"}])", ErrorCode::kCorrupt, "vocab"},
    {"no merges", R"([{"op": "remove", "path": "/model/merges"}])", ErrorCode::kCorrupt, "merges"},
    {"a merge of unknown tokens", R"([{"op": "add", "path": "/model/merges/-", "value": ["b", "c"]}])",
     ErrorCode::kCorrupt, "merges[2]"},
    {"a merge of three", R"([{"op": "add", "path": "/model/merges/-", "value": "a b c"}])", ErrorCode::kCorrupt,
     "merges[2]"},
    {"an id that is text", R"([{"op": "replace", "path": "/model/vocab/a", "value": "1"}])", ErrorCode::kCorrupt,
     "'a'"},
    {"a negative id", R"([{"op": "replace", "path": "/model/vocab/a", "value": -1}])", ErrorCode::kCorrupt, "'a'"},
    {"a huge id", R"([{"op": "replace", "path": "/model/vocab/a", "value": 2000000000}])", ErrorCode::kTooLarge,
     "limit"},
    {"an id twice", R"([{"op": "replace", "path": "/model/vocab/a", "value": 3}])", ErrorCode::kCorrupt, "same id"},
    {"an empty token", R"([{"op": "add", "path": "/model/vocab/", "value": 500}])", ErrorCode::kCorrupt, "empty"},
    {"an added token on another's id", R"([{"op": "replace", "path": "/added_tokens/0/id", "value": 5}])",
     ErrorCode::kCorrupt, "another token"},
    {"an added token that contradicts", R"([{"op": "replace", "path": "/added_tokens/0/content", "value": "ab"}])",
     ErrorCode::kCorrupt, "94"},
    {"an added token twice", R"([{"op": "copy", "from": "/added_tokens/0", "path": "/added_tokens/1"}])",
     ErrorCode::kCorrupt, "twice"},
    {"an empty added token", R"([{"op": "replace", "path": "/added_tokens/0/content", "value": ""}])",
     ErrorCode::kCorrupt, "empty"},
    {"an unknown flag", R"([{"op": "add", "path": "/added_tokens/0/fuzzy", "value": true}])", ErrorCode::kUnsupported,
     "fuzzy"},
    {"a flag that is a number", R"([{"op": "replace", "path": "/added_tokens/0/lstrip", "value": 1}])",
     ErrorCode::kCorrupt, "lstrip"},
};

TEST(TokenizerJson, WhateverWouldChangeIdsIsRefusedByName) {
  for (const Refusal& refusal : kRefusals) {
    const auto tokenizer = Tokenizer::parse(patched(refusal.patch).dump());
    ASSERT_FALSE(tokenizer.ok()) << refusal.what;
    EXPECT_EQ(tokenizer.error().code, refusal.code) << refusal.what << ": " << tokenizer.error().text();
    EXPECT_NE(tokenizer.error().message.find(refusal.message), std::string::npos)
        << refusal.what << ": " << tokenizer.error().text();
    EXPECT_FALSE(tokenizer.error().text().empty());
  }
}

TEST(TokenizerJson, HarmlessVariantsLoad) {
  for (
      const char* patch :
      {R"([{"op": "replace", "path": "/normalizer", "value": null}])",
       R"([{"op": "replace", "path": "/normalizer", "value": {"type": "Sequence", "normalizers": [{"type": "NFC"}]}}])",
       R"([{"op": "replace", "path": "/post_processor", "value": {"type": "Sequence", "processors": [{"type": "ByteLevel"}]}}])",
       R"([{"op": "replace", "path": "/post_processor", "value": {"type": "TemplateProcessing",
               "single": [{"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {}}}])",
       R"([{"op": "replace", "path": "/truncation", "value": {"max_length": 5}}])",
       R"([{"op": "replace", "path": "/model/vocab/ab", "value": 500}])",
       R"([{"op": "add", "path": "/model/merges/0", "value": "#version: 0.2"}])"}) {
    const auto tokenizer = Tokenizer::parse(patched(patch).dump());
    EXPECT_TRUE(tokenizer.ok()) << patch << ": " << tokenizer.error().text();
  }
}

TEST(TokenizerJson, DamagedJsonIsRefused) {
  const std::string whole = small().dump();
  for (size_t cut = 0; cut < whole.size(); cut += 97) {
    EXPECT_FALSE(Tokenizer::parse(std::string_view(whole).substr(0, cut)).ok()) << cut;
  }
  for (const std::string& text : {std::string("[]"), std::string("null"), std::string("{}"), std::string("\xff"),
                                  std::string(100'000, '['), std::string("{\"model\": \"\\ud800\"}")}) {
    const auto tokenizer = Tokenizer::parse(text);
    ASSERT_FALSE(tokenizer.ok());
    EXPECT_FALSE(tokenizer.error().message.empty());
  }
}

TEST(TokenizerJson, AMissingFileIsNamed) {
  const auto tokenizer = Tokenizer::load("tests/data/tokenizer/none.json");
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.error().code, ErrorCode::kNotFound);
  EXPECT_NE(tokenizer.error().message.find("none.json"), std::string::npos);
}

}  // namespace
}  // namespace weir
