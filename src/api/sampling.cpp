#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "api/request.h"

namespace weir::api {

namespace {

using Problem = std::optional<ApiError>;

Problem check_id(TokenId id, const ModelLimits& model, std::string_view field) {
  if (id < 0 || id >= model.vocabulary) {
    return bad_field(
        field, fmt::format("'{}' has the token id {}; this model's ids are 0 to {}", field, id, model.vocabulary - 1),
        "out_of_range");
  }
  return std::nullopt;
}

Problem fill_ids(const GenerationOptions& options, const ModelLimits& model, SamplingParams* out) {
  const auto add = [](TokenId id, int32_t* count, auto* list) {
    const auto end = list->begin() + *count;
    if (*count < kStopIdsMax && std::find(list->begin(), end, id) == end) {
      (*list)[static_cast<size_t>((*count)++)] = id;
    }
  };
  for (TokenId id : options.stop_token_ids) {
    if (auto problem = check_id(id, model, "stop_token_ids")) {
      return problem;
    }
    add(id, &out->stop_id_count, &out->stop_ids);
    add(id, &out->banned_until_min_count, &out->banned_until_min);
  }
  for (TokenId id : model.defaults->eos_ids) {
    if (!options.ignore_eos) {
      add(id, &out->stop_id_count, &out->stop_ids);
    }
    add(id, &out->banned_until_min_count, &out->banned_until_min);
  }
  for (const LogitBias& bias : options.logit_bias) {
    if (auto problem = check_id(bias.token, model, "logit_bias")) {
      return problem;
    }
    out->logit_bias[static_cast<size_t>(out->logit_bias_count++)] = bias;
  }
  return std::nullopt;
}

// splitmix64's increment (2^64 over the golden ratio) and finalizer (Steele, Lea, Flood 2014).
constexpr uint64_t kGolden = 0x9E3779B97F4A7C15ULL;

uint64_t mixed(uint64_t z) {
  z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27U)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31U);
}

// A positive double may be zero as a float.
float positive(float value) {
  return std::max(value, std::numeric_limits<float>::min());
}

}  // namespace

std::optional<ApiError> make_sampling(const GenerationOptions& options, const ModelLimits& model, int64_t prompt_tokens,
                                      int64_t default_max_tokens, SamplingParams* out) {
  *out = SamplingParams();
  const GenerationDefaults& defaults = *model.defaults;
  out->temperature = options.temperature.value_or(defaults.temperature.value_or(1.0F));
  out->top_p = positive(options.top_p.value_or(defaults.top_p.value_or(1.0F)));
  out->min_p = options.min_p.value_or(defaults.min_p.value_or(0.0F));
  out->top_k = std::max(0, options.top_k.value_or(defaults.top_k.value_or(0)));
  out->top_k = out->top_k >= model.vocabulary ? 0 : out->top_k;
  out->repetition_penalty = positive(options.repetition_penalty.value_or(defaults.repetition_penalty.value_or(1.0F)));
  out->presence_penalty = options.presence_penalty;
  out->frequency_penalty = options.frequency_penalty;
  out->logprobs = options.logprobs;
  const int64_t room = model.context_tokens - prompt_tokens;
  const int64_t asked = options.max_tokens.value_or(0);
  const bool prompt_only = options.max_tokens.has_value() && asked == 0;
  if (room < (prompt_only ? 0 : 1) || asked > room) {
    return context_overflow(
        model.context_tokens, prompt_tokens, std::max<int64_t>(asked, prompt_only ? 0 : 1),
        options.max_tokens.has_value() && asked > room && room > 0 ? options.max_tokens_field : std::string_view());
  }
  const int64_t fallback = default_max_tokens < 0 ? room : std::min(room, default_max_tokens);
  out->max_tokens = static_cast<int32_t>(options.max_tokens.has_value() ? asked : fallback);
  if (options.min_tokens > out->max_tokens) {
    return bad_field("min_tokens",
                     fmt::format("'min_tokens' ({}) is above the {} tokens that can be generated", options.min_tokens,
                                 out->max_tokens),
                     "out_of_range");
  }
  out->min_tokens = options.min_tokens;
  return fill_ids(options, model, out);
}

uint64_t choice_seed(uint64_t request_seed, int32_t index) {
  if (index == 0) {
    return request_seed;
  }
  // The request's seed is mixed before the index goes in: neighbouring requests and neighbouring choices are unrelated.
  return mixed(mixed(request_seed + kGolden) + static_cast<uint64_t>(index) * kGolden);
}

}  // namespace weir::api
