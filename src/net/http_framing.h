// From the parser's view of a request to ours, and what is refused on the way.
#pragma once

#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/system/error_code.hpp>
#include <cstdint>
#include <string>

#include "base/result.h"
#include "net/http.h"

namespace weir::net {

using RequestParser = boost::beast::http::request_parser<boost::beast::http::string_body>;

// The status that answers a request which the parser refused; 0: the connection just ended.
int status_of(const boost::system::error_code& ec);

// The request whose headers `parser` has read, without its body. An error, whose message is for the client: a target
// that cannot be decoded, no Host or several, or framing whose end two readers could see differently.
Result<HttpRequest> to_request(const RequestParser& parser);

// The bytes of a response that ends its connection and answers no request.
std::string closing_bytes(const HttpResponse& response, int64_t unsent_bytes_max);

}  // namespace weir::net
