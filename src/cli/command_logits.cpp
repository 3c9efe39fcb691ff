// weir logits: log-probabilities of a list of token ids, and of the draft head's chain behind it.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "cli/commands.h"
#include "cli/loading.h"
#include "runner/logprobs.h"
#include "runner/offline.h"

namespace weir {
namespace {

// A million ids of seven digits.
constexpr int64_t kTokenFileBytesMax = 8 << 20;

// All of a file, a pipe or standard input, up to a limit.
Result<std::string> read_stream(const std::string& path, int64_t bytes_max) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    return Error{ErrorCode::kInvalidArgument, path + " is a folder", "give a file of token ids, or /dev/stdin"};
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    const ErrorCode code = errno == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo;
    return make_error(code, "{} cannot be opened: {}", path, std::strerror(errno));
  }
  std::string text;
  char block[65536];
  while (file.read(block, sizeof block) || file.gcount() > 0) {
    text.append(block, static_cast<size_t>(file.gcount()));
    if (static_cast<int64_t>(text.size()) > bytes_max) {
      return make_error(ErrorCode::kTooLarge, "{} has more than {} bytes", path, bytes_max);
    }
  }
  if (file.bad()) return make_error(ErrorCode::kIo, "{} cannot be read", path);
  return text;
}

// The start of a word for a message: a terminal must not run what a file says.
std::string shown(std::string_view word) {
  constexpr size_t kShownMax = 40;
  std::string out;
  for (const char c : word.substr(0, kShownMax)) {
    const auto byte = static_cast<unsigned char>(c);
    out += byte < 0x20 || byte > 0x7e ? fmt::format("\\x{:02x}", byte) : std::string(1, c);
  }
  return word.size() > kShownMax ? out + "..." : out;
}

// Ids separated by white space or commas; brackets are ignored, so a JSON list is fine too.
Result<std::vector<TokenId>> read_tokens(const std::string& path, int64_t vocabulary) {
  WEIR_ASSIGN_OR_RETURN(const std::string text, read_stream(path, kTokenFileBytesMax));
  std::vector<TokenId> tokens;
  for (size_t at = 0; (at = text.find_first_not_of(" \t\r\n,[]", at)) != std::string::npos;) {
    const size_t end = std::min(text.find_first_of(" \t\r\n,[]", at), text.size());
    TokenId token = 0;
    const auto [stop, error] = std::from_chars(text.data() + at, text.data() + end, token);
    if (error != std::errc() || stop != text.data() + end || token < 0 || token >= vocabulary) {
      const std::string_view word = std::string_view(text).substr(at, end - at);
      return Error{ErrorCode::kInvalidArgument,
                   fmt::format("{}: '{}' at byte {} is no token id", path, shown(word), at),
                   fmt::format("give ids from 0 to {}, separated by spaces", vocabulary - 1)};
    }
    tokens.push_back(token);
    at = end;
  }
  if (tokens.empty()) return Error{ErrorCode::kInvalidArgument, path + " has no token ids", "give at least one"};
  return tokens;
}

// JSON has no number that is not finite.
std::string json_number(float value) {
  return std::isfinite(value) ? fmt::format("{:.9g}", value) : "null";
}

// One position: what followed it and the likeliest ids.
void print_row(const Options& options, int64_t position, const StepResult& result, size_t row_index) {
  const LogprobRow& row = result.rows[row_index];
  const TokenLogprob* entries = result.logprobs.data() + row.first;
  if (options.json) {
    fmt::print("{{\"position\": {}, \"token\": {}, \"logprob\": {}, \"rank\": {}, \"top\": [", position,
               entries[0].token, json_number(entries[0].logprob), entries[0].rank);
    for (int32_t i = 1; i <= row.top_count; ++i) {
      fmt::print("{}[{}, {}]", i == 1 ? "" : ", ", entries[i].token, json_number(entries[i].logprob));
    }
    fmt::print("]}}\n");
    return;
  }
  fmt::print("{:>7} {:>8} {:>12.6f} {:>7} ", position, entries[0].token, entries[0].logprob, entries[0].rank);
  for (int32_t i = 1; i <= row.top_count; ++i) fmt::print(" {}:{:.4f}", entries[i].token, entries[i].logprob);
  fmt::print("\n");
}

}  // namespace

Status command_logits(const Options& options) {
  Phases phases;
  WEIR_ASSIGN_OR_RETURN(const LoadedModel model, load_model(options, nullptr, &phases));
  WEIR_ASSIGN_OR_RETURN(const std::vector<TokenId> tokens, read_tokens(options.prompt, model.config.vocabulary));
  const auto count = static_cast<int64_t>(tokens.size());
  if (count + options.drafts > model.memory.limits.sequence_tokens_max) {
    return Error{ErrorCode::kTooLarge,
                 fmt::format("{} tokens and {} drafts do not fit the context of {}", count, options.drafts,
                             model.memory.limits.sequence_tokens_max),
                 "give fewer tokens or raise --max-model-len"};
  }
  WEIR_ASSIGN_OR_RETURN(const auto offline,
                        OfflineModel::create(model.model.get(), count + options.drafts, options.chunk));
  const auto top = static_cast<int32_t>(std::min(options.top, model.config.vocabulary));
  LogprobWriter writer(*model.model->cpu, top);
  StepResult result;
  if (!options.json) fmt::print("{:>7} {:>8} {:>12} {:>7}  likeliest\n", "after", "token", "logprob", "rank");
  offline->score(tokens, 0, [&](int64_t i, std::span<const float> logits) {
    // After the last token there is none to score: the row is about the likeliest id.
    const TokenId about = i + 1 < count ? tokens[static_cast<size_t>(i + 1)] : argmax(logits);
    result.clear();
    writer.append(logits, about, top, &result);
    print_row(options, i, result, 0);
  });
  if (options.drafts == 0) return Ok{};
  WEIR_ASSIGN_OR_RETURN(const DraftChain chain, offline->draft(tokens, static_cast<int32_t>(options.drafts)));
  if (!options.json) fmt::print("draft head behind token {}:\n", chain.tokens.front());
  for (size_t i = 0; i < chain.logits.size(); ++i) {
    result.clear();
    writer.append(chain.logits[i], chain.tokens[i + 1], top, &result);
    print_row(options, count + static_cast<int64_t>(i), result, 0);
  }
  return Ok{};
}

}  // namespace weir
