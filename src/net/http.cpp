#include "net/http.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <iterator>

namespace weir::net {

namespace {

char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// The value of a Date header, e.g. "Sun, 06 Nov 1994 08:49:37 GMT".
std::string http_date(time_t seconds) {
  // Not strftime: its names follow the process's locale.
  constexpr std::array<std::string_view, 7> kDays = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  constexpr std::array<std::string_view, 12> kMonths = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                                        "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  tm utc{};
  gmtime_r(&seconds, &utc);
  return fmt::format("{}, {:02} {} {:04} {:02}:{:02}:{:02} GMT", kDays[static_cast<size_t>(utc.tm_wday)], utc.tm_mday,
                     kMonths[static_cast<size_t>(utc.tm_mon)], utc.tm_year + 1900, utc.tm_hour, utc.tm_min, utc.tm_sec);
}

}  // namespace

bool iequals(std::string_view a, std::string_view b) {
  return a.size() == b.size() &&
         std::equal(a.begin(), a.end(), b.begin(), [](char x, char y) { return lower(x) == lower(y); });
}

std::optional<std::string_view> HttpRequest::header(std::string_view name) const {
  for (const HttpHeader& field : headers) {
    if (iequals(field.name, name)) {
      return field.value;
    }
  }
  return std::nullopt;
}

HttpExchange::HttpExchange(HttpRequest request, int64_t unsent_bytes_max)
    : request_(std::move(request)), unsent_bytes_max_(unsent_bytes_max) {
  close_after_ = !request_.keep_alive;
}

void HttpExchange::append_head(const HttpResponse& response, std::optional<size_t> content_length) {
  auto out = std::back_inserter(output_);
  fmt::format_to(out, "HTTP/1.1 {} {}\r\n", response.status, reason_phrase(response.status));
  fmt::format_to(out, "Date: {}\r\n", http_date(std::time(nullptr)));
  if (!response.content_type.empty()) {
    fmt::format_to(out, "Content-Type: {}\r\n", response.content_type);
  }
  for (const HttpHeader& field : response.headers) {
    fmt::format_to(out, "{}: {}\r\n", field.name, field.value);
  }
  if (content_length.has_value()) {
    fmt::format_to(out, "Content-Length: {}\r\n", *content_length);
  } else if (chunked_) {
    output_ += "Transfer-Encoding: chunked\r\n";
  }
  output_ += close_after_ ? "Connection: close\r\n\r\n" : "Connection: keep-alive\r\n\r\n";
}

void HttpExchange::respond(const HttpResponse& response) {
  WEIR_CHECK(!started_, "second response to one request");
  started_ = true;
  finished_ = true;
  if (!alive_) {
    return;
  }
  close_after_ = close_after_ || response.close;
  const bool no_content = response.status == 204 || response.status == 304;
  append_head(response, no_content ? std::nullopt : std::optional(response.body.size()));
  if (request_.method != "HEAD" && !no_content) {
    output_ += response.body;
  }
  wake();
}

void HttpExchange::start_stream(const HttpResponse& head) {
  WEIR_CHECK(!started_, "second response to one request");
  started_ = true;
  if (!alive_) {
    return;
  }
  chunked_ = !request_.http_1_0;
  close_after_ = close_after_ || head.close || !chunked_;
  append_head(head, std::nullopt);
  wake();
}

bool HttpExchange::write(std::string_view bytes) {
  WEIR_CHECK(started_ && !finished_, "write outside of a stream");
  if (!alive_) {
    return false;
  }
  if (bytes.empty()) {
    return true;  // an empty chunk would end the stream
  }
  if (in_flight_bytes_ + static_cast<int64_t>(output_.size() + bytes.size()) > unsent_bytes_max_) {
    cut_off_ = true;
    disconnected();
    wake();
    return false;
  }
  if (chunked_) {
    fmt::format_to(std::back_inserter(output_), "{:x}\r\n", bytes.size());
    output_ += bytes;
    output_ += "\r\n";
  } else {
    output_ += bytes;
  }
  wake();
  return true;
}

void HttpExchange::finish(bool close) {
  WEIR_CHECK(started_ && !finished_, "finish outside of a stream");
  finished_ = true;
  if (!alive_) {
    return;
  }
  close_after_ = close_after_ || close;
  if (chunked_) {
    output_ += "0\r\n\r\n";
  }
  wake();
}

std::string HttpExchange::take_output() {
  std::string taken = std::move(output_);
  output_.clear();
  in_flight_bytes_ = static_cast<int64_t>(taken.size());
  return taken;
}

void HttpExchange::disconnected() {
  if (!alive_) {
    return;
  }
  alive_ = false;
  if (!finished_ && on_disconnect_) {
    auto callback = std::move(on_disconnect_);
    on_disconnect_ = nullptr;
    callback();
  }
}

void HttpExchange::wake() {
  if (wake_) {
    wake_();
  }
}

std::string_view reason_phrase(int status) {
  switch (status) {
    case 100:
      return "Continue";
    case 200:
      return "OK";
    case 204:
      return "No Content";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 411:
      return "Length Required";
    case 413:
      return "Content Too Large";
    case 414:
      return "URI Too Long";
    case 415:
      return "Unsupported Media Type";
    case 417:
      return "Expectation Failed";
    case 422:
      return "Unprocessable Content";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Status";
  }
}

Result<std::string> percent_decode(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    const int high = i + 2 < text.size() ? hex_digit(text[i + 1]) : -1;
    const int low = i + 2 < text.size() ? hex_digit(text[i + 2]) : -1;
    if (high < 0 || low < 0 || (high == 0 && low == 0)) {
      return make_error(ErrorCode::kInvalidArgument, "broken percent escape in the request target");
    }
    out += static_cast<char>(high * 16 + low);
    i += 2;
  }
  return out;
}

Result<RequestTarget> split_target(std::string_view target) {
  for (std::string_view scheme : {"http://", "https://"}) {
    if (target.size() > scheme.size() && iequals(target.substr(0, scheme.size()), scheme)) {
      target.remove_prefix(scheme.size());
      const size_t slash = target.find_first_of("/?");
      target = slash == std::string_view::npos ? std::string_view("/") : target.substr(slash);
    }
  }
  if (target != "*" && !target.starts_with('/')) {
    return make_error(ErrorCode::kInvalidArgument, "the request target must start with '/'");
  }
  const size_t mark = target.find('?');
  RequestTarget out;
  WEIR_ASSIGN_OR_RETURN(out.path, percent_decode(target.substr(0, mark)));
  if (mark != std::string_view::npos) {
    out.query = target.substr(mark + 1);
  }
  return out;
}

std::optional<std::string> query_value(std::string_view query, std::string_view name) {
  while (!query.empty()) {
    const size_t end = query.find('&');
    const std::string_view pair = query.substr(0, end);
    const size_t equal = pair.find('=');
    if (pair.substr(0, equal) == name) {
      auto value = percent_decode(equal == std::string_view::npos ? std::string_view() : pair.substr(equal + 1));
      return value.ok() ? std::optional(std::move(value).value()) : std::nullopt;
    }
    query = end == std::string_view::npos ? std::string_view() : query.substr(end + 1);
  }
  return std::nullopt;
}

}  // namespace weir::net
