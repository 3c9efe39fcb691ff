// The one door through which a request enters the engine.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "text/jinja/value.h"

namespace weir::jinja {

// The value of `json`. `bytes` grows by about what it takes. Bytes that are not UTF-8 become U+FFFD. An error if it is
// nested deeper than `depth_max`.
Result<Value> value_from_json(const nlohmann::ordered_json& json, int32_t depth_max, int64_t& bytes);

}  // namespace weir::jinja
