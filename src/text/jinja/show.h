// Values as text: Python's str and repr, and JSON as transformers' `tojson` writes it.
#pragma once

#include <optional>
#include <string>

#include "text/jinja/runtime.h"

namespace weir::jinja {

std::string int_text(Int value);
// Python's repr of a float: the shortest digits that read back as the same number.
std::string float_text(double value);
std::string repr_text(std::string_view text);

// Python's str(value) and repr(value). Errors only by limits.
Result<std::string> to_text(Runtime& runtime, const Value& value);
Result<std::string> to_repr(Runtime& runtime, const Value& value);

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::optional<std::string> indent;  // one level of it
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};

// json.dumps(value). An error for what JSON cannot hold (undefined values, functions).
Result<std::string> to_json(Runtime& runtime, const Value& value, const JsonStyle& style);

// What markupsafe.escape makes of a text.
std::string html_escaped(std::string_view text);

}  // namespace weir::jinja
