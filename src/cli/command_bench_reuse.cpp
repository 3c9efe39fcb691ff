#include "cli/command_bench_reuse.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <random>

#include "cli/command_bench.h"
#include "cli/command_bench_streams.h"

namespace weir {
namespace {

// A second turn's own tokens, and what it answers.
constexpr int64_t kTurnTokens = 64;
constexpr int64_t kTurnAnswer = 2;

// Seeds of other measurements are small.
constexpr uint32_t kCachedSeed = 0x80000000U;
constexpr uint32_t kTurnSeed = 0xC0000000U;

struct SecondTurn {
  int64_t context = 0;
  int64_t answer = 0;
  int64_t prompt() const { return context + answer + kTurnTokens; }
};

Result<std::vector<int64_t>> read_cached_prompts(const Options& options, const RunnerLimits& limits) {
  return read_numbers("cached-prompts", options.cached_prompts, limits.sequence_tokens_max - kTurnAnswer,
                      "--max-model-len");
}

bool read_number(std::string_view text, int64_t* value) {
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && stop == text.data() + text.size() && *value >= 1;
}

Result<std::vector<SecondTurn>> read_second_turns(const Options& options, const RunnerLimits& limits) {
  const std::string_view text = options.second_turns;
  std::vector<SecondTurn> turns;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    const std::string_view pair = text.substr(at, end - at);
    const size_t colon = pair.find(':');
    SecondTurn& turn = turns.emplace_back();
    if (colon == std::string_view::npos || !read_number(pair.substr(0, colon), &turn.context) ||
        !read_number(pair.substr(colon + 1), &turn.answer)) {
      return Error{ErrorCode::kInvalidArgument, fmt::format("--second-turns is '{}'", text),
                   "give pairs CONTEXT:ANSWER of tokens, separated by commas: 10000:500,50000:500"};
    }
    const int64_t room = limits.sequence_tokens_max - kTurnTokens - kTurnAnswer;
    if (turn.context > room || turn.answer > room - turn.context) {
      return Error{ErrorCode::kInvalidArgument,
                   fmt::format("--second-turns {}: with {} tokens more they do not fit the context of {}", pair,
                               kTurnTokens + kTurnAnswer, limits.sequence_tokens_max),
                   "raise --max-model-len, or give fewer"};
    }
    at = end + 1;
  }
  return turns;
}

// The fastest of some runs of one stream.
struct Reused {
  double first_token_s = 0;
  int64_t tokens = 0;
  int64_t steps = 0;
};

Status time_reuse(EngineHost& host, const LoadedModel& model, const StreamRun& what, Reused* best) {
  const EngineStats before = host.client().stats();
  WEIR_ASSIGN_OR_RETURN(const Measured one, run_streams(host, model, what));
  if (best->first_token_s > 0 && one.first_token_s >= best->first_token_s) return Ok{};
  const EngineStats after = host.client().stats();
  *best = {one.first_token_s, after.cached_tokens - before.cached_tokens, after.steps - before.steps};
  return Ok{};
}

// What is known is a prompt of its own, as the last turn of a conversation is; the others go on from it, each in its
// own way.
Status bench_cached_prompts(const Options& options, EngineHost& host, const LoadedModel& model) {
  WEIR_ASSIGN_OR_RETURN(const auto lengths, read_cached_prompts(options, model.memory.limits));
  for (const int64_t length : lengths) {
    const auto seed = kCachedSeed + static_cast<uint32_t>(length);
    const int64_t known = std::max<int64_t>(1, length * options.cached_percent / 100);
    std::mt19937 random(seed);
    const auto beginning = random_tokens(known, model.memory.limits.vocabulary, &random);
    WEIR_ASSIGN_OR_RETURN(const Measured cold, run_streams(host, model, {1, known, kTurnAnswer, seed, beginning}));
    Reused best;
    for (int64_t i = 0; i < options.repeats; ++i) {
      const StreamRun what{1, length, kTurnAnswer, seed + 1 + static_cast<uint32_t>(i), beginning};
      WEIR_RETURN_IF_ERROR(time_reuse(host, model, what, &best));
    }
    if (options.json) {
      fmt::print("{}\n", nlohmann::ordered_json{{"what", "cached prompt"},
                                                {"model", model.name},
                                                {"prompt_tokens", length},
                                                {"known_tokens", known},
                                                {"reused_tokens", best.tokens},
                                                {"steps", best.steps},
                                                {"first_token_ms", best.first_token_s * 1e3},
                                                {"known_cold_ms", cold.first_token_s * 1e3}}
                             .dump());
    } else {
      fmt::print(
          "prompt of {:>6} tokens, {:>6} known {:>7.1f} ms to the first token in {} steps, {} reused; the known "
          "ones alone, cold: {:.1f} ms\n",
          length, known, best.first_token_s * 1e3, best.steps, best.tokens, cold.first_token_s * 1e3);
    }
  }
  return Ok{};
}

const char* policy_text(const Options& options, const LoadedModel& model) {
  if (!model.memory.prefix_caching) return "nothing is kept";
  return reuses_generated(options) ? "generated tokens are kept" : "generated tokens are computed again";
}

void report(const Options& options, const LoadedModel& model, const SecondTurn& turn, const Reused& best,
            double first_turn_s) {
  const int64_t again = turn.context + turn.answer - best.tokens;
  if (options.json) {
    fmt::print("{}\n", nlohmann::ordered_json{{"what", "second turn"},
                                              {"model", model.name},
                                              {"context_tokens", turn.context},
                                              {"answer_tokens", turn.answer},
                                              {"prompt_tokens", turn.prompt()},
                                              {"prefix_caching", model.memory.prefix_caching},
                                              {"reuse_generated", reuses_generated(options)},
                                              {"reused_tokens", best.tokens},
                                              {"computed_again_tokens", again},
                                              {"steps", best.steps},
                                              {"first_token_ms", best.first_token_s * 1e3},
                                              {"first_turn_ms", first_turn_s * 1e3}}
                           .dump());
    return;
  }
  fmt::print(
      "second turn behind {:>6} tokens and an answer of {:>5} {:>7.1f} ms to the first token in {} steps, {} reused, "
      "{} "
      "computed again ({}); the first turn, cold: {:.1f} ms\n",
      turn.context, turn.answer, best.first_token_s * 1e3, best.steps, best.tokens, again, policy_text(options, model),
      first_turn_s * 1e3);
}

// Each run is a conversation of its own: one that repeats another's second turn would find its answer as a prompt.
Status bench_second_turns(const Options& options, EngineHost& host, const LoadedModel& model) {
  WEIR_ASSIGN_OR_RETURN(const auto turns, read_second_turns(options, model.memory.limits));
  uint32_t seed = kTurnSeed;
  for (const SecondTurn& turn : turns) {
    Reused best;
    double first_turn_s = 0;
    for (int64_t i = 0; i < options.repeats; ++i, ++seed) {
      std::mt19937 random(seed);
      std::vector<TokenId> said = random_tokens(turn.context, model.memory.limits.vocabulary, &random);
      WEIR_ASSIGN_OR_RETURN(const Measured first, run_streams(host, model, {1, turn.context, turn.answer, seed, said}));
      if (std::ssize(first.tokens) != turn.answer) {
        return make_error(ErrorCode::kInternal, "an answer of {} tokens has {}", turn.answer, first.tokens.size());
      }
      if (i == 0 || first.first_token_s < first_turn_s) first_turn_s = first.first_token_s;
      said.insert(said.end(), first.tokens.begin(), first.tokens.end());
      WEIR_RETURN_IF_ERROR(time_reuse(host, model, {1, turn.prompt(), kTurnAnswer, ~seed, said}, &best));
    }
    report(options, model, turn, best, first_turn_s);
  }
  return Ok{};
}

}  // namespace

Status check_reuse_flags(const Options& options, const RunnerLimits& limits) {
  WEIR_RETURN_IF_ERROR(read_cached_prompts(options, limits));
  WEIR_RETURN_IF_ERROR(read_second_turns(options, limits));
  return Ok{};
}

Status bench_reuse(const Options& options, EngineHost& host, const LoadedModel& model) {
  WEIR_RETURN_IF_ERROR(bench_cached_prompts(options, host, model));
  return bench_second_turns(options, host, model);
}

}  // namespace weir
