#include "api/response.h"

#include <fmt/format.h>

#include "api/json_writer.h"

namespace weir::api {

namespace {

std::string head(std::string_view object, std::string_view id, int64_t created_s, std::string_view model) {
  std::string out = "{\"id\":";
  append_json_string(id, &out);
  out += ",\"object\":";
  append_json_string(object, &out);
  out += ",\"created\":";
  append_json_int(created_s, &out);
  out += ",\"model\":";
  append_json_string(model, &out);
  out += ",\"choices\":[";
  return out;
}

void append_bytes(std::string_view bytes, std::string* out) {
  if (bytes.empty()) {
    *out += "null";
    return;
  }
  *out += '[';
  for (size_t i = 0; i < bytes.size(); ++i) {
    *out += i == 0 ? "" : ",";
    append_json_int(static_cast<unsigned char>(bytes[i]), out);
  }
  *out += ']';
}

void append_logprob(bool has, float value, std::string* out) {
  if (has) {
    append_json_float(value, out);
  } else {
    *out += "null";
  }
}

// {"content": [{token, logprob, bytes, top_logprobs}]}
void append_chat_logprobs(std::span<const TokenEntry> entries, std::string* out) {
  *out += "{\"content\":[";
  for (size_t i = 0; i < entries.size(); ++i) {
    const TokenEntry& entry = entries[i];
    *out += i == 0 ? "{\"token\":" : ",{\"token\":";
    append_json_string(entry.text, out);
    *out += ",\"logprob\":";
    append_logprob(entry.has_logprob, entry.logprob, out);
    *out += ",\"bytes\":";
    append_bytes(entry.bytes, out);
    *out += ",\"top_logprobs\":[";
    for (size_t k = 0; k < entry.top.size(); ++k) {
      *out += k == 0 ? "{\"token\":" : ",{\"token\":";
      append_json_string(entry.top[k].text, out);
      *out += ",\"logprob\":";
      append_json_float(entry.top[k].logprob, out);
      *out += ",\"bytes\":";
      append_bytes(entry.top[k].bytes, out);
      *out += '}';
    }
    *out += "]}";
  }
  *out += "]}";
}

// The likeliest as an object; two ids with the same text share a key, which keeps the likelier one's value.
void append_legacy_top(const TokenEntry& entry, std::string* out) {
  if (!entry.has_logprob) {
    *out += "null";
    return;
  }
  *out += '{';
  bool first = true;
  std::vector<std::string_view> seen;
  const auto add = [&](std::string_view text, float logprob) {
    for (std::string_view other : seen) {
      if (other == text) {
        return;
      }
    }
    seen.push_back(text);
    *out += first ? "" : ",";
    first = false;
    append_json_string(text, out);
    *out += ':';
    append_json_float(logprob, out);
  };
  for (const TopLogprob& top : entry.top) {
    add(top.text, top.logprob);
  }
  add(entry.own_text, entry.logprob);
  *out += '}';
}

// {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
void append_legacy_logprobs(std::span<const TokenEntry> entries, std::string* out) {
  const auto list = [&](std::string_view name, const auto& append_one) {
    *out += name;
    for (size_t i = 0; i < entries.size(); ++i) {
      *out += i == 0 ? "" : ",";
      append_one(entries[i]);
    }
    *out += ']';
  };
  list("{\"tokens\":[", [&](const TokenEntry& entry) { append_json_string(entry.text, out); });
  list(",\"token_logprobs\":[",
       [&](const TokenEntry& entry) { append_logprob(entry.has_logprob, entry.logprob, out); });
  list(",\"top_logprobs\":[", [&](const TokenEntry& entry) { append_legacy_top(entry, out); });
  list(",\"text_offset\":[", [&](const TokenEntry& entry) { append_json_int(entry.text_offset, out); });
  *out += '}';
}

void append_stop_reason(const ChoicePart& part, std::string* out) {
  *out += ",\"stop_reason\":";
  if (part.stop_id.has_value()) {
    append_json_int(*part.stop_id, out);
  } else {
    append_json_string_or_null(part.stop_string, out);
  }
}

}  // namespace

void append_ids(std::span<const TokenId> ids, std::string* out) {
  *out += '[';
  for (size_t i = 0; i < ids.size(); ++i) {
    *out += i == 0 ? "" : ",";
    append_json_int(ids[i], out);
  }
  *out += ']';
}

void append_usage_json(const Usage& usage, std::string* out) {
  *out += fmt::format(
      "{{\"prompt_tokens\":{},\"completion_tokens\":{},\"total_tokens\":{},\"prompt_tokens_details\":{{\"cached_"
      "tokens\":"
      "{},\"matched_tokens\":{},\"lost_to_checkpoint\":{},\"lost_to_eviction\":{}}},"
      "\"completion_tokens_details\":{{\"reasoning_tokens\":0}}}}",
      usage.prompt_tokens, usage.completion_tokens, usage.prompt_tokens + usage.completion_tokens, usage.cached_tokens,
      usage.matched_tokens, usage.matched_tokens - usage.cached_tokens, usage.evicted_tokens);
}

ResponseWriter::ResponseWriter(ResponseKind kind, std::string id, int64_t created_s, std::string model)
    : kind_(kind), id_(std::move(id)) {
  const bool chat = kind_ == ResponseKind::kChat;
  head_chunk_ = "data: " + head(chat ? "chat.completion.chunk" : "text_completion", id_, created_s, model);
  head_whole_ = head(chat ? "chat.completion" : "text_completion", id_, created_s, model);
}

void ResponseWriter::append_open(bool chunk, std::string* out) const {
  *out += chunk ? head_chunk_ : head_whole_;
}

void ResponseWriter::append_close(std::optional<Usage> usage, std::string* out) const {
  *out += ']';
  if (usage.has_value()) {
    *out += ",\"usage\":";
    append_usage_json(*usage, out);
  } else if (null_usage_) {
    *out += ",\"usage\":null";
  }
  *out += "}";
}

void ResponseWriter::append_choice(const ChoicePart& part, bool chunk, std::string* out) const {
  *out += "{\"index\":";
  append_json_int(part.index, out);
  if (kind_ == ResponseKind::kCompletion) {
    *out += ",\"text\":";
    append_json_string(part.text, out);
  } else {
    *out += chunk ? ",\"delta\":{" : ",\"message\":{\"role\":\"assistant\",";
    if (!chunk || !part.text.empty()) {
      *out += "\"content\":";
      append_json_string(part.text, out);
    }
    *out += '}';
  }
  *out += ",\"logprobs\":";
  if (!part.with_logprobs) {
    *out += "null";
  } else if (kind_ == ResponseKind::kChat) {
    append_chat_logprobs(part.entries, out);
  } else {
    append_legacy_logprobs(part.entries, out);
  }
  *out += ",\"finish_reason\":";
  append_json_string_or_null(part.finish_reason, out);
  if (!part.finish_reason.empty()) {
    append_stop_reason(part, out);
  }
  if (part.with_token_ids) {
    *out += ",\"token_ids\":";
    append_ids(part.token_ids, out);
  }
  if (part.prompt_token_ids != nullptr) {
    *out += ",\"prompt_token_ids\":";
    append_ids(*part.prompt_token_ids, out);
  }
  *out += '}';
}

void ResponseWriter::append_role(int32_t index, const std::vector<TokenId>* prompt_token_ids,
                                 std::optional<Usage> usage, std::string* out) const {
  append_open(true, out);
  *out += "{\"index\":";
  append_json_int(index, out);
  *out += ",\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null";
  if (prompt_token_ids != nullptr) {
    *out += ",\"prompt_token_ids\":";
    append_ids(*prompt_token_ids, out);
  }
  *out += '}';
  append_close(usage, out);
  *out += "\n\n";
}

void ResponseWriter::append_part(const ChoicePart& part, std::optional<Usage> usage, std::string* out) const {
  append_open(true, out);
  append_choice(part, true, out);
  append_close(usage, out);
  *out += "\n\n";
}

void ResponseWriter::append_usage(const Usage& usage, std::string* out) const {
  append_open(true, out);
  append_close(usage, out);
  *out += "\n\n";
}

std::string ResponseWriter::whole(std::span<const ChoicePart> choices, const Usage& usage) const {
  std::string out;
  append_open(false, &out);
  for (size_t i = 0; i < choices.size(); ++i) {
    out += i == 0 ? "" : ",";
    append_choice(choices[i], false, &out);
  }
  append_close(usage, &out);
  return out;
}

}  // namespace weir::api
