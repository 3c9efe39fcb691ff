// One answer in the terminal: a prompt through the engine, text as it comes.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cli/flags.h"
#include "cli/host.h"
#include "cli/loading.h"

namespace weir {

struct ChatTurn {
  std::string role;
  std::string content;
};

// The prompt of a conversation by the model's template, or an error that says why there is none.
Result<ChatPrompt> conversation_prompt(const TextAssets& text, const std::vector<ChatTurn>& turns, bool thinking);

// The flags' sampling parameters over the model's defaults.
SamplingParams terminal_sampling(const Options& options, const TextAssets& text, int64_t tokens_left);

// What of a prompt was known, in tokens.
struct Reuse {
  int64_t matched = 0;  // pages were kept
  int64_t reused = 0;   // and a recurrent state behind them: these were not computed
  int64_t evicted = 0;  // had been kept until memory ran out
};

// "reused 640 of 812 prompt tokens; 12 more were known, ...".
std::string reuse_text(const Reuse& reuse, int64_t prompt_count);

struct Answer {
  std::string text;
  std::vector<TokenId> tokens;
  FinishReason finish = FinishReason::kNone;
  ErrorCode code = ErrorCode::kInternal;  // kError
  std::string error;                      // kError
  int64_t first_token_us = 0;             // from submission
  int64_t total_us = 0;
  Reuse reuse;
};

// Generates, calling `emit` with each piece of text. `interrupted` is looked at between events: true cancels.
Result<Answer> generate(EngineHost& host, const TextAssets& text, const ChatPrompt& prompt,
                        const SamplingParams& sampling, const std::function<void(std::string_view)>& emit,
                        const std::function<bool()>& interrupted);

}  // namespace weir
