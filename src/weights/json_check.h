// A first pass over JSON from a stranger, before a convenient parser builds a tree of it.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/result.h"

namespace weir {

// Deeper than any config.json or index (about six levels), far from the end of any stack.
inline constexpr int64_t kJsonDepthMax = 32;

// An error (kCorrupt, with the byte offset) unless `text` is one strict JSON document in UTF-8, at most kJsonDepthMax
// deep, in which no object has the same key twice: readers disagree about which of two equal keys counts.
Status check_json(std::string_view text);

}  // namespace weir
