#include "api/fields.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "api/json_writer.h"

namespace weir::api {

namespace {

using Json = nlohmann::ordered_json;
using Problem = std::optional<ApiError>;

std::string_view type_words(FieldType type) {
  switch (type) {
    case FieldType::kBool:
      return "true or false";
    case FieldType::kInteger:
      return "an integer";
    case FieldType::kNumber:
      return "a number";
    case FieldType::kString:
      return "a string";
    case FieldType::kStringOrList:
      return "a string or a list of strings";
    case FieldType::kIntegerList:
      return "a list of integers";
    case FieldType::kObject:
      return "an object";
    case FieldType::kMessages:
      return "a list of messages";
    case FieldType::kPrompt:
      return "a string, a list of strings, a list of token ids or a list of lists of token ids";
    case FieldType::kBiasMap:
      return "an object of token ids and numbers";
    case FieldType::kAny:
      return "any value";
  }
  return "any value";
}

std::string bound_text(double bound) {
  // Bounds that are whole numbers read better without an exponent.
  if (std::abs(bound) < 1e15) return fmt::format("{}", bound);
  return bound < 0 ? "-2^63" : "2^63 - 1";  // all of int64; as a double the upper end is 2^63
}

std::string range_text(const FieldSpec& spec) {
  return fmt::format("{}{}, {}]", spec.min_exclusive ? "(" : "[", bound_text(spec.min), bound_text(spec.max));
}

ApiError wrong_type(const FieldSpec& spec, const Json& value) {
  return bad_field(spec.name,
                   fmt::format("'{}' must be {}, not {}", spec.name, type_words(spec.type), value.type_name()),
                   "invalid_type");
}

bool in_range(const FieldSpec& spec, double value) {
  return (spec.min_exclusive ? value > spec.min : value >= spec.min) && value <= spec.max;
}

ApiError out_of_range(const FieldSpec& spec, const std::string& where, double value) {
  return bad_field(spec.name, fmt::format("'{}' must be in {}, not {}", where, range_text(spec), value),
                   "out_of_range");
}

// An integer, also when written as 5.0.
bool is_integer(const Json& value) {
  return value.is_number_integer() ||
         (value.is_number_float() && std::floor(value.get<double>()) == value.get<double>());
}

// Seeds are all of int64: as doubles both 2^63 - 1 and 2^63 compare equal to the bound, so unsigned ones are looked at.
bool beyond_int64(const Json& value) {
  constexpr auto kMax = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  return (value.is_number_unsigned() && value.get<uint64_t>() > kMax) ||
         (value.is_number_float() && std::abs(value.get<double>()) >= 9223372036854775808.0);
}

Problem check_number(const FieldSpec& spec, const Json& value) {
  const bool right_type = spec.type == FieldType::kInteger ? value.is_number() && is_integer(value) : value.is_number();
  if (!right_type) {
    return wrong_type(spec, value);
  }
  if (!in_range(spec, value.get<double>()) || (spec.type == FieldType::kInteger && beyond_int64(value))) {
    return out_of_range(spec, std::string(spec.name), value.get<double>());
  }
  return std::nullopt;
}

Problem check_count(const FieldSpec& spec, size_t count, std::string_view unit) {
  if (spec.count_max > 0 && count > static_cast<size_t>(spec.count_max)) {
    return bad_field(spec.name,
                     fmt::format("'{}' has {} {}, at most {} are allowed", spec.name, count, unit, spec.count_max),
                     "out_of_range");
  }
  return std::nullopt;
}

Problem check_integers(const FieldSpec& spec, const Json& list, const std::string& where) {
  for (size_t i = 0; i < list.size(); ++i) {
    const Json& item = list[i];
    if (!item.is_number_integer()) {
      return bad_field(spec.name, fmt::format("'{}[{}]' must be an integer, not {}", where, i, item.type_name()),
                       "invalid_type");
    }
    if (!in_range(spec, item.get<double>())) {
      return out_of_range(spec, fmt::format("{}[{}]", where, i), item.get<double>());
    }
  }
  return std::nullopt;
}

Problem check_strings(const FieldSpec& spec, const Json& value) {
  constexpr size_t kStopBytesMax = 4096;  // as field_table.cpp says of stop
  const auto check_one = [&](const Json& item) -> Problem {
    if (!item.is_string()) {
      return wrong_type(spec, item);
    }
    const size_t size = item.get_ref<const std::string&>().size();
    if (size == 0 || size > kStopBytesMax) {
      return bad_field(
          spec.name, fmt::format("each string of '{}' must have 1 to {} bytes, not {}", spec.name, kStopBytesMax, size),
          "out_of_range");
    }
    return std::nullopt;
  };
  if (!value.is_array()) {
    return check_one(value);
  }
  if (auto problem = check_count(spec, value.size(), "strings")) {
    return problem;
  }
  for (const Json& item : value) {
    if (auto problem = check_one(item)) {
      return problem;
    }
  }
  return std::nullopt;
}

Problem check_prompt(const FieldSpec& spec, const Json& value) {
  if (value.is_string()) {
    return std::nullopt;
  }
  if (!value.is_array()) {
    return wrong_type(spec, value);
  }
  if (value.empty()) {
    return bad_field(spec.name, fmt::format("'{}' is an empty list", spec.name), "out_of_range");
  }
  if (value[0].is_number()) {
    return check_integers(spec, value, std::string(spec.name));
  }
  if (auto problem = check_count(spec, value.size(), "prompts")) {
    return problem;
  }
  for (size_t i = 0; i < value.size(); ++i) {
    const Json& item = value[i];
    if (item.type() != value[0].type() || !(item.is_string() || item.is_array())) {
      return wrong_type(spec, item);
    }
    if (item.is_array()) {
      if (auto problem = check_integers(spec, item, fmt::format("{}[{}]", spec.name, i))) {
        return problem;
      }
    }
  }
  return std::nullopt;
}

Problem check_parts(const FieldSpec& spec, const Json& parts, size_t message) {
  for (size_t i = 0; i < parts.size(); ++i) {
    const Json& part = parts[i];
    const std::string where = fmt::format("messages[{}].content[{}]", message, i);
    if (part.is_string()) {
      continue;
    }
    if (!part.is_object() || !part.contains("type") || !part["type"].is_string()) {
      return bad_field(spec.name, fmt::format("'{}' must be an object with a type", where), "invalid_type");
    }
    if (part["type"] != "text") {
      return bad_field(spec.name,
                       fmt::format("'{}' has type '{}': only text is served", where,
                                   part["type"].get_ref<const std::string&>().substr(0, 64)),
                       "unsupported_value");
    }
    if (!part.contains("text") || !part["text"].is_string()) {
      return bad_field(spec.name, fmt::format("'{}.text' must be a string", where), "invalid_type");
    }
  }
  return std::nullopt;
}

Problem check_messages(const FieldSpec& spec, const Json& value) {
  if (!value.is_array()) {
    return wrong_type(spec, value);
  }
  if (value.empty()) {
    return bad_field(spec.name, "'messages' must have at least one message", "out_of_range");
  }
  if (auto problem = check_count(spec, value.size(), "messages")) {
    return problem;
  }
  for (size_t i = 0; i < value.size(); ++i) {
    const Json& message = value[i];
    if (!message.is_object() || !message.contains("role") || !message["role"].is_string()) {
      return bad_field(spec.name, fmt::format("'messages[{}]' must be an object with a role", i), "invalid_type");
    }
    const auto content = message.find("content");
    if (content == message.end() || content->is_null() || content->is_string()) {
      continue;
    }
    if (!content->is_array()) {
      return bad_field(spec.name, fmt::format("'messages[{}].content' must be a string or a list of parts", i),
                       "invalid_type");
    }
    if (auto problem = check_parts(spec, *content, i)) {
      return problem;
    }
  }
  return std::nullopt;
}

Problem check_bias(const FieldSpec& spec, const Json& value) {
  if (!value.is_object()) {
    return wrong_type(spec, value);
  }
  if (auto problem = check_count(spec, value.size(), "entries")) {
    return problem;
  }
  for (const auto& [key, bias] : value.items()) {
    int32_t id = -1;
    const auto parsed = std::from_chars(key.data(), key.data() + key.size(), id);
    if (parsed.ec != std::errc() || parsed.ptr != key.data() + key.size() || id < 0) {
      return bad_field(spec.name,
                       fmt::format("'{}' has the key '{}', which is no token id", spec.name, key.substr(0, 32)));
    }
    if (!bias.is_number()) {
      return wrong_type(spec, bias);
    }
    if (!in_range(spec, bias.get<double>())) {
      return out_of_range(spec, fmt::format("{}.{}", spec.name, key), bias.get<double>());
    }
  }
  return std::nullopt;
}

Problem check_unsupported(const FieldSpec& spec, const Json& value) {
  const Json neutral = Json::parse(spec.neutral);
  for (const Json& allowed : neutral) {
    if (allowed == value) {
      return std::nullopt;
    }
  }
  return bad_field(spec.name, fmt::format("'{}' is not supported yet. {}", spec.name, spec.meaning),
                   "unsupported_parameter");
}

Problem check_value(const FieldSpec& spec, const Json& value) {
  if (spec.effect == FieldEffect::kUnsupported) {
    return check_unsupported(spec, value);
  }
  switch (spec.type) {
    case FieldType::kBool:
      return value.is_boolean() ? Problem() : wrong_type(spec, value);
    case FieldType::kInteger:
    case FieldType::kNumber:
      return check_number(spec, value);
    case FieldType::kString:
      if (!value.is_string()) {
        return wrong_type(spec, value);
      }
      return check_count(spec, value.get_ref<const std::string&>().size(), "bytes");
    case FieldType::kStringOrList:
      return check_strings(spec, value);
    case FieldType::kIntegerList:
      if (!value.is_array()) {
        return wrong_type(spec, value);
      }
      if (auto problem = check_count(spec, value.size(), "items")) {
        return problem;
      }
      return check_integers(spec, value, std::string(spec.name));
    case FieldType::kObject:
      if (!value.is_object()) {
        return wrong_type(spec, value);
      }
      return check_count(spec, value.size(), "members");
    case FieldType::kMessages:
      return check_messages(spec, value);
    case FieldType::kPrompt:
      return check_prompt(spec, value);
    case FieldType::kBiasMap:
      return check_bias(spec, value);
    case FieldType::kAny:
      return std::nullopt;
  }
  return std::nullopt;
}

const FieldSpec* find_field(std::string_view name, uint32_t endpoint) {
  for (const FieldSpec& spec : field_table()) {
    if (spec.name == name && (spec.endpoints & endpoint) != 0) {
      return &spec;
    }
  }
  return nullptr;
}

std::string_view effect_word(FieldEffect effect) {
  switch (effect) {
    case FieldEffect::kHonoured:
      return "honoured";
    case FieldEffect::kAccepted:
      return "accepted";
    case FieldEffect::kUnsupported:
      return "unsupported";
  }
  return "";
}

std::vector<std::string_view> endpoint_words(uint32_t endpoints) {
  std::vector<std::string_view> out;
  for (auto [bit, word] : {std::pair(kChat, "chat"), std::pair(kCompletions, "completions"),
                           std::pair(kTokenize, "tokenize"), std::pair(kDetokenize, "detokenize")}) {
    if ((endpoints & bit) != 0) {
      out.push_back(word);
    }
  }
  return out;
}

bool has_range(const FieldSpec& spec) {
  return spec.type == FieldType::kInteger || spec.type == FieldType::kNumber || spec.type == FieldType::kIntegerList ||
         spec.type == FieldType::kBiasMap;
}

}  // namespace

std::optional<ApiError> check_fields(const Json& body, uint32_t endpoint, std::vector<std::string>* unknown) {
  for (const auto& [name, value] : body.items()) {
    const FieldSpec* spec = find_field(name, endpoint);
    if (spec == nullptr) {
      unknown->push_back(name);
      continue;
    }
    if (value.is_null()) {
      continue;
    }
    if (auto problem = check_value(*spec, value)) {
      return problem;
    }
  }
  return std::nullopt;
}

bool has_accepted_fields(const Json& body, uint32_t endpoint) {
  for (const auto& [name, value] : body.items()) {
    const FieldSpec* spec = find_field(name, endpoint);
    if (spec != nullptr && spec->effect == FieldEffect::kAccepted && !value.is_null()) {
      return true;
    }
  }
  return false;
}

std::string field_table_json() {
  Json out = Json::array();
  for (const FieldSpec& spec : field_table()) {
    Json field;
    field["name"] = spec.name;
    field["type"] = type_words(spec.type);
    field["effect"] = effect_word(spec.effect);
    field["endpoints"] = endpoint_words(spec.endpoints);
    if (has_range(spec)) {
      field["min"] = spec.min;
      field["max"] = spec.max;
      field["min_exclusive"] = spec.min_exclusive;
    }
    if (spec.count_max > 0) {
      field["count_max"] = spec.count_max;
    }
    if (spec.effect == FieldEffect::kUnsupported) {
      field["neutral"] = Json::parse(spec.neutral);
    }
    field["default"] = spec.fallback;
    field["meaning"] = spec.meaning;
    out.push_back(std::move(field));
  }
  return out.dump();
}

std::string field_table_markdown() {
  std::string out =
      "| field | endpoints | type | range | default | effect | meaning |\n|---|---|---|---|---|---|---|\n";
  for (const FieldSpec& spec : field_table()) {
    std::string range = has_range(spec) ? range_text(spec) : "";
    if (spec.count_max > 0) {
      range += fmt::format("{}at most {}{}", range.empty() ? "" : ", ", spec.count_max,
                           spec.type == FieldType::kString ? " bytes" : "");
    }
    if (!spec.neutral.empty()) {
      range = fmt::format("accepted: null, {}", spec.neutral.substr(1, spec.neutral.size() - 2));
    }
    out += fmt::format("| `{}` | {} | {} | {} | {} | {} | {} |\n", spec.name,
                       fmt::join(endpoint_words(spec.endpoints), ", "), type_words(spec.type), range, spec.fallback,
                       effect_word(spec.effect), spec.meaning);
  }
  return out;
}

}  // namespace weir::api
