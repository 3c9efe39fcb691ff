#include "server/prepare.h"

#define XXH_INLINE_ALL
#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <utility>

#include "api/json_writer.h"

namespace weir {

namespace {

using Problem = std::optional<api::ApiError>;

// Sequences of one request (prompts times n); more is a batch job that belongs in several requests.
constexpr int32_t kSequencesMax = 256;
// Log-probability values of an echoed prompt: about 40 bytes of JSON each.
constexpr int64_t kEchoLogprobsMax = 1 << 20;
// OpenAI's default for completions.
constexpr int64_t kCompletionTokensDefault = 16;

Problem check_unknown(const std::vector<std::string>& unknown, const ServerConfig& config) {
  if (unknown.empty() || !config.strict_params) {
    return std::nullopt;
  }
  return api::bad_field(unknown.front(), fmt::format("'{}' is not a field of this endpoint", unknown.front()),
                        "unknown_parameter");
}

Problem check_common(const std::string& name, const std::vector<std::string>& unknown, const PrepareContext& context) {
  if (auto problem = check_model(name, *context.config)) {
    return problem;
  }
  return check_unknown(unknown, *context.config);
}

Problem check_ids(const std::vector<TokenId>& ids, const ModelText& model, std::string_view field) {
  const auto bad = std::find_if(ids.begin(), ids.end(), [&](TokenId id) { return id < 0 || id >= model.vocabulary; });
  if (bad != ids.end()) {
    return api::bad_field(
        field, fmt::format("'{}' has the token id {}; this model's ids are 0 to {}", field, *bad, model.vocabulary - 1),
        "out_of_range");
  }
  return std::nullopt;
}

// Cuts, checks and adds one prompt.
Problem add_prompt(std::vector<TokenId> ids, std::string_view field, int64_t default_max_tokens,
                   const PrepareContext& context, Prepared* out) {
  if (ids.empty()) {
    return api::bad_field(field, fmt::format("'{}' must give at least one token", field), "out_of_range");
  }
  if (out->options.truncate_prompt_tokens.has_value()) {
    const auto keep = static_cast<size_t>(*out->options.truncate_prompt_tokens);
    if (ids.size() > keep) {
      ids.erase(ids.begin(), ids.end() - static_cast<std::ptrdiff_t>(keep));
    }
  }
  PreparedPrompt prompt;
  const api::ModelLimits limits{context.context_tokens, context.model->vocabulary, &context.model->defaults};
  if (auto problem = api::make_sampling(out->options, limits, static_cast<int64_t>(ids.size()), default_max_tokens,
                                        &prompt.sampling)) {
    if (problem->param.empty()) {
      problem->param = field;
    }
    return problem;
  }
  if (out->echo && out->options.logprobs >= 0) {
    const int64_t values = static_cast<int64_t>(ids.size()) * (1 + out->options.logprobs);
    if (values > kEchoLogprobsMax) {
      return api::bad_field(
          "logprobs",
          fmt::format("echo with logprobs would give {} values, at most {} are allowed", values, kEchoLogprobsMax),
          "too_large");
    }
    prompt.sampling.prompt_logprobs = out->options.logprobs;
  }
  prompt.ids = std::move(ids);
  out->prompts.push_back(std::move(prompt));
  return std::nullopt;
}

// Equal for equal salts of one process. None: no salt.
CacheSalt digest_of(std::string_view salt, const PrepareContext& context) {
  CacheSalt out{};
  if (salt.empty()) return out;
  for (size_t i = 0; i < context.salt_key.size(); ++i) {
    const XXH128_hash_t hash = XXH3_128bits_withSeed(salt.data(), salt.size(), context.salt_key[i]);
    out[2 * i] = hash.low64;
    out[2 * i + 1] = hash.high64;
  }
  return out;
}

}  // namespace

Problem check_model(const std::string& name, const ServerConfig& config) {
  const auto& names = config.served_model_names;
  if (name.empty() || std::find(names.begin(), names.end(), name) != names.end()) {
    return std::nullopt;
  }
  return api::ApiError{404, fmt::format("The model '{}' does not exist here. Served: {}", name, fmt::join(names, ", ")),
                       "model", "model_not_found", 0};
}

api::Parsed<Prepared> prepare_chat(std::string_view body, const PrepareContext& context) {
  auto parsed = api::parse_chat(body);
  if (auto* error = std::get_if<api::ApiError>(&parsed)) {
    return std::move(*error);
  }
  auto& request = std::get<api::ChatRequest>(parsed);
  Prepared out;
  out.kind = api::ResponseKind::kChat;
  out.options = std::move(request.options);
  out.salt = digest_of(out.options.cache_salt, context);
  if (auto problem = check_common(out.options.model, out.options.unknown_fields, context)) {
    return *problem;
  }
  auto encoded = encode_conversation(request.conversation, *context.model);
  if (auto* error = std::get_if<api::ApiError>(&encoded)) {
    return std::move(*error);
  }
  auto& prompt = std::get<ChatPrompt>(encoded);
  if (auto problem = add_prompt(std::move(prompt.ids), "messages", -1, context, &out)) {
    return *problem;
  }
  out.prompts.back().suffix_count = prompt.suffix_count;
  return out;
}

api::Parsed<Prepared> prepare_completion(std::string_view body, const PrepareContext& context) {
  auto parsed = api::parse_completion(body);
  if (auto* error = std::get_if<api::ApiError>(&parsed)) {
    return std::move(*error);
  }
  auto& request = std::get<api::CompletionRequest>(parsed);
  Prepared out;
  out.kind = api::ResponseKind::kCompletion;
  out.options = std::move(request.options);
  out.salt = digest_of(out.options.cache_salt, context);
  out.echo = request.echo;
  if (auto problem = check_common(out.options.model, out.options.unknown_fields, context)) {
    return *problem;
  }
  const int64_t sequences = static_cast<int64_t>(request.prompts.size()) * out.options.n;
  if (sequences > kSequencesMax) {
    return api::bad_field("prompt",
                          fmt::format("{} prompts times n = {} are {} answers, at most {} are allowed in one request",
                                      request.prompts.size(), out.options.n, sequences, kSequencesMax),
                          "too_large");
  }
  for (api::Prompt& prompt : request.prompts) {
    std::vector<TokenId> ids;
    if (auto* text = std::get_if<api::PromptText>(&prompt)) {
      auto encoded = context.model->tokenizer->encode(*text);
      if (!encoded.ok()) {
        return api::from_error(encoded.error(), "prompt");
      }
      ids = std::move(encoded).value();
    } else {
      ids = std::get<api::PromptIds>(std::move(prompt));
      if (auto problem = check_ids(ids, *context.model, "prompt")) {
        return *problem;
      }
    }
    if (auto problem = add_prompt(std::move(ids), "prompt", kCompletionTokensDefault, context, &out)) {
      return *problem;
    }
  }
  return out;
}

api::Parsed<std::string> answer_tokenize(std::string_view body, const PrepareContext& context) {
  auto parsed = api::parse_tokenize(body);
  if (auto* error = std::get_if<api::ApiError>(&parsed)) {
    return std::move(*error);
  }
  const auto& request = std::get<api::TokenizeRequest>(parsed);
  if (auto problem = check_common(request.model, request.unknown_fields, context)) {
    return *problem;
  }
  std::vector<TokenId> ids;
  if (const auto* text = std::get_if<api::PromptText>(&request.input)) {
    auto encoded = context.model->tokenizer->encode(*text);
    if (!encoded.ok()) {
      return api::from_error(encoded.error(), "prompt");
    }
    ids = std::move(encoded).value();
  } else {
    auto encoded = encode_conversation(std::get<api::Conversation>(request.input), *context.model);
    if (auto* error = std::get_if<api::ApiError>(&encoded)) {
      return std::move(*error);
    }
    ids = std::get<ChatPrompt>(std::move(encoded)).ids;
  }
  std::string out = fmt::format("{{\"count\":{},\"max_model_len\":{},\"tokens\":", ids.size(), context.context_tokens);
  api::append_ids(ids, &out);
  out += ",\"token_strs\":";
  if (request.return_token_strs) {
    out += '[';
    for (size_t i = 0; i < ids.size(); ++i) {
      out += i == 0 ? "" : ",";
      api::append_json_string(context.model->tokenizer->bytes(ids[i]), &out);
    }
    out += ']';
  } else {
    out += "null";
  }
  out += '}';
  return out;
}

api::Parsed<std::string> answer_detokenize(std::string_view body, const PrepareContext& context) {
  auto parsed = api::parse_detokenize(body);
  if (auto* error = std::get_if<api::ApiError>(&parsed)) {
    return std::move(*error);
  }
  const auto& request = std::get<api::DetokenizeRequest>(parsed);
  if (auto problem = check_common(request.model, request.unknown_fields, context)) {
    return *problem;
  }
  if (auto problem = check_ids(request.tokens, *context.model, "tokens")) {
    return *problem;
  }
  std::string out = "{\"prompt\":";
  api::append_json_string(context.model->tokenizer->decode(request.tokens, request.skip_special_tokens), &out);
  out += '}';
  return out;
}

std::string render_json(const Prepared& prepared, const std::string& model) {
  std::string out = "[";
  for (size_t i = 0; i < prepared.prompts.size(); ++i) {
    out += i == 0 ? "{\"model\":" : ",{\"model\":";
    api::append_json_string(model, &out);
    out += ",\"token_ids\":";
    api::append_ids(prepared.prompts[i].ids, &out);
    out += fmt::format(",\"count\":{},\"max_tokens\":{}}}", prepared.prompts[i].ids.size(),
                       prepared.prompts[i].sampling.max_tokens);
  }
  out += ']';
  // A conversation is one prompt: one object. Completions give a list, one for each prompt.
  return prepared.kind == api::ResponseKind::kChat ? out.substr(1, out.size() - 2) : out;
}

}  // namespace weir
