#include "engine/sim/script.h"

#include <algorithm>

namespace weir::sim {

bool is_stop_id(const SamplingParams& sampling, TokenId token) {
  const auto end = sampling.stop_ids.begin() + sampling.stop_id_count;
  return std::find(sampling.stop_ids.begin(), end, token) != end;
}

TokenId next_token(uint64_t history, const SamplingParams& sampling, int64_t index, int32_t vocabulary) {
  auto token = static_cast<TokenId>(mix(history ^ mix(sampling.seed)) % static_cast<uint64_t>(vocabulary));
  const auto end = sampling.banned_until_min.begin() + sampling.banned_until_min_count;
  while (index < sampling.min_tokens && std::find(sampling.banned_until_min.begin(), end, token) != end) {
    token = (token + 1) % vocabulary;
  }
  return token;
}

ScriptAnswer answer(std::span<const TokenId> prompt, const SamplingParams& sampling, int64_t tokens_max,
                    int32_t vocabulary) {
  ScriptAnswer out;
  uint64_t history = kScriptStart;
  int64_t position = 0;
  for (const TokenId token : prompt) {
    if (position > 0) out.prompt_logprobs.push_back(script_logprob(history, token));
    history = extend(history, token, position++);
  }
  const int64_t limit = std::min<int64_t>(sampling.max_tokens, tokens_max - position);
  out.stop = StopReason::kLength;
  while (static_cast<int64_t>(out.tokens.size()) < limit) {
    const TokenId token = next_token(history, sampling, static_cast<int64_t>(out.tokens.size()), vocabulary);
    out.tokens.push_back(token);
    out.logprobs.push_back(script_logprob(history, token));
    if (is_stop_id(sampling, token)) {
      out.stop = StopReason::kStopId;
      break;
    }
    history = extend(history, token, position++);
  }
  return out;
}

}  // namespace weir::sim
