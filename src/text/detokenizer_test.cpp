#include "text/detokenizer.h"

#include <gtest/gtest.h>

#include <random>

#include "text/unicode.h"

namespace weir {
namespace {

// Independent of the stream: at each place the longest prefix of a valid sequence, by trying all continuations.
bool is_valid_prefix(const std::string& bytes) {
  std::string whole = bytes;
  for (const char fill : {'\x80', '\x90', '\xa0'}) {
    whole = bytes;
    // The range of a second byte depends on the first; later bytes are free.
    while (whole.size() < 4) {
      if (!find_invalid_utf8(whole)) return true;
      whole += whole.size() == 1 ? fill : '\x80';
    }
    if (!find_invalid_utf8(whole)) return true;
  }
  return false;
}

std::string lossy(const std::string& bytes) {
  std::string text;
  for (size_t at = 0; at < bytes.size();) {
    size_t length = 1;
    while (at + length < bytes.size() && length < 4 && find_invalid_utf8(bytes.substr(at, length)) &&
           is_valid_prefix(bytes.substr(at, length)) && is_valid_prefix(bytes.substr(at, length + 1))) {
      ++length;
    }
    const std::string part = bytes.substr(at, length);
    text += find_invalid_utf8(part) ? "\xef\xbf\xbd" : part;
    at += length;
  }
  return text;
}

std::string streamed(const std::string& bytes, size_t step) {
  Utf8Stream stream;
  std::string text;
  for (size_t at = 0; at < bytes.size(); at += step) {
    stream.push(std::string_view(bytes).substr(at, step), &text);
    EXPECT_FALSE(find_invalid_utf8(text).has_value());
  }
  stream.finish(&text);
  EXPECT_EQ(stream.pending(), 0);
  return text;
}

TEST(Utf8Stream, KnownBrokenBytesGiveTheStandardsReplacements) {
  const std::string r = "\xef\xbf\xbd";
  EXPECT_EQ(streamed("a\xe2\x82", 1), "a" + r);
  EXPECT_EQ(streamed("\xe2\x82\x61", 1), r + "a");
  EXPECT_EQ(streamed("\xf0\x80\x80\x80", 1), r + r + r + r);
  EXPECT_EQ(streamed("\xed\xa0\x80", 1), r + r + r);
  EXPECT_EQ(streamed("\xf0\x9f\x98\xf0\x9f\x98\x80", 1), r + "\xf0\x9f\x98\x80");
  EXPECT_EQ(streamed("\xc3\xc3\xa9", 1), r + "\xc3\xa9");
  EXPECT_EQ(streamed("\xf5\xff\xc1", 1), r + r + r);
}

TEST(Utf8Stream, AnyCutOfAnyBytesGivesTheWholeTextsDecode) {
  std::mt19937 random(5);  // the seed
  const unsigned char kinds[] = {0x41, 0x80, 0x9F, 0xA0, 0xBF, 0xC1, 0xC2, 0xDF,
                                 0xE0, 0xE2, 0xED, 0xEF, 0xF0, 0xF1, 0xF4, 0xF5};
  for (int round = 0; round < 20'000; ++round) {
    std::string bytes;
    for (auto length = random() % 12; length > 0; --length) {
      bytes += static_cast<char>(random() % 4 == 0 ? random() % 256 : kinds[random() % 16]);
    }
    const std::string wanted = lossy(bytes);
    for (const size_t step : {1, 2, 3, 12}) ASSERT_EQ(streamed(bytes, step), wanted) << testing::PrintToString(bytes);
  }
}

TEST(Utf8Stream, ValidTextComesOutUnchangedAndNeverInHalves) {
  for (char32_t point = 1; point < 0x110000; point += 37) {
    if (point >= 0xD800 && point < 0xE000) continue;
    std::string text;
    append_utf8(point, &text);
    Utf8Stream stream;
    std::string out;
    for (size_t i = 0; i + 1 < text.size(); ++i) {
      stream.push(text.substr(i, 1), &out);
      ASSERT_TRUE(out.empty());
      ASSERT_EQ(stream.pending(), static_cast<int>(i + 1));
    }
    stream.push(text.substr(text.size() - 1), &out);
    ASSERT_EQ(out, text);
  }
}

TEST(Detokenizer, OutputOfRandomIdsEqualsDecodeOfAll) {
  const auto loaded = Tokenizer::load("tests/data/tokenizer/qwen35_pattern.json");
  ASSERT_TRUE(loaded.ok()) << loaded.error().text();
  const Tokenizer& tokenizer = **loaded;
  std::mt19937 random(6);  // the seed
  for (int round = 0; round < 2'000; ++round) {
    std::vector<TokenId> ids(random() % 20);
    // Ids that no token has are among them.
    for (TokenId& id : ids) id = static_cast<TokenId>(random() % static_cast<uint64_t>(tokenizer.size() + 5)) - 2;
    const bool skip = random() % 2 == 0;
    Detokenizer detokenizer(&tokenizer, skip);
    std::string text;
    std::string bytes;
    for (const TokenId id : ids) {
      detokenizer.push(id, &text);
      if (!skip || !tokenizer.is_special(id)) bytes.append(tokenizer.bytes(id));
      ASSERT_FALSE(find_invalid_utf8(text).has_value());
    }
    detokenizer.finish(&text);
    ASSERT_EQ(text, tokenizer.decode(ids, skip));
    ASSERT_EQ(text, lossy(bytes));
  }
}

TEST(Detokenizer, SkippingSpecialTokensLeavesOtherAddedTokens) {
  const auto loaded = Tokenizer::load("tests/data/tokenizer/qwen35_pattern.json");
  const auto ids = *(*loaded)->encode("<|im_start|><think>a</think><|im_end|>");
  EXPECT_EQ((*loaded)->decode(ids, true), "<think>a</think>");
  EXPECT_EQ((*loaded)->decode(ids, false), "<|im_start|><think>a</think><|im_end|>");
}

}  // namespace
}  // namespace weir
