// Parses a request body into a document, within limits that a hostile body cannot pass.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string_view>

#include "api/error.h"

namespace weir::api {

// Bounds on one request body; the size in bytes is the HTTP server's to bound.
inline constexpr int32_t kJsonDepthMax = 64;            // conversations with tool schemas nest about 15 deep
inline constexpr int64_t kJsonContainersMax = 200'000;  // objects and lists; a conversation of 10,000 turns has 40,000
inline constexpr int64_t kJsonValuesMax = 4'000'000;    // scalars; 16 MiB of token ids have about that many

// Fills `out`, which must be an object at the top. 400 for: malformed JSON, invalid UTF-8, a key given twice in one
// object, NaN or Infinity, a number beyond double, a body that is no object, and the limits above.
std::optional<ApiError> read_json(std::string_view body, nlohmann::ordered_json* out);

}  // namespace weir::api
