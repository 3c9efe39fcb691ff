#include "net/http_connection.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/read.hpp>
#include <exception>
#include <optional>
#include <string>
#include <utility>

namespace weir::net {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

namespace {

// After a refusal the rest of the body is read and dropped for this long and this far, so that the client sees the
// answer instead of a reset connection.
constexpr int32_t kLingerMs = 2'000;
constexpr int64_t kLingerBytesMax = 8 * 1024 * 1024;
// A refused request with a body this small is read to its end, which keeps the connection usable.
constexpr uint64_t kSmallBodyBytes = 64 * 1024;
// Room for one read beyond the headers.
constexpr size_t kReadBytes = 16 * 1024;
// Line ends allowed in front of a request: a client that sends one behind each body may also send it twice.
constexpr int32_t kEmptyLinesMax = 4;

}  // namespace

HttpConnection::HttpConnection(HttpConnections* connections, tcp::socket socket)
    : connections_(connections),
      limits_(connections->limits),
      socket_(std::move(socket)),
      wake_timer_(socket_.get_executor()) {
  buffer_.max_size(static_cast<size_t>(limits_.header_bytes_max) + static_cast<size_t>(limits_.pipelined_bytes_max) +
                   kReadBytes);
  connections_->open.insert(this);
}

HttpConnection::~HttpConnection() {
  connections_->open.erase(this);
}

asio::awaitable<void> HttpConnection::serve() {
  auto self = shared_from_this();  // the coroutine owns the connection
  try {
    while (socket_.is_open() && co_await serve_one() == Next::kContinue) {
    }
    if (socket_.is_open()) {
      error_code ignored;
      socket_.shutdown(tcp::socket::shutdown_send, ignored);
    }
  } catch (const std::exception&) {
    // Out of memory or a fault of the library: this connection ends, the others go on.
  }
  if (exchange_ != nullptr) {
    exchange_->set_wake(nullptr);
    exchange_->disconnected();
  }
  abort_socket();
}

asio::awaitable<bool> HttpConnection::read_header(RequestParser* parser) {
  parser->header_limit(static_cast<uint32_t>(limits_.header_bytes_max));
  parser->body_limit(static_cast<uint64_t>(limits_.body_bytes_max));
  error_code ec;
  // Once: line ends in front of a request are no reason to wait longer for it.
  set_deadline(first_request_ ? limits_.header_timeout_ms : limits_.idle_timeout_ms);
  for (int32_t dropped = drop_empty_lines(0); needs_request_line(dropped); dropped = drop_empty_lines(dropped)) {
    idle_ = true;
    const size_t count =
        co_await socket_.async_read_some(buffer_.prepare(kReadBytes), asio::redirect_error(asio::use_awaitable, ec));
    idle_ = false;
    if (ec) {
      co_return false;  // gone, or idle for too long: nothing to say
    }
    buffer_.commit(count);
  }
  first_request_ = false;
  set_deadline(limits_.header_timeout_ms);
  co_await http::async_read_header(socket_, buffer_, *parser, asio::redirect_error(asio::use_awaitable, ec));
  if (ec) {
    co_await refuse_error(ec);
    co_return false;
  }
  co_return true;
}

// Drops line ends in front of a request, which clients of old send behind a body (RFC 9112, 2.2). Returns how many were
// dropped, those `dropped` before among them; what is beyond the bound is left for the parser to refuse.
int32_t HttpConnection::drop_empty_lines(int32_t dropped) {
  constexpr std::string_view kLineEnd = "\r\n";
  const auto begins_with_line_end = [this, kLineEnd] {
    return std::string_view(static_cast<const char*>(buffer_.data().data()), buffer_.size()).starts_with(kLineEnd);
  };
  for (; dropped < kEmptyLinesMax && begins_with_line_end(); ++dropped) {
    buffer_.consume(kLineEnd.size());
  }
  return dropped;
}

// Whether nothing of the request's first line is here yet.
bool HttpConnection::needs_request_line(int32_t dropped) const {
  const auto* bytes = static_cast<const char*>(buffer_.data().data());
  return buffer_.size() == 0 || (dropped < kEmptyLinesMax && buffer_.size() == 1 && bytes[0] == '\r');
}

asio::awaitable<bool> HttpConnection::read_body(RequestParser* parser) {
  const auto start = steady_clock::now();
  int64_t counted = 0;
  error_code ec;
  bool too_much = false;
  while (!parser->is_done() && !ec && !too_much) {
    const int64_t received = static_cast<int64_t>(parser->get().body().size());
    connections_->bodies_bytes += received - std::exchange(counted, received);
    too_much = connections_->bodies_bytes > limits_.bodies_bytes_max;
    deadline_ = start + milliseconds(limits_.body_timeout_ms + received * 1000 / limits_.body_bytes_per_second_min);
    co_await http::async_read_some(socket_, buffer_, *parser, asio::redirect_error(asio::use_awaitable, ec));
  }
  connections_->bodies_bytes -= counted;
  if (too_much) {
    co_await refuse(connections_->handler->on_protocol_error(503, "too many request bodies are being read"));
  } else if (ec) {
    co_await refuse_error(ec);
  }
  co_return !ec && !too_much;
}

asio::awaitable<HttpConnection::Next> HttpConnection::serve_one() {
  RequestParser parser;
  if (!co_await read_header(&parser)) {
    co_return Next::kClose;
  }
  Result<HttpRequest> readable = to_request(parser);
  if (!readable.ok()) {
    co_await refuse(connections_->handler->on_protocol_error(400, readable.error().message));
    co_return Next::kClose;
  }
  HttpRequest request = std::move(readable).value();
  std::optional<HttpResponse> refusal = connections_->handler->on_header(request);
  const auto length = parser.content_length();
  const bool small = parser.is_done() || (length.has_value() && *length <= kSmallBodyBytes);
  const bool expects = iequals(request.header("Expect").value_or(""), "100-continue");
  if (refusal.has_value() && (!small || (expects && !parser.is_done()))) {
    co_await refuse(std::move(*refusal));
    co_return Next::kClose;
  }
  if (expects && !parser.is_done() && !request.http_1_0) {
    error_code ec;
    co_await asio::async_write(socket_, asio::buffer("HTTP/1.1 100 Continue\r\n\r\n", 25),
                               asio::redirect_error(asio::use_awaitable, ec));
  }
  if (!co_await read_body(&parser)) {
    co_return Next::kClose;
  }
  clear_deadline();
  request.body = std::move(parser.get().body());
  request.keep_alive = request.keep_alive && connections_->keep_alive;
  exchange_ = std::make_shared<HttpExchange>(std::move(request), limits_.unsent_bytes_max);
  exchange_->set_wake([this] { wake(); });
  if (refusal.has_value()) {
    exchange_->respond(*refusal);
  } else {
    connections_->handler->on_request(exchange_);
  }
  const Next next = co_await answer(exchange_);
  exchange_->set_wake(nullptr);
  exchange_ = nullptr;
  co_return next;
}

// Writes what the exchange produces until the response is complete, and notices a client that leaves meanwhile.
asio::awaitable<HttpConnection::Next> HttpConnection::answer(std::shared_ptr<HttpExchange> exchange) {
  error_code ec;
  if (!exchange->finished()) {
    watch_client();
  }
  while (exchange->alive() && (!exchange->finished() || exchange->has_output())) {
    if (!exchange->has_output()) {
      clear_deadline();
      wake_timer_.expires_at(steady_clock::time_point::max());
      co_await wake_timer_.async_wait(asio::redirect_error(asio::use_awaitable, ec));
      continue;
    }
    std::string output = exchange->take_output();
    size_t written = 0;
    while (written < output.size() && exchange->alive()) {
      set_deadline(limits_.write_stall_ms);
      written += co_await socket_.async_write_some(asio::buffer(output.data() + written, output.size() - written),
                                                   asio::redirect_error(asio::use_awaitable, ec));
      if (ec) {
        exchange->disconnected();
      }
    }
    exchange->sent();
  }
  clear_deadline();
  co_await stop_watching();
  if (!exchange->alive()) {
    abort_socket();
    co_return Next::kClose;
  }
  co_return exchange->close_after() || !connections_->keep_alive ? Next::kClose : Next::kContinue;
}

// Reads ahead while a response is being made: an end of the stream or an error means that the client is gone.
void HttpConnection::watch_client() {
  if (buffer_.size() >= static_cast<size_t>(limits_.pipelined_bytes_max)) {
    exchange_->disconnected();
    wake();
    return;
  }
  watching_ = true;
  socket_.async_read_some(buffer_.prepare(kReadBytes), [self = shared_from_this()](error_code ec, size_t count) {
    self->watching_ = false;
    self->buffer_.commit(count);
    if (self->exchange_ == nullptr || self->exchange_->finished()) {
      self->wake();
      return;
    }
    if (ec) {
      self->exchange_->disconnected();
      self->wake();
      return;
    }
    self->watch_client();
  });
}

asio::awaitable<void> HttpConnection::stop_watching() {
  error_code ec;
  while (watching_) {
    socket_.cancel(ec);
    wake_timer_.expires_at(steady_clock::time_point::max());
    co_await wake_timer_.async_wait(asio::redirect_error(asio::use_awaitable, ec));
  }
}

asio::awaitable<void> HttpConnection::refuse_error(const error_code& ec) {
  const int status = timed_out_ ? 408 : status_of(ec);
  if (status == 0) {
    co_return;
  }
  std::string reason = ec.message();
  if (status == 408) {
    reason = "the request arrived too slowly";
  } else if (status == 413) {
    reason = fmt::format("the body is larger than {} bytes", limits_.body_bytes_max);
  } else if (status == 431) {
    reason = fmt::format("the request line and headers are larger than {} bytes", limits_.header_bytes_max);
  } else {
    reason = fmt::format("malformed HTTP: {}", reason);
  }
  co_await refuse(connections_->handler->on_protocol_error(status, reason));
}

// Answers without having read the whole request, then ends the connection.
asio::awaitable<void> HttpConnection::refuse(HttpResponse response) {
  timed_out_ = false;
  const std::string output = closing_bytes(response, limits_.unsent_bytes_max);
  error_code ec;
  set_deadline(limits_.write_stall_ms);
  co_await asio::async_write(socket_, asio::buffer(output), asio::redirect_error(asio::use_awaitable, ec));
  if (!ec) {
    co_await linger();
  }
}

asio::awaitable<void> HttpConnection::linger() {
  error_code ec;
  socket_.shutdown(tcp::socket::shutdown_send, ec);
  buffer_.clear();
  set_deadline(kLingerMs);
  int64_t dropped = 0;
  while (!ec && dropped < kLingerBytesMax) {
    dropped += static_cast<int64_t>(
        co_await socket_.async_read_some(buffer_.prepare(kReadBytes), asio::redirect_error(asio::use_awaitable, ec)));
  }
}

void HttpConnection::check_deadline(steady_clock::time_point now) {
  if (now < deadline_) {
    return;
  }
  clear_deadline();
  timed_out_ = true;
  if (idle_ || exchange_ != nullptr) {
    abort_socket();  // nothing can be said, or the client does not read
    return;
  }
  error_code ignored;
  socket_.cancel(ignored);  // the read under way ends, and its coroutine answers 408
}

void HttpConnection::close_if_idle(int32_t new_connection_ms) {
  error_code ec;
  if (!idle_ || (socket_.available(ec) > 0 && !ec)) {
    return;
  }
  if (first_request_ && new_connection_ms > 0) {
    deadline_ = std::min(deadline_, steady_clock::now() + milliseconds(new_connection_ms));
    return;
  }
  abort_socket();
}

void HttpConnection::abort_socket() {
  error_code ignored;
  socket_.close(ignored);
}

}  // namespace weir::net
