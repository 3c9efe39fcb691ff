// Cuts text into the pieces that byte-pair merging works on, by a regular expression from the model's file.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace weir {

// The pattern that a ByteLevel pre-tokenizer with use_regex applies (GPT-2's).
extern const std::string_view kGpt2SplitPattern;

// ok when `pattern` uses only constructs that mean the same in the reference's regex engine (Oniguruma, Ruby syntax)
// and in the linked one (PCRE2 with UTF and UCP): literals, classes of literals, ranges, \s \S \r \n \t \p{category},
// groups
// (?: (?i: (?! (?=, alternation, * + ? {n,m} and the possessive *+ ++ ?+. kUnsupported names the first other construct.
Status check_split_syntax(std::string_view pattern);

// Scratch for one thread's matching with any patterns.
class SplitScratch {
 public:
  SplitScratch();
  ~SplitScratch();
  SplitScratch(const SplitScratch&) = delete;
  SplitScratch& operator=(const SplitScratch&) = delete;

 private:
  friend class SplitPattern;
  struct State;
  std::unique_ptr<State> state_;
};

// Immutable; split() may run on many threads, each with its own scratch.
class SplitPattern {
 public:
  // Steps of one match beyond which a pattern is taken to backtrack without end: about a second.
  static constexpr uint32_t kMatchStepsMax = 10'000'000;
  // The longest known pattern (o200k) has 400 bytes.
  static constexpr size_t kPatternBytesMax = 8'192;

  // kUnsupported: see check_split_syntax(), or a pattern that can match nothing; kCorrupt: not a regular expression.
  static Result<std::unique_ptr<SplitPattern>> compile(std::string_view pattern);
  ~SplitPattern();
  SplitPattern(const SplitPattern&) = delete;
  SplitPattern& operator=(const SplitPattern&) = delete;

  // Appends the end offset of each piece of `text` (valid UTF-8): the matches, and what lies between them ("Isolated").
  // Pieces are not empty and cover the text. kTooLarge: over kMatchStepsMax.
  Status split(std::string_view text, SplitScratch* scratch, std::vector<uint32_t>* ends) const;

 private:
  struct Code;
  explicit SplitPattern(std::unique_ptr<Code> code);
  std::unique_ptr<Code> code_;
};

}  // namespace weir
