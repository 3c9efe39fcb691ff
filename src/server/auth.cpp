#include "server/auth.h"

#include <cstddef>

namespace weir {

bool constant_time_equal(std::string_view given, std::string_view expected) {
  // Walks the given text, whose length the caller knows anyway; volatile keeps the compiler from leaving early.
  volatile unsigned char difference = given.size() == expected.size() ? 0 : 1;
  for (size_t i = 0; i < given.size(); ++i) {
    const char other = expected.empty() ? '\0' : expected[i % expected.size()];
    difference = static_cast<unsigned char>(difference |
                                            (static_cast<unsigned char>(given[i]) ^ static_cast<unsigned char>(other)));
  }
  return difference == 0;
}

bool has_valid_key(const net::HttpRequest& request, const std::vector<std::string>& keys) {
  if (keys.empty()) {
    return true;
  }
  constexpr std::string_view kBearer = "Bearer ";
  std::string_view given = request.header("x-api-key").value_or("");
  const std::string_view authorization = request.header("Authorization").value_or("");
  if (authorization.size() > kBearer.size() && net::iequals(authorization.substr(0, kBearer.size()), kBearer)) {
    given = authorization.substr(kBearer.size());
  }
  bool valid = false;
  for (const std::string& key : keys) {
    const bool equal = constant_time_equal(given, key);
    // An empty key would let everybody in.
    valid = valid || (equal && !key.empty());
  }
  return valid;
}

}  // namespace weir
