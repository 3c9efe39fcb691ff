#include "api/json_reader.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

namespace weir::api {

namespace {

using Json = nlohmann::ordered_json;

// Builds the document event by event and stops at the first thing that is not allowed.
class Builder {
 public:
  explicit Builder(Json* root) : root_(root) {}

  const std::string& problem() const { return problem_; }

  bool null() { return add(Json()); }
  bool boolean(bool value) { return add(Json(value)); }
  bool number_integer(Json::number_integer_t value) { return add(Json(value)); }
  bool number_unsigned(Json::number_unsigned_t value) { return add(Json(value)); }
  bool number_float(Json::number_float_t value, const std::string&) { return add(Json(value)); }
  bool string(std::string& value) { return add(Json(std::move(value))); }
  bool binary(Json::binary_t&) { return fail("binary data"); }
  bool start_object(size_t) { return open(Json(Json::value_t::object)); }
  bool start_array(size_t) { return open(Json(Json::value_t::array)); }
  bool end_array() { return close(); }
  bool end_object() { return close(); }

  bool key(std::string& name) {
    if (!levels_.back().keys.insert(name).second) {
      return fail(fmt::format("the key '{}' is given twice in one object", name.substr(0, 64)));
    }
    key_ = std::move(name);
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) {
    // 406: a number that no double can hold.
    return fail(error.id == 406 ? fmt::format("a number before byte {} is too large", position)
                                : fmt::format("malformed JSON at byte {}", position));
  }

 private:
  struct Level {
    Json* value;
    std::unordered_set<std::string> keys;
  };

  bool fail(std::string problem) {
    problem_ = std::move(problem);
    return false;
  }

  Json* place(Json value) {
    if (levels_.empty()) {
      *root_ = std::move(value);
      return root_;
    }
    Json* parent = levels_.back().value;
    if (parent->is_array()) {
      auto& items = parent->get_ref<Json::array_t&>();
      items.push_back(std::move(value));
      return &items.back();
    }
    // Behind the map's back: its own insert searches linearly, and `keys` already knows that this key is new.
    auto& members = parent->get_ref<Json::object_t&>();
    members.emplace_back(std::move(key_), std::move(value));
    return &members.back().second;
  }

  bool add(Json value) {
    if (++value_count_ > kJsonValuesMax) {
      return fail(fmt::format("more than {} values", kJsonValuesMax));
    }
    place(std::move(value));
    return true;
  }

  bool open(Json container) {
    if (levels_.size() >= static_cast<size_t>(kJsonDepthMax)) {
      return fail(fmt::format("nested deeper than {} levels", kJsonDepthMax));
    }
    if (++container_count_ > kJsonContainersMax) {
      return fail(fmt::format("more than {} objects and lists", kJsonContainersMax));
    }
    levels_.push_back({place(std::move(container)), {}});
    return true;
  }

  bool close() {
    levels_.pop_back();
    return true;
  }

  Json* root_;
  std::vector<Level> levels_;
  std::string key_;
  std::string problem_;
  int64_t value_count_ = 0;
  int64_t container_count_ = 0;
};

}  // namespace

std::optional<ApiError> read_json(std::string_view body, nlohmann::ordered_json* out) {
  Builder builder(out);
  if (!Json::sax_parse(body.begin(), body.end(), &builder)) {
    return ApiError{400, "The request body is not acceptable: " + builder.problem(), {}, "invalid_json", 0};
  }
  if (!out->is_object()) {
    return ApiError{400, "The request body must be a JSON object", {}, "invalid_json", 0};
  }
  return std::nullopt;
}

}  // namespace weir::api
