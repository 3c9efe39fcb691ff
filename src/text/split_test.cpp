#include "text/split.h"

#include <gtest/gtest.h>

#include "text/unicode.h"

namespace weir {
namespace {

using Pieces = std::vector<std::string>;

Pieces pieces(std::string_view pattern, const std::string& text) {
  auto split = SplitPattern::compile(pattern);
  EXPECT_TRUE(split.ok()) << split.error().text();
  SplitScratch scratch;
  std::vector<uint32_t> ends;
  const Status status = (*split)->split(text, &scratch, &ends);
  EXPECT_TRUE(status.ok()) << status.error().text();
  Pieces result;
  uint32_t begin = 0;
  for (const uint32_t end : ends) {
    result.push_back(text.substr(begin, end - begin));
    begin = end;
  }
  return result;
}

TEST(Split, TheGpt2PatternCutsAsKnown) {
  EXPECT_EQ(pieces(kGpt2SplitPattern, "Hello world, it's 42  ok \n"),
            (Pieces{"Hello", " world", ",", " it", "'s", " 42", " ", " ok", " \n"}));
}

TEST(Split, TextBetweenMatchesIsAPieceOfItsOwn) {
  EXPECT_EQ(pieces("[0-9]+", "ab12c3"), (Pieces{"ab", "12", "c", "3"}));
  EXPECT_EQ(pieces("[0-9]+", "abc"), (Pieces{"abc"}));
  EXPECT_EQ(pieces("[0-9]+", ""), Pieces{});
}

TEST(Split, LettersAndSpacesAreThoseOfTheReferencesUnicodeVersion) {
  // U+31350 is a letter since Unicode 15, U+1CCF0 a digit since 16; U+180E is no space since 6.3.
  EXPECT_EQ(pieces(R"(\p{L}+)", "a\U00031350b!"), (Pieces{"a\U00031350b", "!"}));
  EXPECT_EQ(pieces(R"(\p{Nd}+)",
                   "\U0001CCF0"
                   "1!"),
            (Pieces{"\U0001CCF0"
                    "1",
                    "!"}));
  EXPECT_EQ(pieces(R"(\s+)", " \u180e "), (Pieces{" ", "\u180e", " "}));
}

TEST(Split, PatternsOfAnotherMeaningAreRefused) {
  for (const char* pattern : {R"(\w+)",     R"(\d+)",     R"(\bx)",    R"(.)",           R"(^a)",     R"(a$)",
                              R"(a{1,3}+)", R"((?<=a)b)", R"((?>a)b)", R"((?i)a)",       R"([a&&b])", R"([[:alpha:]])",
                              R"([a[b]])",  R"(\p{Han})", R"(\pL)",    R"(\x41)",        R"((a)\1)",  R"(\R)",
                              R"(\h)",      R"(a**)",     R"({2})",    "[\u1000-\u2fff]"}) {
    const auto split = SplitPattern::compile(pattern);
    ASSERT_FALSE(split.ok()) << pattern;
    EXPECT_EQ(split.error().code, ErrorCode::kUnsupported) << pattern << ": " << split.error().text();
  }
}

TEST(Split, BrokenPatternsAreErrors) {
  for (const char* pattern : {"(a", "a)", "[a", "a\\", "\xff", "[z-a]"})
    EXPECT_FALSE(SplitPattern::compile(pattern).ok()) << pattern;
  EXPECT_FALSE(SplitPattern::compile("a*").ok()) << "matches the empty text";
  EXPECT_FALSE(SplitPattern::compile("").ok());
  EXPECT_EQ(SplitPattern::compile(std::string(SplitPattern::kPatternBytesMax + 1, 'a')).error().code,
            ErrorCode::kTooLarge);
}

TEST(Split, KnownPatternsOfOtherModelsAreTaken) {
  for (
      const char* pattern :
      {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
       R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
       "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+)"}) {
    EXPECT_TRUE(SplitPattern::compile(pattern).ok()) << pattern;
  }
}

TEST(Split, AHostilePatternGivesUpWithAnError) {
  const auto split = SplitPattern::compile(R"((?:(?:a+)+)+b)");
  ASSERT_TRUE(split.ok()) << split.error().text();
  SplitScratch scratch;
  std::vector<uint32_t> ends;
  const Status status = (*split)->split(std::string(5'000, 'a') + "cb", &scratch, &ends);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kTooLarge);
}

TEST(Nfc, KnownCasesFollowUnicode9) {
  const auto nfc = [](const std::string& text) { return normalize_nfc(text).value_or(text); };
  EXPECT_EQ(nfc("e\u0301"), "\u00e9");
  EXPECT_EQ(nfc("\u0438\u0306"), "\u0439");
  EXPECT_EQ(nfc("e\u0301\u0323"), "\u1eb9\u0301");
  EXPECT_EQ(nfc("\u1112\u1161\u11ab"), "\ud55c");
  EXPECT_EQ(nfc("\uac00\u11a8"), "\uac01");
  EXPECT_EQ(nfc("\uac00\u11a7"), "\uac00\u11a7");
  EXPECT_EQ(nfc("\u212b"), "\u00c5");
  EXPECT_EQ(nfc("\u0344"), "\u0308\u0301");
  EXPECT_EQ(nfc("\u0958"), "\u0915\u093c");
  // Marks and pairs that Unicode 9 did not know stay as they are and in their place.
  EXPECT_EQ(nfc("a\u0898\u0334"), "a\u0898\u0334");
  EXPECT_EQ(nfc("\U00011935\U00011930"), "\U00011935\U00011930");
  EXPECT_FALSE(normalize_nfc("plain \u00e9 \u4e2d").has_value());
  EXPECT_FALSE(normalize_nfc("").has_value());
}

TEST(Unicode, Utf8IsCheckedAsTheStandardSays) {
  EXPECT_FALSE(find_invalid_utf8("a\u00e9\u20ac\U0001F600").has_value());
  EXPECT_EQ(find_invalid_utf8("ab\xc0\x80"), 2u);
  EXPECT_EQ(find_invalid_utf8("\xe0\x9f\xbf"), 0u);
  EXPECT_EQ(find_invalid_utf8("\xed\xa0\x80"), 0u);
  EXPECT_EQ(find_invalid_utf8("\xf4\x90\x80\x80"), 0u);
  EXPECT_EQ(find_invalid_utf8("x\xf0\x9f\x98"), 1u);
  for (char32_t point = 0; point < 0x110000; ++point) {
    if (point >= 0xD800 && point < 0xE000) continue;
    std::string text;
    append_utf8(point, &text);
    ASSERT_FALSE(find_invalid_utf8(text).has_value());
    ASSERT_EQ(code_point_at(text, 0).value, point);
    ASSERT_EQ(code_point_before(text, text.size()).length, text.size());
  }
}

TEST(Unicode, SubstitutesKeepEveryOffset) {
  std::string text;
  for (char32_t point = 0; point < 0x110000; point += 3) {
    if (point < 0xD800 || point >= 0xE000) append_utf8(point, &text);
  }
  const auto substituted = substitute_categories(text);
  ASSERT_TRUE(substituted.has_value());
  ASSERT_EQ(substituted->size(), text.size());
  EXPECT_FALSE(find_invalid_utf8(*substituted).has_value());
  EXPECT_FALSE(substitute_categories(*substituted).has_value()) << "a substitute is itself substituted";
}

}  // namespace
}  // namespace weir
