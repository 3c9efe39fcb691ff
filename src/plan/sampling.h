// Sampling parameters of one sequence as a plain value: validated at the API's edge, carried unchanged to the runner.
#pragma once

#include <array>
#include <cstdint>
#include <type_traits>

#include "plan/ids.h"

namespace weir {

inline constexpr int32_t kStopIdsMax =
    64;  // end-of-turn ids of a model (at most a handful) + stop_token_ids of a request
inline constexpr int32_t kLogitBiasMax = 300;   // the bound that OpenAI-compatible servers document for logit_bias
inline constexpr int32_t kTopLogprobsMax = 20;  // wire limit of top_logprobs

struct LogitBias {
  TokenId token = 0;
  float bias = 0.0F;
};

// Order of application: raw log-probabilities are taken first; then logit_bias, repetition, presence and frequency
// penalties, min_tokens and the caller's mask, the padded vocabulary; then temperature, top_k, top_p, min_p.
// The token is argmax over the kept ids of logit / temperature + Gumbel(seed, position, id); temperature 0 is the
// plain argmax (lowest id wins a tie).
struct SamplingParams {
  float temperature = 1.0F;         // >= 0
  float top_p = 1.0F;               // (0, 1]
  float min_p = 0.0F;               // [0, 1]
  int32_t top_k = 0;                // 0: off
  float repetition_penalty = 1.0F;  // > 0, over prompt and output ids
  float presence_penalty = 0.0F;    // [-2, 2], over output ids
  float frequency_penalty = 0.0F;   // [-2, 2], over output ids
  uint64_t seed = 0;
  int32_t min_tokens = 0;              // no stop id is sampled before this many output tokens
  int32_t max_tokens = 0;              // output tokens at most; the runner reports kLength at the last
  int32_t logprobs = -1;               // -1: none; 0: of the chosen token; N: and of the N likeliest
  int32_t prompt_logprobs = -1;        // the same for every prompt token but the first
  int32_t stop_id_count = 0;           // sampling one of these ends the sequence (ignore_eos: without the model's own)
  int32_t banned_until_min_count = 0;  // ids masked before min_tokens (the model's own stop ids and the request's)
  int32_t logit_bias_count = 0;
  std::array<TokenId, kStopIdsMax> stop_ids{};
  std::array<TokenId, kStopIdsMax> banned_until_min{};
  std::array<LogitBias, kLogitBiasMax> logit_bias{};
};

static_assert(std::is_trivially_copyable_v<SamplingParams>);

// Whether the next token depends on which ids came before, beside the model.
inline bool has_penalties(const SamplingParams& params) {
  return params.repetition_penalty != 1.0F || params.presence_penalty != 0.0F || params.frequency_penalty != 0.0F;
}

}  // namespace weir
