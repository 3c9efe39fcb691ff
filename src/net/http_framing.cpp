#include "net/http_framing.h"

#include <boost/beast/http/error.hpp>
#include <string_view>
#include <utility>

namespace weir::net {

namespace http = boost::beast::http;

namespace {

// What Beast's parser lets pass and we do not: a request without Host, or whose end two readers could see differently.
std::string_view framing_problem(const RequestParser& parser) {
  const auto& message = parser.get();
  if (message.version() >= 11 && message.count(http::field::host) != 1) {
    return "a request needs exactly one Host header";
  }
  const auto encoding = message.find(http::field::transfer_encoding);
  if (encoding != message.end()) {
    if (message.count(http::field::transfer_encoding) != 1 ||
        !iequals({encoding->value().data(), encoding->value().size()}, "chunked") || message.version() < 11) {
      return "the only transfer encoding served is a single 'chunked' of HTTP/1.1";
    }
  }
  if (message.count(http::field::content_length) > 1) {
    return "more than one Content-Length";
  }
  return {};
}

}  // namespace

int status_of(const boost::system::error_code& ec) {
  if (ec == http::error::header_limit || ec == http::error::buffer_overflow) {
    return 431;
  }
  if (ec == http::error::body_limit) {
    return 413;
  }
  if (ec == http::error::bad_version) {
    return 505;
  }
  if (ec == http::error::end_of_stream || ec == http::error::partial_message) {
    return 0;
  }
  return ec.category() == make_error_code(http::error::bad_method).category() ? 400 : 0;
}

Result<HttpRequest> to_request(const RequestParser& parser) {
  const std::string_view framing = framing_problem(parser);
  if (!framing.empty()) {
    return Error{ErrorCode::kInvalidArgument, std::string(framing), {}};
  }
  const auto& message = parser.get();
  WEIR_ASSIGN_OR_RETURN(RequestTarget target, split_target({message.target().data(), message.target().size()}));
  HttpRequest request;
  request.method = std::string(message.method_string());
  request.path = std::move(target.path);
  request.query = std::move(target.query);
  request.http_1_0 = message.version() == 10;
  request.keep_alive = message.keep_alive();
  for (const auto& field : message) {
    request.headers.push_back({std::string(field.name_string()), std::string(field.value())});
  }
  return request;
}

std::string closing_bytes(const HttpResponse& response, int64_t unsent_bytes_max) {
  HttpRequest none;
  none.keep_alive = false;
  HttpExchange exchange(std::move(none), unsent_bytes_max);
  exchange.respond(response);
  return exchange.take_output();
}

}  // namespace weir::net
