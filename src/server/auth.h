// API keys.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "net/http.h"

namespace weir {

// Equal, in a time that depends on the lengths alone and not on where the texts differ.
bool constant_time_equal(std::string_view given, std::string_view expected);

// Whether the request carries one of `keys` as "Authorization: Bearer KEY" or "x-api-key: KEY". Every key is compared,
// so the time does not tell which one matched. True if there are no keys.
bool has_valid_key(const net::HttpRequest& request, const std::vector<std::string>& keys);

}  // namespace weir
