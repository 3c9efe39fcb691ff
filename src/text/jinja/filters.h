// The filters that templates may apply.
#pragma once

#include <string_view>

#include "text/jinja/runtime.h"

namespace weir::jinja {

using FilterFunction = Result<Value> (*)(Runtime& runtime, const Value& value, const Arguments& arguments);

// Null for a name that is no filter.
FilterFunction find_filter(std::string_view name);

struct FilterEntry {
  std::string_view name;
  FilterFunction function;
};

// The tables that find_filter searches: filters of text and numbers, and of sequences.
const FilterEntry* find_text_filter(std::string_view name);
const FilterEntry* find_sequence_filter(std::string_view name);
const FilterEntry* find_selection_filter(std::string_view name);

}  // namespace weir::jinja
