#include "text/chat.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "text/model_file.h"

namespace weir {
namespace {

using Json = nlohmann::ordered_json;

Error no_template() {
  return with_remedy(make_error(ErrorCode::kNotFound, "no chat template"),
                     "put a chat_template.jinja beside the model, or use the completions endpoint with plain prompts");
}

// A template without a word would make every prompt empty.
Result<std::unique_ptr<ChatTemplate>> parse_source(std::string source, const TemplateLimits& limits) {
  if (source.find_first_not_of(" \t\r\n") == std::string::npos) {
    return with_remedy(make_error(ErrorCode::kCorrupt, "the chat template is empty"),
                       "put the model's template there, or remove it and use plain prompts");
  }
  return ChatTemplate::parse(std::move(source), limits);
}

Result<std::unique_ptr<ChatTemplate>> parse_member(const Json& source, const TemplateLimits& limits) {
  if (!source.is_string()) {
    return make_error(ErrorCode::kCorrupt, "\"chat_template\" is neither a text nor a list of {{name, template}}");
  }
  return parse_source(source.get<std::string>(), limits);
}

}  // namespace

Result<ChatTemplates> chat_templates_from_config(const std::string& tokenizer_config, const TemplateLimits& limits) {
  const Json config = Json::parse(tokenizer_config, nullptr, false);
  if (!config.is_object()) {
    return make_error(ErrorCode::kCorrupt, "tokenizer_config.json is not a JSON object");
  }
  const auto member = config.find("chat_template");
  if (member == config.end() || member->is_null()) {
    return no_template();
  }
  ChatTemplates templates;
  if (!member->is_array()) {
    WEIR_ASSIGN_OR_RETURN(templates.standard, parse_member(*member, limits));
    return templates;
  }
  for (const Json& entry : *member) {
    if (!entry.is_object() || !entry.contains("name") || !entry.contains("template")) {
      return make_error(ErrorCode::kCorrupt, "\"chat_template\" has an entry without name and template");
    }
    if (entry["name"] == "default") {
      WEIR_ASSIGN_OR_RETURN(templates.standard, parse_member(entry["template"], limits));
    } else if (entry["name"] == "tool_use") {
      WEIR_ASSIGN_OR_RETURN(templates.tool_use, parse_member(entry["template"], limits));
    }
  }
  if (!templates.standard) {
    return with_remedy(make_error(ErrorCode::kNotFound, "no chat template named \"default\""),
                       "name one of the model's templates \"default\"");
  }
  return templates;
}

Result<std::unique_ptr<ChatTemplate>> load_chat_template(const std::string& file, const TemplateLimits& limits) {
  WEIR_ASSIGN_OR_RETURN(auto source, read_model_file(file, limits.source_bytes_max));
  if (!source) {
    return with_remedy(make_error(ErrorCode::kNotFound, "{}: there is no such file", file),
                       "name the file of a chat template");
  }
  auto parsed = parse_source(std::move(*source), limits);
  if (!parsed.ok()) {
    return in_context(std::move(parsed).error(), file);
  }
  return parsed;
}

Result<ChatTemplates> load_chat_templates(const std::string& directory, const TemplateLimits& limits) {
  const std::filesystem::path root(directory);
  const std::filesystem::path file = root / "chat_template.jinja";
  std::error_code error;
  if (std::filesystem::symlink_status(file, error).type() != std::filesystem::file_type::not_found) {
    ChatTemplates templates;
    WEIR_ASSIGN_OR_RETURN(templates.standard, load_chat_template(file.string(), limits));
    return templates;
  }
  // The configuration lists every added token: some megabytes in the largest.
  constexpr int64_t kConfigBytesMax = int64_t{16} << 20;
  const std::filesystem::path config = root / "tokenizer_config.json";
  WEIR_ASSIGN_OR_RETURN(auto text, read_model_file(config, kConfigBytesMax));
  if (!text) {
    return in_context(no_template(), directory);
  }
  auto templates = chat_templates_from_config(*text, limits);
  if (!templates.ok()) {
    return in_context(std::move(templates).error(), config.string());
  }
  return templates;
}

namespace {

// A special token is a text, or an object with the text as its "content".
Json token_text(const Json& token) {
  return token.is_object() && token.contains("content") ? token["content"] : token;
}

// The text of the last message, which continue_final_message leaves open.
Result<std::string> final_text(const Json& messages) {
  const Json& last = messages.back();
  const auto content = last.is_object() ? last.find("content") : last.end();
  if (last.is_object() && content != last.end()) {
    if (content->is_string()) {
      return content->get<std::string>();
    }
    if (content->is_array() && !content->empty() && content->back().is_object() &&
        content->back().value("type", "") == "text" && content->back().contains("text") &&
        content->back()["text"].is_string()) {
      return content->back()["text"].get<std::string>();
    }
  }
  return make_error(ErrorCode::kInvalidArgument, "continue_final_message needs a final message that ends with text");
}

std::string trimmed_end(std::string text) {
  text.erase(text.find_last_not_of(" \t\r\n\v\f") + 1);
  return text;
}

// Cuts the rendered text behind the last place where the final message's text stands. Templates that trim their
// messages are met by trimming the text too.
Result<std::string> cut_after(std::string rendered, const std::string& final) {
  const std::string trimmed = trimmed_end(final);
  const size_t lead = trimmed.find_first_not_of(" \t\r\n\v\f");
  const std::string core = lead == std::string::npos ? std::string() : trimmed.substr(lead);
  const size_t at = rendered.rfind(core);
  if (core.empty() || at == std::string::npos) {
    return make_error(ErrorCode::kInvalidArgument,
                      "continue_final_message: the chat template does not show the final message's text");
  }
  const std::string tail = final.substr(trimmed.size());
  size_t end = at + core.size();
  if (rendered.compare(end, tail.size(), tail) == 0) {
    end += tail.size();
  }
  rendered.resize(end);
  return rendered;
}

}  // namespace

Result<std::string> render_chat(const ChatTemplate& chat_template, const Json& messages, const Json& tools,
                                const Json& kwargs, const Json& special_tokens, const ChatRenderOptions& options) {
  if (!messages.is_array()) {
    return make_error(ErrorCode::kInvalidArgument, "messages must be a list");
  }
  if (!tools.is_null() && !tools.is_array()) {
    return make_error(ErrorCode::kInvalidArgument, "tools must be a list or null");
  }
  if ((!kwargs.is_null() && !kwargs.is_object()) || (!special_tokens.is_null() && !special_tokens.is_object())) {
    return make_error(ErrorCode::kInvalidArgument, "chat template arguments must be an object");
  }
  if (options.continue_final_message && (options.add_generation_prompt || messages.empty())) {
    return make_error(ErrorCode::kInvalidArgument,
                      "continue_final_message needs a message, and excludes add_generation_prompt");
  }
  Json context = Json::object();
  context["messages"] = messages;
  context["tools"] = tools;
  context["documents"] = nullptr;
  context["add_generation_prompt"] = options.add_generation_prompt;
  const auto add = [&context](const std::string& name, Json value) {
    if (!context.contains(name)) {
      context[name] = std::move(value);
    }
  };
  for (const auto& item : kwargs.items()) {
    add(item.key(), item.value());
  }
  for (const auto& item : special_tokens.items()) {
    if (!item.value().is_null()) {
      add(item.key(), token_text(item.value()));
    }
  }
  WEIR_ASSIGN_OR_RETURN(std::string text, chat_template.render(context, options.render));
  if (!options.continue_final_message) {
    return text;
  }
  WEIR_ASSIGN_OR_RETURN(const std::string final, final_text(messages));
  return cut_after(std::move(text), final);
}

Result<ChatPrompt> encode_chat(const Tokenizer& tokenizer, const ChatTemplate& chat_template, const Json& messages,
                               const Json& tools, const Json& kwargs, const Json& special_tokens,
                               const ChatRenderOptions& options) {
  WEIR_ASSIGN_OR_RETURN(const std::string text,
                        render_chat(chat_template, messages, tools, kwargs, special_tokens, options));
  ChatPrompt prompt;
  WEIR_ASSIGN_OR_RETURN(prompt.ids, tokenizer.encode(text));
  if (!options.add_generation_prompt || options.continue_final_message) return prompt;
  ChatRenderOptions closed_options = options;
  closed_options.add_generation_prompt = false;
  const auto closed = render_chat(chat_template, messages, tools, kwargs, special_tokens, closed_options);
  if (!closed.ok() || !text.starts_with(closed.value())) return prompt;
  // Ids may cross the place where the suffix begins: then there is none to speak of.
  const auto suffix = tokenizer.encode(std::string_view(text).substr(closed.value().size()));
  if (!suffix.ok() || suffix.value().size() > prompt.ids.size()) return prompt;
  if (std::equal(suffix.value().rbegin(), suffix.value().rend(), prompt.ids.rbegin())) {
    prompt.suffix_count = static_cast<int32_t>(suffix.value().size());
  }
  return prompt;
}

}  // namespace weir
