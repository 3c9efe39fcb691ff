// The one table of request fields: validation, error texts, docs/api.md and the boundary tests all come from it.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "api/error.h"

namespace weir::api {

enum class FieldType : uint8_t {
  kBool,
  kInteger,
  kNumber,
  kString,
  kStringOrList,  // a string or a list of strings
  kIntegerList,   // a list of integers in [min, max]
  kObject,
  kMessages,  // a list of objects with a "role"
  kPrompt,    // a string, a list of strings, a list of token ids, or a list of lists of token ids
  kBiasMap,   // an object of token id (as text) -> number in [min, max]
  kAny,
};

enum class FieldEffect : uint8_t {
  kHonoured,     // changes what is done
  kAccepted,     // valid and without effect: it never changes the output here
  kUnsupported,  // known, refused with 400 unless it has its neutral value
};

// Endpoints as bits.
inline constexpr uint32_t kChat = 1;
inline constexpr uint32_t kCompletions = 2;
inline constexpr uint32_t kTokenize = 4;
inline constexpr uint32_t kDetokenize = 8;

struct FieldSpec {
  std::string_view name;
  FieldType type = FieldType::kAny;
  FieldEffect effect = FieldEffect::kHonoured;
  uint32_t endpoints = 0;
  double min = 0;  // numbers: inclusive, unless min_exclusive; lists and maps: of each item
  double max = 0;  // inclusive
  bool min_exclusive = false;
  int32_t count_max = 0;      // strings: bytes; lists and maps: items; 0: no bound but the body's
  std::string_view fallback;  // the default, in words
  std::string_view neutral;   // kUnsupported: JSON list of values accepted because they ask for nothing
  std::string_view meaning;   // one sentence
};

std::span<const FieldSpec> field_table();

// Checks every member of `body` against the table: unsupported fields, types and ranges. Null counts as absent.
// Members that the table does not know for this endpoint are appended to `unknown`.
std::optional<ApiError> check_fields(const nlohmann::ordered_json& body, uint32_t endpoint,
                                     std::vector<std::string>* unknown);

// Whether `body` has a field that is accepted without effect.
bool has_accepted_fields(const nlohmann::ordered_json& body, uint32_t endpoint);

// The table as a JSON list (one object per field), for the boundary tests.
std::string field_table_json();
// The table as Markdown: the body of docs/api.md.
std::string field_table_markdown();

}  // namespace weir::api
