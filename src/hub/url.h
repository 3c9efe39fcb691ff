// The few forms of URL that a model hub and its redirects use.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace weir {

struct Url {
  bool tls = false;
  std::string host;    // lower case; an IPv6 address without brackets
  std::string port;    // decimal, never empty
  std::string target;  // path and query, starts with '/'

  // Whether a credential for one may be shown to the other.
  bool same_origin(const Url& other) const { return tls == other.tls && host == other.host && port == other.port; }
  // "https://host/path": the port only where it is not the scheme's own.
  std::string text() const;
  // Host header: with the port where it is not the scheme's own.
  std::string authority() const;
};

// "http://" and "https://" URLs without user information; the fragment is dropped. An error (kInvalidArgument) for the
// rest.
Result<Url> parse_url(std::string_view text);

// What a Location header means, seen from `base`: a whole URL, or a path from the root. From https to http is refused.
Result<Url> resolve_location(const Url& base, std::string_view location);

// Percent-encodes all but unreserved characters and '/'; with `encode_slash` that too.
std::string encode_path(std::string_view path, bool encode_slash = false);

}  // namespace weir
