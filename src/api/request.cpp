#include "api/request.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <utility>

#include "api/fields.h"
#include "api/json_reader.h"

namespace weir::api {

namespace {

using Json = nlohmann::ordered_json;
using Problem = std::optional<ApiError>;

// Reads members that check_fields has found valid; null counts as absent.
class Reader {
 public:
  explicit Reader(Json* body) : body_(body) {}

  Json* find(std::string_view name) {
    const auto found = body_->find(name);
    return found == body_->end() || found->is_null() ? nullptr : &*found;
  }
  bool has(std::string_view name) { return find(name) != nullptr; }

  template <class T>
  void read(std::string_view name, T* out) {
    if (const Json* value = find(name)) {
      *out = value->get<T>();
    }
  }
  template <class T>
  void read(std::string_view name, std::optional<T>* out) {
    if (const Json* value = find(name)) {
      *out = value->get<T>();
    }
  }
  void take(std::string_view name, std::string* out) {
    if (Json* value = find(name)) {
      *out = std::move(value->get_ref<std::string&>());
    }
  }

 private:
  Json* body_;
};

Problem missing(std::string_view name) {
  return bad_field(name, fmt::format("'{}' is required", name), "missing_required_parameter");
}

PromptIds to_ids(const Json& list) {
  PromptIds ids;
  ids.reserve(list.size());
  for (const Json& item : list) {
    ids.push_back(item.get<TokenId>());
  }
  return ids;
}

Problem read_stream_options(Reader* in, GenerationOptions* out) {
  Json* options = in->find("stream_options");
  if (options == nullptr) {
    return std::nullopt;
  }
  if (!out->stream) {
    return bad_field("stream_options", "'stream_options' is only allowed when 'stream' is true");
  }
  for (const auto& [name, value] : options->items()) {
    bool* target = name == "include_usage"            ? &out->include_usage
                   : name == "continuous_usage_stats" ? &out->continuous_usage
                                                      : nullptr;
    if (target == nullptr || value.is_null()) {
      if (target == nullptr) {
        out->unknown_fields.push_back("stream_options." + name);
      }
      continue;
    }
    if (!value.is_boolean()) {
      return bad_field("stream_options", fmt::format("'stream_options.{}' must be true or false", name),
                       "invalid_type");
    }
    *target = value.get<bool>();
  }
  return std::nullopt;
}

void read_lists(Reader* in, GenerationOptions* out) {
  if (Json* stop = in->find("stop")) {
    if (stop->is_string()) {
      out->stop.push_back(stop->get<std::string>());
    } else {
      out->stop = stop->get<std::vector<std::string>>();
    }
  }
  if (const Json* ids = in->find("stop_token_ids")) {
    out->stop_token_ids = to_ids(*ids);
  }
  if (const Json* bias = in->find("logit_bias")) {
    for (const auto& [key, value] : bias->items()) {
      LogitBias entry;
      std::from_chars(key.data(), key.data() + key.size(), entry.token);
      entry.bias = value.get<float>();
      out->logit_bias.push_back(entry);
    }
  }
}

Problem read_options(Reader* in, GenerationOptions* out) {
  in->take("model", &out->model);
  in->read("temperature", &out->temperature);
  in->read("top_p", &out->top_p);
  in->read("min_p", &out->min_p);
  in->read("repetition_penalty", &out->repetition_penalty);
  in->read("top_k", &out->top_k);
  in->read("presence_penalty", &out->presence_penalty);
  in->read("frequency_penalty", &out->frequency_penalty);
  in->read("seed", &out->seed);
  in->read("n", &out->n);
  in->read("max_tokens", &out->max_tokens);
  if (in->has("max_completion_tokens")) {
    in->read("max_completion_tokens", &out->max_tokens);
    out->max_tokens_field = "max_completion_tokens";
  }
  in->read("min_tokens", &out->min_tokens);
  in->read("ignore_eos", &out->ignore_eos);
  in->read("include_stop_str_in_output", &out->include_stop);
  in->read("stream", &out->stream);
  in->read("skip_special_tokens", &out->skip_special_tokens);
  in->read("return_token_ids", &out->return_token_ids);
  in->read("truncate_prompt_tokens", &out->truncate_prompt_tokens);
  in->read("priority", &out->priority);
  in->take("cache_salt", &out->cache_salt);
  in->take("request_id", &out->request_id);
  read_lists(in, out);
  if (out->max_tokens.has_value() && out->min_tokens > *out->max_tokens) {
    return bad_field(
        "min_tokens",
        fmt::format("'min_tokens' ({}) is above '{}' ({})", out->min_tokens, out->max_tokens_field, *out->max_tokens),
        "out_of_range");
  }
  return read_stream_options(in, out);
}

Problem read_conversation(Reader* in, Conversation* out) {
  Json* messages = in->find("messages");
  if (messages == nullptr) {
    return missing("messages");
  }
  out->messages = std::make_shared<const Json>(std::move(*messages));
  in->read("continue_final_message", &out->continue_final_message);
  // Clients that continue a message seldom think of the other switch; only asking for both is a contradiction.
  out->add_generation_prompt = !out->continue_final_message;
  in->read("add_generation_prompt", &out->add_generation_prompt);
  if (out->continue_final_message && out->add_generation_prompt) {
    return bad_field("continue_final_message",
                     "'continue_final_message' and 'add_generation_prompt' cannot both be true");
  }
  Json kwargs = Json::object();
  if (Json* given = in->find("chat_template_kwargs")) {
    kwargs = std::move(*given);
  }
  if (const Json* effort = in->find("reasoning_effort"); effort != nullptr && !kwargs.contains("reasoning_effort")) {
    kwargs["reasoning_effort"] = *effort;
  }
  out->kwargs = std::make_shared<const Json>(std::move(kwargs));
  return std::nullopt;
}

Problem read_prompts(Reader* in, std::vector<Prompt>* out) {
  Json* prompt = in->find("prompt");
  if (prompt == nullptr) {
    return missing("prompt");
  }
  if (prompt->is_string()) {
    out->emplace_back(std::move(prompt->get_ref<std::string&>()));
  } else if (prompt->front().is_number()) {
    out->emplace_back(to_ids(*prompt));
  } else {
    for (Json& item : *prompt) {
      if (item.is_string()) {
        out->emplace_back(std::move(item.get_ref<std::string&>()));
      } else {
        out->emplace_back(to_ids(item));
      }
    }
  }
  return std::nullopt;
}

// Reads the body and checks it against the table.
Problem open(std::string_view body, uint32_t endpoint, Json* json, std::vector<std::string>* unknown) {
  if (auto problem = read_json(body, json)) {
    return problem;
  }
  return check_fields(*json, endpoint, unknown);
}

}  // namespace

Parsed<ChatRequest> parse_chat(std::string_view body) {
  Json json;
  ChatRequest out;
  if (auto problem = open(body, kChat, &json, &out.options.unknown_fields)) {
    return *problem;
  }
  out.options.has_accepted_fields = has_accepted_fields(json, kChat);
  Reader in(&json);
  if (auto problem = read_options(&in, &out.options)) {
    return *problem;
  }
  if (auto problem = read_conversation(&in, &out.conversation)) {
    return *problem;
  }
  bool logprobs = false;
  std::optional<int32_t> top;
  in.read("logprobs", &logprobs);
  in.read("top_logprobs", &top);
  if (top.has_value() && *top > 0 && !logprobs) {
    return bad_field("top_logprobs", "'top_logprobs' needs 'logprobs' to be true");
  }
  out.options.logprobs = logprobs ? top.value_or(0) : -1;
  return out;
}

Parsed<CompletionRequest> parse_completion(std::string_view body) {
  Json json;
  CompletionRequest out;
  if (auto problem = open(body, kCompletions, &json, &out.options.unknown_fields)) {
    return *problem;
  }
  out.options.has_accepted_fields = has_accepted_fields(json, kCompletions);
  Reader in(&json);
  if (auto problem = read_options(&in, &out.options)) {
    return *problem;
  }
  if (auto problem = read_prompts(&in, &out.prompts)) {
    return *problem;
  }
  in.read("echo", &out.echo);
  in.read("logprobs", &out.options.logprobs);
  return out;
}

Parsed<TokenizeRequest> parse_tokenize(std::string_view body) {
  Json json;
  TokenizeRequest out;
  if (auto problem = open(body, kTokenize, &json, &out.unknown_fields)) {
    return *problem;
  }
  Reader in(&json);
  in.take("model", &out.model);
  in.read("return_token_strs", &out.return_token_strs);
  if (in.has("messages")) {
    Conversation conversation;
    if (auto problem = read_conversation(&in, &conversation)) {
      return *problem;
    }
    out.input = std::move(conversation);
    return out;
  }
  Json* prompt = in.has("prompt") ? in.find("prompt") : in.find("content");
  if (prompt == nullptr) {
    return *missing("prompt");
  }
  if (!prompt->is_string()) {
    return bad_field("prompt", "'prompt' must be a string", "invalid_type");
  }
  out.input = std::move(prompt->get_ref<std::string&>());
  return out;
}

Parsed<DetokenizeRequest> parse_detokenize(std::string_view body) {
  Json json;
  DetokenizeRequest out;
  if (auto problem = open(body, kDetokenize, &json, &out.unknown_fields)) {
    return *problem;
  }
  Reader in(&json);
  in.take("model", &out.model);
  in.read("skip_special_tokens", &out.skip_special_tokens);
  const Json* tokens = in.find("tokens");
  if (tokens == nullptr) {
    return *missing("tokens");
  }
  out.tokens = to_ids(*tokens);
  return out;
}

}  // namespace weir::api
