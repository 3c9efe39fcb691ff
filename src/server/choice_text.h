// One choice's tokens turned into text, log-probability entries and ids, in step with each other.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <vector>

#include "api/response.h"
#include "plan/step.h"
#include "server/stop_matcher.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"

namespace weir {

struct ChoiceTextOptions {
  const Tokenizer* tokenizer = nullptr;
  const StopSet* stops = nullptr;
  bool skip_special = true;
  bool include_stop = false;
  int32_t min_tokens = 0;
  bool keep_tokens = false;  // entries and ids are wanted
};

// What has become certain since the last take().
struct TextPiece {
  std::string text;
  std::vector<api::TokenEntry> entries;  // only with keep_tokens
  std::vector<TokenId> ids;              // of the entries

  bool empty() const { return text.empty() && ids.empty(); }
};

// An entry leaves together with the last byte of its text, so that entries never run ahead of text that a stop string
// may still cut off. The texts of all entries add up to the text exactly.
class ChoiceText {
 public:
  explicit ChoiceText(const ChoiceTextOptions& options);

  // Puts the prompt in front (echo). `rows` is one per prompt token but the first, or empty without log-probabilities.
  void push_prompt(std::span<const TokenId> ids, std::span<const LogprobRow> rows,
                   std::span<const TokenLogprob> logprobs);

  // Takes one output token. `row` may be null. `is_stop`: it is a stop id, which adds no text.
  // Returns true if a stop string is now complete: nothing may be pushed any more.
  bool push(TokenId id, const LogprobRow* row, std::span<const TokenLogprob> logprobs, bool is_stop);

  // No more tokens: releases what was held back.
  void finish();

  TextPiece take();

  int32_t token_count() const { return token_count_; }
  bool stopped() const { return matcher_.matched(); }
  std::string_view stop_string() const { return matcher_.matched() ? matcher_.match() : std::string_view(); }

 private:
  struct Pending {
    api::TokenEntry entry;
    int64_t end = 0;  // bytes of all text up to and including this entry's
  };

  void add_entry(TokenId id, std::string_view text, const LogprobRow* row, std::span<const TokenLogprob> logprobs,
                 bool rendered);
  void release(bool all);

  ChoiceTextOptions options_;
  Detokenizer detokenizer_;
  StopMatcher matcher_;
  std::deque<Pending> pending_;
  TextPiece ready_;
  int64_t produced_bytes_ = 0;   // text of all entries so far
  int64_t produced_points_ = 0;  // the same in code points
  int64_t released_bytes_ = 0;   // text that has become certain
  int32_t token_count_ = 0;
};

}  // namespace weir
