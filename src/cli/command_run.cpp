// weir run: one prompt, streamed.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <iterator>

#include "cli/commands.h"
#include "cli/generation.h"
#include "cli/interrupt.h"

namespace weir {
namespace {

// One prompt typed or piped is no book; the tokenizer and the context set the real limit.
constexpr size_t kPromptBytesMax = 16 << 20;

Result<std::string> prompt_text(const Options& options) {
  if (!options.prompt.empty()) return options.prompt;
  if (isatty(STDIN_FILENO) != 0) {
    return Error{ErrorCode::kInvalidArgument, "no prompt", "usage: weir run MODEL \"PROMPT\", or pipe one in"};
  }
  std::string text;
  char block[65536];
  while (std::cin.read(block, sizeof block) || std::cin.gcount() > 0) {
    text.append(block, static_cast<size_t>(std::cin.gcount()));
    if (text.size() > kPromptBytesMax)
      return make_error(ErrorCode::kTooLarge, "the prompt is over {} bytes", kPromptBytesMax);
  }
  return text;
}

void print_stats(const Answer& answer, size_t prompt_count, const Phases& phases, const EngineStats& engine) {
  const auto count = static_cast<double>(answer.tokens.size());
  const double decode_s = static_cast<double>(answer.total_us - answer.first_token_us) / 1e6;
  fmt::print(stderr, "start-up: {}\n", phases.text());
  fmt::print(stderr, "{} prompt tokens, first token after {:.1f} ms, {} tokens{}\n", prompt_count,
             static_cast<double>(answer.first_token_us) / 1e3, answer.tokens.size(),
             count > 1 && decode_s > 0 ? fmt::format(", {:.0f} tok/s", (count - 1) / decode_s) : "");
  if (engine.draft_rounds == 0) return;
  fmt::print(stderr, "{} drafts in {} steps, {} accepted: {:.2f} tokens a step with drafts\n", engine.draft_tokens,
             engine.draft_rounds, engine.accepted_tokens,
             1.0 + static_cast<double>(engine.accepted_tokens) / static_cast<double>(engine.draft_rounds));
}

}  // namespace

Status command_run(const Options& options) {
  Phases phases;
  WEIR_ASSIGN_OR_RETURN(const std::string prompt, prompt_text(options));
  WEIR_ASSIGN_OR_RETURN(const std::filesystem::path folder, find_model(options));
  WEIR_ASSIGN_OR_RETURN(const TextAssets text, load_text(options, folder));
  phases.done("text");
  WEIR_ASSIGN_OR_RETURN(LoadedModel model, load_model(options, &text, &phases));
  WEIR_ASSIGN_OR_RETURN(const auto host, EngineHost::start(options, &model));
  phases.done("engine");

  // Alone first: a template would hide what is wrong with the text.
  ChatPrompt encoded;
  WEIR_ASSIGN_OR_RETURN(encoded.ids, text.tokenizer->encode(prompt));
  if (!options.raw) {
    std::vector<ChatTurn> turns;
    if (!options.system.empty()) turns.push_back({"system", options.system});
    turns.push_back({"user", prompt});
    WEIR_ASSIGN_OR_RETURN(encoded, conversation_prompt(text, turns, options.thinking));
  }
  const std::vector<TokenId>& ids = encoded.ids;
  const int64_t left = model.memory.limits.sequence_tokens_max - static_cast<int64_t>(ids.size());
  if (left < 1) {
    return Error{
        ErrorCode::kTooLarge,
        fmt::format("the prompt has {} tokens, the context {}", ids.size(), model.memory.limits.sequence_tokens_max),
        "shorten the prompt or raise --max-model-len"};
  }
  catch_interrupts(false);
  const auto emit = [](std::string_view piece) {
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
  };
  WEIR_ASSIGN_OR_RETURN(const Answer answer,
                        generate(*host, text, encoded, terminal_sampling(options, text, left), emit, interrupted));
  if (answer.finish == FinishReason::kError) return Error{answer.code, answer.error, {}};
  fmt::print("\n");
  if (options.print_token_ids) fmt::print("token ids: {}\n", fmt::join(answer.tokens, " "));
  if (options.stats) print_stats(answer, ids.size(), phases, host->client().stats());
  return Ok{};
}

}  // namespace weir
