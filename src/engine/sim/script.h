// The scripted model: a token is a pure function of all tokens before it and of the sequence's seed, so any row that is
// missing, doubled, misplaced or computed on another sequence's page or state changes every token after it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plan/ids.h"
#include "plan/sampling.h"
#include "plan/step.h"

namespace weir::sim {

inline constexpr uint64_t kScriptStart = 0x9e3779b97f4a7c15ULL;  // any constant that is not zero: 2^64 / golden ratio

// One round of splitmix64's finalizer: every input bit moves every output bit.
constexpr uint64_t mix(uint64_t value) {
  value ^= value >> 30;
  value *= 0xbf58476d1ce4e5b9ULL;
  value ^= value >> 27;
  value *= 0x94d049bb133111ebULL;
  return value ^ (value >> 31);
}

// The history with one more token.
constexpr uint64_t extend(uint64_t history, TokenId token, int64_t position) {
  return mix(history + mix(static_cast<uint64_t>(token) * 0x10001ULL + static_cast<uint64_t>(position) + 1));
}

// The output token number `index` behind `history`. Ids that min_tokens bans give way to the next one up.
TokenId next_token(uint64_t history, const SamplingParams& sampling, int64_t index, int32_t vocabulary);

// What the script says of `token` behind `history`: a made-up log-probability; every token is its own likeliest.
inline TokenLogprob script_logprob(uint64_t history, TokenId token) {
  const uint64_t bits = mix(history ^ mix(static_cast<uint64_t>(token) + 7));
  return {token, -static_cast<float>(bits % 4096) / 256.0F, 1};
}

struct ScriptAnswer {
  std::vector<TokenId> tokens;
  std::vector<TokenLogprob> logprobs;         // one per token
  std::vector<TokenLogprob> prompt_logprobs;  // of prompt tokens 1 .. count - 1
  StopReason stop = StopReason::kNone;
};

// What one sequence yields when it is computed alone, token by token. `tokens_max`: prompt and output together.
ScriptAnswer answer(std::span<const TokenId> prompt, const SamplingParams& sampling, int64_t tokens_max,
                    int32_t vocabulary);

bool is_stop_id(const SamplingParams& sampling, TokenId token);

}  // namespace weir::sim
