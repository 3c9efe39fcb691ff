// One generation request under way: its choices, and the response that grows from the engine's events.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "api/error.h"
#include "api/response.h"
#include "engine/messages.h"
#include "net/http.h"
#include "server/choice_text.h"
#include "server/metrics.h"
#include "server/prepare.h"

namespace weir {

struct GenerationSetup {
  Prepared prepared;
  // Shared: the connection and the work under way may each outlive the other.
  std::shared_ptr<net::HttpExchange> exchange;
  std::vector<net::HttpHeader> headers;  // of the response: x-request-id and the like
  std::string response_id;
  std::string model_name;
  int64_t created_s = 0;
  int64_t arrival_us = 0;
  bool force_include_usage = false;
  const Tokenizer* tokenizer = nullptr;
  ServerMetrics* metrics = nullptr;
};

// Belongs to the event loop's thread. The response's head is sent with the first token (or the first keep-alive
// comment), so that what fails earlier still has its own status code.
class Generation {
 public:
  explicit Generation(GenerationSetup setup);

  int32_t choice_count() const { return static_cast<int32_t>(choices_.size()); }
  const PreparedPrompt& prompt_of(int32_t choice) const;
  const CacheSalt& salt() const { return prepared_.salt; }
  int32_t answers_per_prompt() const { return prepared_.options.n; }
  // The choice's number among those of its prompt, 0 to n - 1.
  int32_t choice_in_prompt(int32_t choice) const { return choice % prepared_.options.n; }
  SequenceId sequence(int32_t choice) const { return choices_[static_cast<size_t>(choice)].sequence; }
  void set_sequence(int32_t choice, SequenceId id) { choices_[static_cast<size_t>(choice)].sequence = id; }
  bool choice_done(int32_t choice) const { return choices_[static_cast<size_t>(choice)].done; }
  // The response is complete or the client is gone: nothing more will be written.
  bool complete() const { return complete_; }
  net::HttpExchange& exchange() { return *exchange_; }

  // Every choice was accepted by the engine: the request counts.
  void count_start();

  // Takes an event of one choice. Returns true if the sequence must be cancelled, because a stop string ended it.
  bool on_event(int32_t choice, const Event& event);

  // Ends the response with an error: its status while nothing was sent, an error frame without [DONE] afterwards.
  void fail(const api::ApiError& error);

  // The client is gone: choices that were not done count as aborted.
  void abandon(int64_t now_us);

  // Sends a comment if the stream has been silent since `before_us`.
  void keep_alive(int64_t before_us, int64_t now_us);

 private:
  struct Choice {
    explicit Choice(const ChoiceTextOptions& options) : text(options) {}
    SequenceId sequence = 0;
    int32_t prompt = 0;
    ChoiceText text;
    bool opened = false;  // the role delta was sent
    bool echoed = false;
    bool done = false;
    std::string_view finish_reason;
    std::optional<TokenId> stop_id;
    TextPiece whole;  // the answer so far, when not streaming
    std::vector<LogprobRow> prompt_rows;
    std::vector<TokenLogprob> prompt_logprobs;
    int64_t last_token_us = 0;
    EventHeader last;  // for the times, and for what of the prompt was reused
  };

  void take_prompt_rows(Choice* choice, const Event& event);
  void take_tokens(Choice* choice, const Event& event);
  void observe_tokens(Choice* choice, const EventHeader& header);
  void finish_choice(Choice* choice, std::string_view reason, int64_t now_us);
  void emit(Choice* choice);
  void start_stream();
  void write_frame(const std::string& frame);
  void complete_response();
  api::ChoicePart part_of(const Choice& choice, const TextPiece& piece) const;
  api::Usage usage() const;
  std::optional<api::Usage> chunk_usage() const;
  int32_t index_of(const Choice* choice) const { return static_cast<int32_t>(choice - choices_.data()); }

  Prepared prepared_;
  std::shared_ptr<net::HttpExchange> exchange_;
  std::vector<net::HttpHeader> headers_;
  api::ResponseWriter writer_;
  StopSet stops_;
  const Tokenizer* tokenizer_;
  ServerMetrics* metrics_;
  std::vector<Choice> choices_;
  int64_t arrival_us_;
  int64_t last_write_us_;
  int32_t open_choices_ = 0;
  bool include_usage_ = false;
  bool complete_ = false;
};

}  // namespace weir
