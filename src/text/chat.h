// From a conversation to a prompt: finds a model's chat template and renders messages with it.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "text/template.h"
#include "text/tokenizer.h"

namespace weir {

struct ChatRenderOptions {
  // Ends the prompt where the model's answer begins.
  bool add_generation_prompt = true;
  // Leaves the last message open, so that the model continues it; excludes add_generation_prompt.
  bool continue_final_message = false;
  TemplateRenderOptions render;
};

// The templates of one model. Most have one; some have another for requests with tools.
struct ChatTemplates {
  std::unique_ptr<ChatTemplate> standard;
  std::unique_ptr<ChatTemplate> tool_use;  // null when the model has one template for both

  // The template for a request with or without tools.
  const ChatTemplate& choose(bool has_tools) const { return has_tools && tool_use ? *tool_use : *standard; }
};

// Loads the templates of the model in `directory`: chat_template.jinja if it is there, else "chat_template" of
// tokenizer_config.json: a string, or a list of {name, template} with "default" and perhaps "tool_use".
// Errors: kNotFound when there is none ("no chat template"), kIo, and those of ChatTemplate::parse with the file named.
Result<ChatTemplates> load_chat_templates(const std::string& directory, const TemplateLimits& limits = {});

// The template in `file`, which must be there and say something. Errors as above, with the file named.
Result<std::unique_ptr<ChatTemplate>> load_chat_template(const std::string& file, const TemplateLimits& limits = {});

// As above, from the text of tokenizer_config.json alone.
Result<ChatTemplates> chat_templates_from_config(const std::string& tokenizer_config,
                                                 const TemplateLimits& limits = {});

// Renders `messages` (a list of objects, passed on as they are) with `tools` (a list, or null for none).
// `kwargs` (an object or null) becomes variables of the template, e.g. enable_thinking; it cannot replace messages,
// tools or add_generation_prompt. `special_tokens` (an object or null) gives bos_token, eos_token and the like.
// Errors: kInvalidArgument for arguments of a wrong type, and those of ChatTemplate::render.
Result<std::string> render_chat(const ChatTemplate& chat_template, const nlohmann::ordered_json& messages,
                                const nlohmann::ordered_json& tools, const nlohmann::ordered_json& kwargs,
                                const nlohmann::ordered_json& special_tokens, const ChatRenderOptions& options = {});

struct ChatPrompt {
  std::vector<int32_t> ids;
  // How many of the last ids make the model answer. The next turn has other text there: it renders the answer.
  int32_t suffix_count = 0;
};

// Renders a conversation as above and encodes it.
Result<ChatPrompt> encode_chat(const Tokenizer& tokenizer, const ChatTemplate& chat_template,
                               const nlohmann::ordered_json& messages, const nlohmann::ordered_json& tools,
                               const nlohmann::ordered_json& kwargs, const nlohmann::ordered_json& special_tokens,
                               const ChatRenderOptions& options = {});

}  // namespace weir
