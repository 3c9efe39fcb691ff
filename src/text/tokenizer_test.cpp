#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <thread>

#include "text/unicode.h"

namespace weir {
namespace {

const std::string kData = "tests/data/tokenizer/";
// Unpacked by the build from qwen3_tokenizer.json.xz.
const std::string kQwen3 = WEIR_QWEN3_TOKENIZER;

std::string path_of(const std::string& name) {
  return name == "qwen3" ? kQwen3 : kData + name + ".json";
}

std::unique_ptr<Tokenizer> load(const std::string& name) {
  auto tokenizer = Tokenizer::load(path_of(name));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.error().text();
  return std::move(tokenizer).value();
}

std::string joined_bytes(const Tokenizer& tokenizer, const std::vector<TokenId>& ids) {
  std::string bytes;
  for (const TokenId id : ids) bytes.append(tokenizer.bytes(id));
  return bytes;
}

class Golden : public testing::TestWithParam<std::string> {};

TEST_P(Golden, IdsEqualThoseOfTheIndependentImplementation) {
  const auto tokenizer = load(GetParam());
  std::ifstream file(kData + "goldens.json");
  const auto goldens = nlohmann::json::parse(file);
  const auto& cases = goldens.at(GetParam());
  ASSERT_GE(cases.size(), 150u);
  for (const auto& golden : cases) {
    const std::string text = golden[0];
    EXPECT_EQ(*tokenizer->encode(text), golden[1].get<std::vector<TokenId>>()) << text;
    EXPECT_EQ(*tokenizer->encode(text, {.parse_special = false}), golden[2].get<std::vector<TokenId>>()) << text;
  }
}

INSTANTIATE_TEST_SUITE_P(Vocabularies, Golden,
                         testing::Values("qwen3", "qwen35_part", "qwen35_pattern", "llama3_pattern", "gpt2_pattern",
                                         "added_flags"),
                         [](const auto& info) { return info.param; });

TEST(Tokenizer, EveryByteStringOfOneAndTwoBytesRoundTripsThroughIds) {
  const auto tokenizer = load("qwen3");
  std::vector<TokenId> of_byte;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string one(1, static_cast<char>(byte));
    const auto id = tokenizer->find(one);
    ASSERT_TRUE(id.has_value()) << byte;
    EXPECT_EQ(tokenizer->bytes(*id), one);
    of_byte.push_back(*id);
  }
  for (size_t first = 0; first < 256; ++first) {
    for (size_t second = 0; second < 256; ++second) {
      const std::string two{static_cast<char>(first), static_cast<char>(second)};
      ASSERT_EQ(joined_bytes(*tokenizer, {of_byte[first], of_byte[second]}), two);
    }
  }
}

TEST(Tokenizer, RandomValidTextRoundTripsToItsNormalForm) {
  std::mt19937 random(7);  // the seed
  for (const char* name : {"qwen3", "llama3_pattern"}) {
    const auto tokenizer = load(name);
    const bool nfc = std::string(name) == "qwen3";
    for (int round = 0; round < 3000; ++round) {
      std::string text;
      for (auto length = random() % 40; length > 0; --length) {
        const auto point = static_cast<char32_t>(random() % 2 == 0 ? random() % 0x400 : random() % 0x10F800);
        append_utf8(point >= 0xD800 ? point + 0x800 : point, &text);
      }
      const auto ids = tokenizer->encode(text);
      ASSERT_TRUE(ids.ok()) << ids.error().text();
      const std::string wanted = nfc ? normalize_nfc(text).value_or(text) : text;
      ASSERT_EQ(joined_bytes(*tokenizer, *ids), wanted);
      ASSERT_EQ(tokenizer->decode(*ids, false), wanted);
    }
  }
}

TEST(Tokenizer, TheTokenTableOfTheRealFileIsWhole) {
  const auto tokenizer = load("qwen3");
  EXPECT_EQ(tokenizer->size(), 151669);
  EXPECT_EQ(tokenizer->find("<|im_end|>"), 151645);
  EXPECT_EQ(tokenizer->find("<think>"), 151667);
  EXPECT_EQ(tokenizer->find(" world"), 1879);
  EXPECT_FALSE(tokenizer->find("no such token").has_value());
  EXPECT_FALSE(tokenizer->find("").has_value());
  EXPECT_TRUE(tokenizer->is_special(151645));
  EXPECT_FALSE(tokenizer->is_special(151667));
  std::vector<TokenId> added(26);  // the tool and thinking marks among them, which are not special
  std::iota(added.begin(), added.end(), 151643);
  EXPECT_EQ(tokenizer->added_ids(), added);
  EXPECT_TRUE(tokenizer->contains(151668));
  for (const TokenId id : {-1, 151669, INT32_MAX, INT32_MIN}) {
    EXPECT_TRUE(tokenizer->bytes(id).empty()) << id;
    EXPECT_FALSE(tokenizer->is_special(id)) << id;
    EXPECT_FALSE(tokenizer->contains(id)) << id;
  }
}

TEST(Tokenizer, TheChatFixtureOfQwen35HasItsKnownIds) {
  const auto tokenizer = load("qwen35_part");
  const auto ids =
      tokenizer->encode("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n");
  const std::vector<TokenId> wanted = {248045, 846, 198,    9419, 248046, 198, 248045,
                                       74455,  198, 248068, 271,  248069, 271};
  EXPECT_EQ(*ids, wanted);
}

TEST(Tokenizer, InvalidUtf8IsRefusedAtItsByte) {
  const auto tokenizer = load("qwen35_pattern");
  for (const std::string tail : {"\xff", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\x80"}) {
    const auto ids = tokenizer->encode("ok " + tail);
    ASSERT_FALSE(ids.ok());
    EXPECT_EQ(ids.error().code, ErrorCode::kInvalidArgument);
    EXPECT_NE(ids.error().message.find("byte 3"), std::string::npos) << ids.error().text();
  }
}

TEST(Tokenizer, TextOverTheLimitIsRefused) {
  const auto tokenizer = load("qwen35_pattern");
  const auto ids = tokenizer->encode(std::string(static_cast<size_t>(TokenizerLimits::kTextBytesMax) + 1, 'a'));
  ASSERT_FALSE(ids.ok());
  EXPECT_EQ(ids.error().code, ErrorCode::kTooLarge);
}

TEST(Tokenizer, HugePiecesAndRunsOfMarksDoNotTakeQuadraticTime) {
  const auto tokenizer = load("qwen3");
  std::string marks = "a";
  for (int i = 0; i < 250'000; ++i) marks += i % 2 == 0 ? "\xcc\x81" : "\xcc\xa3";  // U+0301 and U+0323 swap in NFC
  const std::string letters(1'000'000, 'a');
  for (const std::string& text : {letters, std::string(1'000'000, ' '), std::string(1'000'000, '\n'), marks}) {
    // Quadratic work would take minutes here and run into the test's time limit.
    const auto ids = tokenizer->encode(text);
    ASSERT_TRUE(ids.ok()) << ids.error().text();
    EXPECT_EQ(joined_bytes(*tokenizer, *ids).size(), normalize_nfc(text).value_or(text).size());
  }
}

TEST(Tokenizer, ShortAndLongPiecesMergeAlike) {
  // No merge of the long piece crossed a final token's ends, so each token's text alone, which is short and goes
  // through the pair scan, must merge to that token again.
  const auto tokenizer = load("qwen35_pattern");
  std::mt19937 random(11);
  for (int round = 0; round < 200; ++round) {
    std::string text;
    for (int i = 0; i < 60; ++i) text += static_cast<char>('a' + random() % 26);
    const auto whole = *tokenizer->encode(text);
    for (const TokenId id : whole) {
      EXPECT_EQ(*tokenizer->encode(tokenizer->bytes(id)), std::vector<TokenId>{id}) << text;
    }
  }
}

TEST(Tokenizer, ManyThreadsEncodeAlike) {
  const auto tokenizer = load("qwen3");
  const std::string text = "The quick brown fox doesn't jump 1234 times over na\u00efve dogs.\n\n<|im_end|> ";
  const auto wanted = *load("qwen3")->encode(text);
  std::vector<std::thread> threads;
  std::vector<int> equal(4, 0);
  for (size_t t = 0; t < equal.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) equal[t] += *tokenizer->encode(text) == wanted ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const int count : equal) EXPECT_EQ(count, 200);
}

}  // namespace
}  // namespace weir
