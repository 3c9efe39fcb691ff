// A blocking HTTP/1.1 client for downloads: one request a connection, TLS verified against the system's authorities.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "hub/url.h"

namespace weir {

struct HttpHeader {
  std::string name;
  std::string value;
};

struct HttpReply {
  unsigned status = 0;
  std::map<std::string, std::string> headers;  // names in lower case; the last of equal names
  std::string body;                            // empty where a sink took it

  // Empty when absent.
  std::string header(const std::string& name) const;
};

struct HttpOptions {
  int64_t idle_ms_max = 30'000;  // without a byte in either direction: the peer is gone
  std::string ca_file;           // authorities besides the system's (PEM); empty: none
};

// Given the head of a reply, returns where its body goes; an empty function keeps it in the reply (at most 32 MiB).
// What the sink returns as an error ends the transfer and is the result of the request.
using BodySink = std::function<Status(std::span<const char>)>;
using ChooseSink = std::function<Result<BodySink>(const HttpReply&)>;

// GET without following redirects. Errors: kUnavailable when the connection, TLS or the transfer fails (a body cut
// short too), kUnauthorized never: every status is a reply.
Result<HttpReply> http_get(const Url& url, const std::vector<HttpHeader>& headers, const HttpOptions& options,
                           const ChooseSink& choose_sink = {});

}  // namespace weir
