#include "server/choice_text.h"

#include <gtest/gtest.h>

#include <random>

#include "server/sim/byte_tokenizer.h"

namespace weir {
namespace {

class ChoiceTextTest : public testing::Test {
 protected:
  // Pushes the tokens of `text` one by one; the entries must add up to the text at every moment.
  std::string run(const std::string& text, std::vector<std::string> stops, bool end_with_stop_id) {
    const StopSet set(std::move(stops));
    ChoiceTextOptions options;
    options.tokenizer = &tokenizer_;
    options.stops = &set;
    options.keep_tokens = true;
    ChoiceText choice(options);
    std::vector<TokenId> ids = tokenizer_.encode(text, {}).value();
    if (end_with_stop_id) {
      ids.push_back(sim::kTurnEnd);
    }
    std::string whole;
    std::string from_entries;
    size_t ids_seen = 0;
    const auto take = [&] {
      const TextPiece piece = choice.take();
      whole += piece.text;
      for (const api::TokenEntry& entry : piece.entries) {
        from_entries += entry.text;
      }
      ids_seen += piece.ids.size();
      EXPECT_EQ(piece.ids.size(), piece.entries.size());
      EXPECT_LE(from_entries.size(), whole.size());
    };
    const std::vector<TokenLogprob> logprobs = {{0, -1.0F, 1}};
    const LogprobRow row;
    for (size_t i = 0; i < ids.size(); ++i) {
      const bool last = end_with_stop_id && i + 1 == ids.size();
      const bool stopped = choice.push(ids[i], &row, logprobs, last);
      take();
      if (stopped) {
        break;
      }
    }
    choice.finish();
    take();
    EXPECT_EQ(from_entries, whole);
    EXPECT_EQ(static_cast<int32_t>(ids_seen), choice.token_count());
    return whole;
  }

  sim::ByteTokenizer tokenizer_;
};

TEST_F(ChoiceTextTest, EntriesAddUpToTheText) {
  EXPECT_EQ(run("Gr\xC3\xBC\xC3\x9F"
                "e, the thing \xF0\x9F\x8C\x8D",
                {}, true),
            "Gr\xC3\xBC\xC3\x9F"
            "e, the thing \xF0\x9F\x8C\x8D");
  EXPECT_EQ(run("one STOP two", {"STOP"}, true), "one ");
  EXPECT_EQ(run("the thing!!!", {"hin"}, false), "the t");
}

TEST_F(ChoiceTextTest, AnAnswerCutInsideACodePointEndsWithAReplacement) {
  const StopSet none{{}};
  ChoiceTextOptions options;
  options.tokenizer = &tokenizer_;
  options.stops = &none;
  options.keep_tokens = true;
  ChoiceText choice(options);
  choice.push(0xF0, nullptr, {}, false);
  choice.push(0x9F, nullptr, {}, false);
  choice.finish();
  const TextPiece piece = choice.take();
  EXPECT_EQ(piece.text, "\xEF\xBF\xBD");
  std::string from_entries;
  for (const api::TokenEntry& entry : piece.entries) {
    from_entries += entry.text;
  }
  EXPECT_EQ(from_entries, piece.text);
}

TEST_F(ChoiceTextTest, RandomTokensAlwaysAddUp) {
  const uint32_t seed = 5;
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  const std::vector<std::string> pieces = {"a", "b", "\xC3\xBC", "\xF0\x9F\x8C\x8D", " the", "!!!", "\n\n", "!"};
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (size_t i = 0, count = random() % 12; i < count; ++i) {
      text += pieces[random() % pieces.size()];
    }
    std::vector<std::string> stops;
    for (size_t i = 0, count = random() % 3; i < count; ++i) {
      stops.push_back(pieces[random() % pieces.size()] + pieces[random() % pieces.size()]);
    }
    run(text, stops, random() % 2 == 0);
  }
}

TEST_F(ChoiceTextTest, OffsetsCountCodePoints) {
  const StopSet none{{}};
  ChoiceTextOptions options;
  options.tokenizer = &tokenizer_;
  options.stops = &none;
  options.keep_tokens = true;
  ChoiceText choice(options);
  choice.push_prompt(tokenizer_.encode("\xC3\xBC", {}).value(), {}, {});
  choice.push('a', nullptr, {}, false);
  const TextPiece piece = choice.take();
  ASSERT_EQ(piece.entries.size(), 3U);
  EXPECT_EQ(piece.entries[2].text_offset, 1);
  EXPECT_EQ(piece.text,
            "\xC3\xBC"
            "a");
}

}  // namespace
}  // namespace weir
