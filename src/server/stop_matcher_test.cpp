#include "server/stop_matcher.h"

#include <gtest/gtest.h>

#include <random>

namespace weir {
namespace {

struct Outcome {
  std::string text;
  bool stopped = false;
  bool operator==(const Outcome&) const = default;
};

// The rule, said plainly: of all occurrences the one that ends first, of those the longest.
Outcome expected(const std::string& text, const std::vector<std::string>& stops, bool include) {
  for (size_t end = 1; end <= text.size(); ++end) {
    size_t longest = 0;
    for (const std::string& stop : stops) {
      if (stop.size() <= end && text.compare(end - stop.size(), stop.size(), stop) == 0) {
        longest = std::max(longest, stop.size());
      }
    }
    if (longest > 0) {
      return {text.substr(0, include ? end : end - longest), true};
    }
  }
  return {text, false};
}

Outcome streamed(const std::string& text, const StopSet& set, bool include, std::mt19937* random) {
  StopMatcher matcher(&set, include);
  Outcome out;
  for (size_t at = 0; at < text.size() && !out.stopped;) {
    const size_t size = 1 + (*random)() % 4;
    out.stopped = matcher.push(std::string_view(text).substr(at, size), &out.text);
    at += size;
  }
  if (!out.stopped) {
    matcher.finish(&out.text);
  }
  return out;
}

TEST(StopMatcher, TheResultDoesNotDependOnThePieces) {
  const uint32_t seed = 11;
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  const auto letters = [&random](size_t size) {
    std::string text;
    for (size_t i = 0; i < size; ++i) {
      text += static_cast<char>('a' + random() % 2);
    }
    return text;
  };
  int stopped = 0;
  for (int round = 0; round < 5000; ++round) {
    std::vector<std::string> stops;
    for (size_t i = 0, count = random() % 4; i < count; ++i) {
      stops.push_back(letters(1 + random() % 7));
    }
    const std::string text = letters(random() % 24);
    const StopSet set(stops);
    const bool include = random() % 2 == 0;
    const Outcome want = expected(text, stops, include);
    stopped += want.stopped ? 1 : 0;
    ASSERT_EQ(streamed(text, set, include, &random), want) << text << " round " << round;
  }
  EXPECT_GT(stopped, 1000);
}

TEST(StopMatcher, HoldsBackNoMoreThanAStopStringCanUse) {
  const StopSet set({"abc"});
  StopMatcher matcher(&set, false);
  std::string out;
  matcher.push("xxab", &out);
  EXPECT_EQ(out, "xx");
  matcher.push("x", &out);
  EXPECT_EQ(out, "xxabx");
}

TEST(StopMatcher, LongRepetitiveStringsCostOneStepPerByte) {
  const StopSet set(std::vector<std::string>(16, std::string(4095, 'a') + "b"));
  StopMatcher matcher(&set, false);
  std::string out;
  // A quadratic matcher would need 10^11 steps here.
  for (int i = 0; i < 500; ++i) {
    matcher.push(std::string(1000, 'a'), &out);
  }
  EXPECT_EQ(out.size(), 500'000U - 4095U);
}

}  // namespace
}  // namespace weir
