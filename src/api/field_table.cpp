// Ranges follow OpenAI's API where it has the field and vLLM's where it does not; a narrower bound has its reason here.
#include <array>
#include <limits>

#include "api/fields.h"
#include "plan/sampling.h"

namespace weir::api {

namespace {

constexpr uint32_t kBoth = kChat | kCompletions;
constexpr auto kHonoured = FieldEffect::kHonoured;
constexpr auto kAccepted = FieldEffect::kAccepted;
constexpr auto kUnsupported = FieldEffect::kUnsupported;

constexpr double kInt32Max = std::numeric_limits<int32_t>::max();
constexpr double kInt64Limit = 9223372036854775808.0;  // 2^63: seeds are any 64-bit integer
constexpr int32_t kNameBytesMax = 256;                 // ids that end up in headers, keys and logs
constexpr int32_t kStopCountMax = 16;
// Stop strings have at most 4096 bytes each: what is held back while one may be forming.
constexpr int32_t kStopIdCountMax = 32;   // with a model's own end-of-turn ids below SamplingParams' 64
constexpr int32_t kPromptCountMax = 128;  // a batch of prompts in one body
constexpr int32_t kMessageCountMax = 16'384;
constexpr int32_t kChoicesMax = 16;

constexpr FieldSpec flag(std::string_view name, uint32_t endpoints, std::string_view fallback,
                         std::string_view meaning) {
  return {name, FieldType::kBool, kHonoured, endpoints, 0, 1, false, 0, fallback, {}, meaning};
}
constexpr FieldSpec integer(std::string_view name, uint32_t endpoints, double min, double max,
                            std::string_view fallback, std::string_view meaning) {
  return {name, FieldType::kInteger, kHonoured, endpoints, min, max, false, 0, fallback, {}, meaning};
}
constexpr FieldSpec number(std::string_view name, uint32_t endpoints, double min, double max, std::string_view fallback,
                           std::string_view meaning) {
  return {name, FieldType::kNumber, kHonoured, endpoints, min, max, false, 0, fallback, {}, meaning};
}
constexpr FieldSpec positive(std::string_view name, uint32_t endpoints, double max, std::string_view fallback,
                             std::string_view meaning) {
  return {name, FieldType::kNumber, kHonoured, endpoints, 0, max, true, 0, fallback, {}, meaning};
}
constexpr FieldSpec text(std::string_view name, uint32_t endpoints, int32_t bytes_max, std::string_view meaning) {
  return {name, FieldType::kString, kHonoured, endpoints, 0, 0, false, bytes_max, "none", {}, meaning};
}
constexpr FieldSpec accepted(std::string_view name, uint32_t endpoints, std::string_view meaning) {
  return {name, FieldType::kAny, kAccepted, endpoints, 0, 0, false, 0, "none", {}, meaning};
}
constexpr FieldSpec refused(std::string_view name, uint32_t endpoints, std::string_view neutral,
                            std::string_view meaning) {
  return {name, FieldType::kAny, kUnsupported, endpoints, 0, 0, false, 0, "none", neutral, meaning};
}
constexpr FieldSpec counted(std::string_view name, FieldType type, uint32_t endpoints, double min, double max,
                            int32_t count_max, std::string_view fallback, std::string_view meaning) {
  return {name, type, kHonoured, endpoints, min, max, false, count_max, fallback, {}, meaning};
}

constexpr std::string_view kConfigOr1 = "generation_config.json, else 1";

constexpr std::array kFields = {
    // What to answer.
    text("model", kBoth | kTokenize | kDetokenize, 1024, "A served model's name; another name is 404."),
    counted("messages", FieldType::kMessages, kChat | kTokenize, 0, 0, kMessageCountMax, "required",
            "The conversation. Content is a string, null, or a list of text parts."),
    counted("prompt", FieldType::kPrompt, kCompletions | kTokenize, 0, kInt32Max, kPromptCountMax, "required",
            "A string, a list of strings, a list of token ids, or a list of lists of token ids."),
    text("content", kTokenize, 0, "Another name of prompt (llama.cpp's)."),
    counted("tokens", FieldType::kIntegerList, kDetokenize, 0, kInt32Max, 0, "required",
            "Token ids to turn into text."),
    // How long.
    integer("max_tokens", kChat, 1, kInt32Max, "the rest of the context", "Tokens to generate at most."),
    integer("max_tokens", kCompletions, 0, kInt32Max, "16", "Tokens to generate at most; 0 only computes the prompt."),
    integer("max_completion_tokens", kChat, 1, kInt32Max, "max_tokens", "As max_tokens, and stronger than it."),
    integer("min_tokens", kBoth, 0, kInt32Max, "0", "No end and no stop string before this many tokens."),
    flag("ignore_eos", kBoth, "false", "The model's own end-of-turn tokens do not end the answer."),
    counted("stop", FieldType::kStringOrList, kBoth, 0, 0, kStopCountMax, "none",
            "Ends the answer before the first of these strings (each 1 to 4096 bytes)."),
    counted("stop_token_ids", FieldType::kIntegerList, kBoth, 0, kInt32Max, kStopIdCountMax, "none",
            "Token ids that end the answer."),
    flag("include_stop_str_in_output", kBoth, "false", "Keeps the stop string at the end of the text."),
    // How to choose.
    number("temperature", kBoth, 0, 2, kConfigOr1, "0 takes the likeliest token."),
    positive("top_p", kBoth, 1, kConfigOr1, "Keeps the likeliest tokens that sum up to this probability."),
    integer("top_k", kBoth, -1, kInt32Max, "generation_config.json, else off",
            "Keeps the k likeliest; -1 and 0 are off."),
    number("min_p", kBoth, 0, 1, "generation_config.json, else 0", "Keeps tokens above this share of the likeliest."),
    positive("repetition_penalty", kBoth, 2, kConfigOr1, "Divides or multiplies logits of tokens seen before."),
    number("presence_penalty", kBoth, -2, 2, "0", "Lowers the logits of tokens of the answer."),
    number("frequency_penalty", kBoth, -2, 2, "0", "Lowers logits by how often the answer has the token."),
    counted("logit_bias", FieldType::kBiasMap, kBoth, -100, 100, kLogitBiasMax, "none",
            "Token id -> added to its logit."),
    integer("seed", kBoth, -kInt64Limit, kInt64Limit, "random", "The same seed gives the same answer."),
    integer("n", kBoth, 1, kChoicesMax, "1", "Answers per prompt; each has a seed derived from the request's."),
    // What to report.
    flag("stream", kBoth, "false", "Server-sent events instead of one body."),
    counted("stream_options", FieldType::kObject, kBoth, 0, 0, 0, "none",
            "{include_usage, continuous_usage_stats}; only with stream."),
    flag("logprobs", kChat, "false", "Log-probabilities of the answer's tokens."),
    integer("top_logprobs", kChat, 0, kTopLogprobsMax, "0", "And of this many likeliest; only with logprobs."),
    integer("logprobs", kCompletions, 0, kTopLogprobsMax, "none", "Log-probabilities, with this many likeliest."),
    flag("echo", kCompletions, "false", "Puts the prompt in front of the answer, its log-probabilities too."),
    flag("return_token_ids", kBoth, "false", "Adds token_ids and prompt_token_ids to each choice."),
    flag("skip_special_tokens", kBoth, "true", "Leaves special tokens out of the text."),
    flag("skip_special_tokens", kDetokenize, "false", "Leaves special tokens out of the text."),
    // How to make the prompt.
    flag("add_generation_prompt", kChat | kTokenize, "true", "Ends the prompt where the assistant begins."),
    flag("continue_final_message", kChat | kTokenize, "false",
         "Leaves the last message open; not with add_generation_prompt."),
    counted("chat_template_kwargs", FieldType::kObject, kChat | kTokenize, 0, 0, 64, "none",
            "Variables for the chat template, e.g. enable_thinking."),
    text("reasoning_effort", kChat, kNameBytesMax, "Passed to the chat template as reasoning_effort."),
    integer("truncate_prompt_tokens", kBoth, 1, kInt32Max, "none", "Keeps only this many last tokens of the prompt."),
    flag("add_special_tokens", kBoth | kTokenize, "false",
         "The served tokenizers add nothing of their own: both values give the same ids."),
    flag("return_token_strs", kTokenize, "false", "Adds the text of each token."),
    // For the scheduler.
    integer("priority", kBoth, -100, 100, "0", "Lower is served earlier; waiting raises it."),
    text("cache_salt", kBoth, kNameBytesMax, "Prompts with different salts never share cached state."),
    text("request_id", kBoth, kNameBytesMax, "Becomes part of the answer's id."),
    // Valid, without effect here.
    accepted("prompt_cache_key", kBoth, "A hint for routers."),
    accepted("session_id", kBoth, "A hint for routers."),
    accepted("user", kBoth, "Not used."),
    accepted("store", kBoth, "Nothing is stored."),
    accepted("metadata", kBoth, "Not used."),
    accepted("service_tier", kBoth, "There is one tier."),
    accepted("safety_identifier", kBoth, "Not used."),
    accepted("verbosity", kBoth, "Not used."),
    accepted("parallel_tool_calls", kChat, "Only with tools."),
    // Known and refused, because ignoring them would change the answer.
    refused("tools", kChat | kTokenize, "[[]]", "Tool calls."),
    refused("tool_choice", kChat, "[\"none\"]", "Tool calls."),
    refused("functions", kChat, "[[]]", "Tool calls in their old form."),
    refused("function_call", kChat, "[\"none\"]", "Tool calls in their old form."),
    refused("response_format", kBoth, "[{\"type\":\"text\"}]", "Constrained output."),
    refused("structured_outputs", kBoth, "[]", "Constrained output."),
    refused("guided_json", kBoth, "[]", "Constrained output."),
    refused("guided_regex", kBoth, "[]", "Constrained output."),
    refused("guided_choice", kBoth, "[]", "Constrained output."),
    refused("guided_grammar", kBoth, "[]", "Constrained output."),
    refused("thinking_token_budget", kBoth, "[]", "A bound on reasoning."),
    refused("best_of", kBoth, "[1]", "Ranking of hidden answers."),
    refused("use_beam_search", kBoth, "[false]", "Beam search."),
    refused("length_penalty", kBoth, "[1]", "Beam search."),
    refused("suffix", kCompletions, "[\"\"]", "Text behind the answer."),
    refused("prompt_embeds", kBoth, "[]", "Prompts as vectors."),
    refused("prompt_logprobs", kBoth, "[]", "Use echo with logprobs on /v1/completions."),
    refused("logits_processors", kBoth, "[[]]", "Code from a request."),
    refused("bad_words", kBoth, "[[]]", "Banned texts."),
    refused("allowed_token_ids", kBoth, "[]", "A whitelist of tokens."),
    refused("echo", kChat, "[false]", "Only on /v1/completions."),
    refused("documents", kChat, "[[]]", "Retrieval inputs of a template."),
    refused("chat_template", kChat | kTokenize, "[]", "Templates come from the model alone."),
    refused("modalities", kChat, "[[\"text\"]]", "Only text is served."),
    refused("audio", kChat, "[]", "Only text is served."),
    refused("prediction", kChat, "[]", "Predicted outputs."),
    refused("web_search_options", kChat, "[]", "Nothing leaves this server."),
    refused("return_tokens_as_token_ids", kBoth, "[false]", "Use return_token_ids."),
    refused("kv_transfer_params", kBoth, "[]", "Caches in other processes."),
};

}  // namespace

std::span<const FieldSpec> field_table() {
  return kFields;
}

}  // namespace weir::api
