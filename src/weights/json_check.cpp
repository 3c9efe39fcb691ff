#include "weights/json_check.h"

#include <boost/json/basic_parser_impl.hpp>
#include <string>
#include <unordered_set>
#include <vector>

namespace weir {
namespace {

using JsonError = boost::json::error_code;

// Remembers the keys of the objects that are open.
struct KeyHandler {
  static constexpr size_t max_object_size = SIZE_MAX;
  static constexpr size_t max_array_size = SIZE_MAX;
  static constexpr size_t max_key_size = SIZE_MAX;
  static constexpr size_t max_string_size = SIZE_MAX;

  std::vector<std::unordered_set<std::string>> open;
  std::string key;
  std::string duplicate;

  bool on_document_begin(JsonError&) { return true; }
  bool on_document_end(JsonError&) { return true; }
  bool on_object_begin(JsonError&) {
    open.emplace_back();
    return true;
  }
  bool on_object_end(size_t, JsonError&) {
    open.pop_back();
    return true;
  }
  bool on_array_begin(JsonError&) { return true; }
  bool on_array_end(size_t, JsonError&) { return true; }
  bool on_key_part(boost::json::string_view part, size_t, JsonError&) {
    key.append(part.data(), part.size());
    return true;
  }
  bool on_key(boost::json::string_view part, size_t, JsonError& error) {
    key.append(part.data(), part.size());
    if (!open.back().insert(key).second) {
      duplicate = key;
      error = boost::json::error::syntax;
      return false;
    }
    key.clear();
    return true;
  }
  bool on_string_part(boost::json::string_view, size_t, JsonError&) { return true; }
  bool on_string(boost::json::string_view, size_t, JsonError&) { return true; }
  bool on_number_part(boost::json::string_view, JsonError&) { return true; }
  bool on_int64(int64_t, boost::json::string_view, JsonError&) { return true; }
  bool on_uint64(uint64_t, boost::json::string_view, JsonError&) { return true; }
  bool on_double(double, boost::json::string_view, JsonError&) { return true; }
  bool on_bool(bool, JsonError&) { return true; }
  bool on_null(JsonError&) { return true; }
  bool on_comment_part(boost::json::string_view, JsonError&) { return true; }
  bool on_comment(boost::json::string_view, JsonError&) { return true; }
};

}  // namespace

Status check_json(std::string_view text) {
  boost::json::parse_options options;
  options.max_depth = static_cast<size_t>(kJsonDepthMax);
  boost::json::basic_parser<KeyHandler> parser(options);
  JsonError error;
  const size_t used = parser.write_some(false, text.data(), text.size(), error);
  if (!parser.handler().duplicate.empty()) {
    return make_error(ErrorCode::kCorrupt, "JSON key \"{}\" appears twice in one object", parser.handler().duplicate);
  }
  if (error) return make_error(ErrorCode::kCorrupt, "not valid JSON at byte {}: {}", used, error.message());
  if (!parser.done() || used != text.size()) {
    return make_error(ErrorCode::kCorrupt, "JSON document is followed by other text at byte {}", used);
  }
  return Ok{};
}

}  // namespace weir
