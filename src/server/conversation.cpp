#include <nlohmann/json.hpp>
#include <string>

#include "api/json_reader.h"
#include "server/prepare.h"

namespace weir {

namespace {

using Json = nlohmann::ordered_json;

// Text parts as one string; parts are joined by a line feed, as vLLM does for templates that expect strings.
Json join_parts(const Json& parts) {
  std::string out;
  for (size_t i = 0; i < parts.size(); ++i) {
    out += i == 0 ? "" : "\n";
    out +=
        parts[i].is_string() ? parts[i].get_ref<const std::string&>() : parts[i]["text"].get_ref<const std::string&>();
  }
  return out;
}

// Clients send arguments as text (the API's form), templates print them as an object.
void parse_arguments(Json* message) {
  const auto calls = message->find("tool_calls");
  if (calls == message->end() || !calls->is_array()) {
    return;
  }
  for (Json& call : *calls) {
    if (!call.is_object() || !call.contains("function") || !call["function"].is_object()) {
      continue;
    }
    Json& function = call["function"];
    const auto arguments = function.find("arguments");
    if (arguments == function.end() || !arguments->is_string()) {
      continue;
    }
    Json parsed;
    if (!api::read_json(arguments->get_ref<const std::string&>(), &parsed).has_value()) {
      *arguments = std::move(parsed);
    }
  }
}

// Whether the template loops over a message's content itself, and so makes its own rule for parts.
bool reads_parts(const std::string& source) {
  for (std::string_view loop :
       {"in message.content", "in message['content']", "in message[\"content\"]", "in content"}) {
    if (source.find(loop) != std::string::npos) {
      return true;
    }
  }
  return false;
}

Json special_tokens_of(const ModelText& model) {
  Json out = Json::object();
  for (const auto& [name, text] : model.special_tokens) {
    out[name] = text;
  }
  return out;
}

}  // namespace

Json normalize_messages(const Json& messages, bool template_reads_parts) {
  Json out = messages;
  for (Json& message : out) {
    if (const auto content = message.find("content");
        content != message.end() && content->is_array() && !template_reads_parts) {
      *content = join_parts(*content);
    }
    if (message.contains("reasoning") && !message.contains("reasoning_content")) {
      message["reasoning_content"] = Json(message["reasoning"]);
    }
    parse_arguments(&message);
  }
  return out;
}

api::Parsed<ChatPrompt> encode_conversation(const api::Conversation& conversation, const ModelText& model) {
  if (model.templates == nullptr) {
    return api::ApiError{400, "This model has no chat template: use /v1/completions", {}, "no_chat_template", 0};
  }
  const ChatTemplate& chat_template = model.templates->choose(false);
  const Json messages = normalize_messages(*conversation.messages, reads_parts(chat_template.source()));
  Json kwargs = Json::parse(model.default_template_kwargs);
  kwargs.update(*conversation.kwargs);
  ChatRenderOptions options;
  options.add_generation_prompt = conversation.add_generation_prompt;
  options.continue_final_message = conversation.continue_final_message;
  auto prompt =
      encode_chat(*model.tokenizer, chat_template, messages, Json(), kwargs, special_tokens_of(model), options);
  if (!prompt.ok()) {
    api::ApiError error = api::from_error(prompt.error(), "messages");
    // A template that fails does so on this conversation; sending it again would not help.
    error.status = 400;
    return error;
  }
  return std::move(prompt).value();
}

}  // namespace weir
