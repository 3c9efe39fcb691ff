// Responses as JSON text, written without a document: the streaming path does this for every token.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "plan/ids.h"

namespace weir::api {

enum class ResponseKind : uint8_t { kChat, kCompletion };

// One of the likeliest tokens at a position.
struct TopLogprob {
  TokenId id = 0;
  std::string text;   // lossy decode of the token alone
  std::string bytes;  // its raw bytes
  float logprob = 0;
};

// One token of an answer (or, with echo, of the prompt).
struct TokenEntry {
  TokenId id = 0;
  std::string text;          // exactly what the token added to the text, so that entries add up to it
  std::string bytes;         // raw; empty: null
  bool has_logprob = false;  // false for the first prompt token: null
  float logprob = 0;
  int64_t text_offset = 0;  // code points of the text before it (completions)
  std::string own_text;     // lossy decode of the token alone: its key among the likeliest (completions)
  std::vector<TopLogprob> top;
};

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t cached_tokens = 0;   // prompt tokens that were not computed
  int64_t matched_tokens = 0;  // and with these those without a recurrent state to go on from
  int64_t evicted_tokens = 0;  // that had been known until memory ran out
};

// A piece of one choice's answer, or all of it.
struct ChoicePart {
  int32_t index = 0;
  std::string_view text;
  bool with_logprobs = false;
  std::span<const TokenEntry> entries;
  std::string_view finish_reason;  // empty: null
  std::string_view stop_string;    // what ended it, if a stop string did
  std::optional<TokenId> stop_id;  // what ended it, if a requested stop id did
  bool with_token_ids = false;
  std::span<const TokenId> token_ids;
  const std::vector<TokenId>* prompt_token_ids = nullptr;  // null: not written
};

// Writes the documents of one response: same id, created and model in each.
class ResponseWriter {
 public:
  ResponseWriter(ResponseKind kind, std::string id, int64_t created_s, std::string model);

  const std::string& id() const { return id_; }

  // --- streaming: each appends one whole "data: ...\n\n" frame ---
  // The role delta that opens each choice of a chat.
  void append_role(int32_t index, const std::vector<TokenId>* prompt_token_ids, std::optional<Usage> usage,
                   std::string* out) const;
  void append_part(const ChoicePart& part, std::optional<Usage> usage, std::string* out) const;
  // The closing chunk without choices.
  void append_usage(const Usage& usage, std::string* out) const;
  static void append_done(std::string* out) { *out += "data: [DONE]\n\n"; }

  // --- not streaming ---
  std::string whole(std::span<const ChoicePart> choices, const Usage& usage) const;

  // Whether chunks say "usage": null until the closing one (OpenAI's form when usage was asked for).
  void set_null_usage(bool on) { null_usage_ = on; }

 private:
  void append_open(bool chunk, std::string* out) const;
  void append_close(std::optional<Usage> usage, std::string* out) const;
  void append_choice(const ChoicePart& part, bool chunk, std::string* out) const;

  ResponseKind kind_;
  std::string id_;
  bool null_usage_ = false;
  std::string head_chunk_;  // {"id":...,"choices":[
  std::string head_whole_;
};

// {"prompt_tokens": ...}
void append_usage_json(const Usage& usage, std::string* out);
// [1,2,3]
void append_ids(std::span<const TokenId> ids, std::string* out);

}  // namespace weir::api
