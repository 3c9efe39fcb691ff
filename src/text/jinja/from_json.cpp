#include "text/jinja/from_json.h"

#include <nlohmann/json.hpp>

#include "text/jinja/unicode.h"

namespace weir::jinja {
namespace {

using Json = nlohmann::ordered_json;

Value text_value(const std::string& text, int64_t& bytes) {
  bytes += static_cast<int64_t>(text.size());
  return Value::text(repaired_utf8(text));
}

}  // namespace

Result<Value> value_from_json(const Json& json, int32_t depth_max, int64_t& bytes) {
  if (depth_max <= 0) {
    return with_remedy(make_error(ErrorCode::kTooLarge, "the request's values are nested too deep (value_depth_max)"),
                       "flatten the tool schemas or arguments");
  }
  bytes += static_cast<int64_t>(sizeof(Value));
  switch (json.type()) {
    case Json::value_t::boolean:
      return Value(json.get<bool>());
    case Json::value_t::number_integer:
      return Value(json.get<int64_t>());
    case Json::value_t::number_unsigned:
      return Value(static_cast<Int>(json.get<uint64_t>()));
    case Json::value_t::number_float:
      return Value(json.get<double>());
    case Json::value_t::string:
      return text_value(json.get_ref<const std::string&>(), bytes);
    case Json::value_t::array: {
      List list;
      list.items.reserve(json.size());
      for (const Json& item : json) {
        WEIR_ASSIGN_OR_RETURN(Value value, value_from_json(item, depth_max - 1, bytes));
        list.items.push_back(std::move(value));
      }
      list.extent = extent_of(list.items);
      return Value(std::make_shared<const List>(std::move(list)));
    }
    case Json::value_t::object: {
      Dict dict;
      for (const auto& item : json.items()) {
        WEIR_ASSIGN_OR_RETURN(Value value, value_from_json(item.value(), depth_max - 1, bytes));
        dict.set(text_value(item.key(), bytes), std::move(value));
      }
      return Value(std::make_shared<const Dict>(std::move(dict)));
    }
    case Json::value_t::null:
    case Json::value_t::binary:
    case Json::value_t::discarded:
      break;
  }
  return Value();
}

}  // namespace weir::jinja
