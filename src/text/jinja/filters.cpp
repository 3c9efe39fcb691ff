#include "text/jinja/filters.h"

namespace weir::jinja {

FilterFunction find_filter(std::string_view name) {
  for (const auto find : {find_text_filter, find_sequence_filter, find_selection_filter}) {
    if (const FilterEntry* entry = find(name)) {
      return entry->function;
    }
  }
  return nullptr;
}

}  // namespace weir::jinja
