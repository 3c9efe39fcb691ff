#include "text/generation.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>

#include "text/model_file.h"

namespace weir {
namespace {

namespace json = boost::json;

// These files have a few KiB; tokenizer_config.json carries every added token (Llama-3: 50 KiB).
constexpr int64_t kConfigBytesMax = int64_t{16} << 20;
constexpr int64_t kIdMax = INT32_MAX;

Error bad_field(std::string_view name, std::string_view expected) {
  return make_error(ErrorCode::kCorrupt, "{} is not {}", name, expected);
}

// A member that is there and not null.
const json::value* member(const json::object& object, std::string_view name) {
  const json::value* value = object.if_contains(json::string_view(name.data(), name.size()));
  return value == nullptr || value->is_null() ? nullptr : value;
}

// `low` itself is allowed when `closed`.
Status read_number(const json::object& object, std::string_view name, double low, bool closed, double high,
                   std::optional<float>* out) {
  const json::value* value = member(object, name);
  if (value == nullptr) return Ok{};
  if (!value->is_number()) return bad_field(name, "a number");
  const double number = value->to_number<double>();
  if (!(number > low || (closed && number == low)) || !(number <= high)) {
    return bad_field(name, fmt::format("{} {} and at most {}", closed ? "at least" : "above", low, high));
  }
  *out = static_cast<float>(number);
  return Ok{};
}

Status add_id(const json::value& value, std::vector<int32_t>* ids) {
  if (!value.is_int64() || value.get_int64() < 0 || value.get_int64() > kIdMax) {
    return bad_field("eos_token_id", "a token id or a list of token ids");
  }
  ids->push_back(static_cast<int32_t>(value.get_int64()));
  return Ok{};
}

Status add_eos_ids(const json::object& object, std::vector<int32_t>* ids) {
  const json::value* value = member(object, "eos_token_id");
  if (value == nullptr) return Ok{};
  if (!value->is_array()) return add_id(*value, ids);
  for (const json::value& id : value->get_array()) WEIR_RETURN_IF_ERROR(add_id(id, ids));
  return Ok{};
}

Status read_generation_config(const json::object& object, GenerationDefaults* defaults) {
  constexpr double kAny = 1e6;  // no sampler tells larger values apart from it
  WEIR_RETURN_IF_ERROR(read_number(object, "temperature", 0, true, kAny, &defaults->temperature));
  WEIR_RETURN_IF_ERROR(read_number(object, "top_p", 0, false, 1, &defaults->top_p));
  WEIR_RETURN_IF_ERROR(read_number(object, "min_p", 0, true, 1, &defaults->min_p));
  WEIR_RETURN_IF_ERROR(read_number(object, "repetition_penalty", 0, false, kAny, &defaults->repetition_penalty));
  if (const json::value* top_k = member(object, "top_k")) {
    // 0 and -1 both switch it off.
    if (!top_k->is_int64() || top_k->get_int64() < -1 || top_k->get_int64() > INT32_MAX) {
      return bad_field("top_k", "a whole number from -1");
    }
    defaults->top_k = static_cast<int>(top_k->get_int64());
  }
  return add_eos_ids(object, &defaults->eos_ids);
}

Status read_config(const json::object& object, GenerationDefaults* defaults) {
  WEIR_RETURN_IF_ERROR(add_eos_ids(object, &defaults->eos_ids));
  const json::value* nested = member(object, "text_config");
  if (nested == nullptr) return Ok{};
  if (!nested->is_object()) return bad_field("text_config", "an object");
  return add_eos_ids(nested->get_object(), &defaults->eos_ids);
}

Status read_tokenizer_config(const json::object& object, const Tokenizer& tokenizer, GenerationDefaults* defaults) {
  const json::value* token = member(object, "eos_token");
  if (token == nullptr) return Ok{};
  const json::value* text = token->is_object() ? member(token->get_object(), "content") : token;
  if (text == nullptr || !text->is_string()) return bad_field("eos_token", "a string or an object with content");
  const json::string& name = text->get_string();
  const auto id = tokenizer.find({name.data(), name.size()});
  if (!id)
    return bad_field("eos_token",
                     fmt::format("a token of the vocabulary: '{}'", std::string_view(name.data(), name.size())));
  defaults->eos_ids.push_back(*id);
  return Ok{};
}

// Applies `read` to a file of the folder when it is there; errors name the file.
template <class Reader>
Status with_file(const std::filesystem::path& path, Reader read) {
  WEIR_ASSIGN_OR_RETURN(const auto text, read_model_file(path, kConfigBytesMax));
  if (!text) return Ok{};
  json::error_code parse_error;
  const json::value value = json::parse(*text, parse_error);
  if (parse_error) return make_error(ErrorCode::kCorrupt, "{}: not JSON: {}", path.string(), parse_error.message());
  if (!value.is_object()) return make_error(ErrorCode::kCorrupt, "{}: not a JSON object", path.string());
  Status status = read(value.get_object());
  if (!status.ok()) return in_context(std::move(status).error(), path.string());
  return Ok{};
}

}  // namespace

Result<GenerationDefaults> load_generation_defaults(const std::filesystem::path& model_folder,
                                                    const Tokenizer* tokenizer) {
  GenerationDefaults defaults;
  WEIR_RETURN_IF_ERROR(with_file(model_folder / "generation_config.json", [&](const json::object& object) {
    return read_generation_config(object, &defaults);
  }));
  WEIR_RETURN_IF_ERROR(with_file(model_folder / "config.json",
                                 [&](const json::object& object) { return read_config(object, &defaults); }));
  if (tokenizer != nullptr) {
    WEIR_RETURN_IF_ERROR(with_file(model_folder / "tokenizer_config.json", [&](const json::object& object) {
      return read_tokenizer_config(object, *tokenizer, &defaults);
    }));
  }
  std::sort(defaults.eos_ids.begin(), defaults.eos_ids.end());
  defaults.eos_ids.erase(std::unique(defaults.eos_ids.begin(), defaults.eos_ids.end()), defaults.eos_ids.end());
  return defaults;
}

}  // namespace weir
