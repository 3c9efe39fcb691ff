// Requests as typed, range-checked values.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "api/error.h"
#include "plan/sampling.h"
#include "text/generation.h"

namespace weir::api {

// What chat and completions have in common. Optional: absent in the request.
struct GenerationOptions {
  std::string model;
  std::optional<float> temperature;
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
  std::optional<int32_t> top_k;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  std::optional<int64_t> seed;
  int32_t n = 1;
  std::optional<int32_t> max_tokens;
  std::string_view max_tokens_field = "max_tokens";  // the field that gave it, for errors
  int32_t min_tokens = 0;
  bool ignore_eos = false;
  std::vector<std::string> stop;
  std::vector<TokenId> stop_token_ids;
  bool include_stop = false;
  std::vector<LogitBias> logit_bias;
  int32_t logprobs = -1;  // as SamplingParams::logprobs
  bool stream = false;
  bool include_usage = false;
  bool continuous_usage = false;
  bool skip_special_tokens = true;
  bool return_token_ids = false;
  std::optional<int32_t> truncate_prompt_tokens;
  int32_t priority = 0;
  std::string cache_salt;
  std::string request_id;
  std::vector<std::string> unknown_fields;
  bool has_accepted_fields = false;  // some field was given that is valid and without effect
};

struct Conversation {
  // Shared: the document is handed from thread to thread and never changes.
  std::shared_ptr<const nlohmann::ordered_json> messages;
  std::shared_ptr<const nlohmann::ordered_json> kwargs;
  bool add_generation_prompt = true;
  bool continue_final_message = false;
};

using PromptText = std::string;
using PromptIds = std::vector<TokenId>;
using Prompt = std::variant<PromptText, PromptIds>;

struct ChatRequest {
  GenerationOptions options;
  Conversation conversation;
};

struct CompletionRequest {
  GenerationOptions options;
  std::vector<Prompt> prompts;
  bool echo = false;
};

struct TokenizeRequest {
  std::string model;
  std::variant<PromptText, Conversation> input;
  bool return_token_strs = false;
  std::vector<std::string> unknown_fields;
};

struct DetokenizeRequest {
  std::string model;
  std::vector<TokenId> tokens;
  bool skip_special_tokens = false;
  std::vector<std::string> unknown_fields;
};

// A parsed request or the error to answer with.
template <class T>
using Parsed = std::variant<T, ApiError>;

Parsed<ChatRequest> parse_chat(std::string_view body);
Parsed<CompletionRequest> parse_completion(std::string_view body);
Parsed<TokenizeRequest> parse_tokenize(std::string_view body);
Parsed<DetokenizeRequest> parse_detokenize(std::string_view body);

// What sampling needs to know of the model.
struct ModelLimits {
  int64_t context_tokens = 0;  // prompt and output together
  int32_t vocabulary = 0;      // ids at or above are not tokens
  const GenerationDefaults* defaults = nullptr;
};

// Checks that the options fit the model (token ids in the vocabulary, the context) for a prompt of `prompt_tokens`, and
// fills `out` but for the seed. `default_max_tokens` -1: the rest of the context.
std::optional<ApiError> make_sampling(const GenerationOptions& options, const ModelLimits& model, int64_t prompt_tokens,
                                      int64_t default_max_tokens, SamplingParams* out);

// The seed of choice `index` of a request: the request's own for the first, well mixed ones for the others.
uint64_t choice_seed(uint64_t request_seed, int32_t index);

}  // namespace weir::api
