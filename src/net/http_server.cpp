#include "net/http_server.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <chrono>
#include <exception>
#include <list>
#include <unordered_set>
#include <utility>
#include <vector>

namespace weir::net {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

namespace {

// Deadlines are looked at this often; they are seconds long.
constexpr int32_t kSweepMs = 100;
// After a refusal the rest of the body is read and dropped for this long and this far, so that the client sees the
// answer instead of a reset connection.
constexpr int32_t kLingerMs = 2'000;
constexpr int64_t kLingerBytesMax = 8 * 1024 * 1024;
// A refused request with a body this small is read to its end, which keeps the connection usable.
constexpr uint64_t kSmallBodyBytes = 64 * 1024;
// Room for one read beyond the headers.
constexpr size_t kReadBytes = 16 * 1024;
// Wait before accepting again when the process is out of descriptors.
constexpr int32_t kAcceptRetryMs = 100;
// For the first request of a connection that was opened just before keep-alive ended: a slow network's round trips.
constexpr int32_t kNewConnectionMs = 1'000;

using Parser = http::request_parser<http::string_body>;

// The status that answers a request which the parser refused; 0: the connection just ended.
int status_of(const error_code& ec) {
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

}  // namespace

class HttpServer::Impl {
 public:
  Impl(HttpLimits limits, HttpHandler* handler)
      : limits_(limits), handler_(handler), io_(1), acceptor_(io_), sweep_(io_), signals_(io_) {}

  class Connection;

  Status listen(const std::string& host, int port);
  void run();
  void sweep();
  asio::awaitable<void> accept_loop();
  void refuse_connection(tcp::socket socket);
  asio::awaitable<void> tick(int32_t period_ms, std::function<void()> task);
  asio::awaitable<void> watch_readable(asio::posix::stream_descriptor descriptor, std::function<void()> task);
  asio::awaitable<void> watch_signals(std::function<void()> task);
  void stop(int32_t limit_ms);
  void close_idle(int32_t new_connection_ms);
  void end_if_done();

  const HttpLimits limits_;
  HttpHandler* const handler_;
  asio::io_context io_;
  tcp::acceptor acceptor_;
  asio::steady_timer sweep_;
  asio::signal_set signals_;
  std::unordered_set<Connection*> connections_;
  int64_t bodies_bytes_ = 0;
  int port_ = 0;
  bool keep_alive_ = true;
  bool stopping_ = false;
  steady_clock::time_point stop_deadline_;
};

// One client's connection: a coroutine reads requests one after the other and writes their responses.
class HttpServer::Impl::Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(Impl* server, tcp::socket socket)
      : server_(server), limits_(server->limits_), socket_(std::move(socket)), wake_timer_(socket_.get_executor()) {
    buffer_.max_size(static_cast<size_t>(limits_.header_bytes_max) + static_cast<size_t>(limits_.pipelined_bytes_max) +
                     kReadBytes);
  }
  ~Connection() { server_->connections_.erase(this); }

  asio::awaitable<void> serve();
  void check_deadline(steady_clock::time_point now);
  // A request that has arrived and was not read yet is still served, and a connection that never carried one may bring
  // its first within `new_connection_ms`: its client has no answer to this connection being closed.
  void close_if_idle(int32_t new_connection_ms);
  void abort_socket() {
    error_code ignored;
    socket_.close(ignored);
  }

 private:
  enum class Next { kContinue, kClose };

  asio::awaitable<bool> read_header(Parser* parser);
  asio::awaitable<bool> read_body(Parser* parser);
  asio::awaitable<Next> serve_one();
  asio::awaitable<Next> answer(std::shared_ptr<HttpExchange> exchange);
  asio::awaitable<void> refuse(HttpResponse response);
  asio::awaitable<void> refuse_error(const error_code& ec);
  asio::awaitable<void> linger();
  asio::awaitable<void> stop_watching();
  void watch_client();
  void wake() { wake_timer_.cancel(); }
  void set_deadline(int64_t ms) { deadline_ = steady_clock::now() + milliseconds(ms); }
  void clear_deadline() { deadline_ = steady_clock::time_point::max(); }

  Impl* const server_;
  const HttpLimits& limits_;
  tcp::socket socket_;
  boost::beast::flat_buffer buffer_;
  asio::steady_timer wake_timer_;  // never expires: cancelled to wake the writer
  steady_clock::time_point deadline_ = steady_clock::time_point::max();
  std::shared_ptr<HttpExchange> exchange_;
  bool idle_ = false;  // between requests, nothing read
  bool timed_out_ = false;
  bool watching_ = false;  // a read that notices the client's leaving is under way
  bool first_request_ = true;
};

namespace {

// What Beast's parser lets pass and we do not: a request without Host, or whose end two readers could see differently.
std::string_view framing_problem(const Parser& parser) {
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

Result<HttpRequest> to_request(const Parser& parser) {
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

}  // namespace

asio::awaitable<void> HttpServer::Impl::Connection::serve() {
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

asio::awaitable<bool> HttpServer::Impl::Connection::read_header(Parser* parser) {
  parser->header_limit(static_cast<uint32_t>(limits_.header_bytes_max));
  parser->body_limit(static_cast<uint64_t>(limits_.body_bytes_max));
  error_code ec;
  if (buffer_.size() == 0) {
    idle_ = true;
    set_deadline(first_request_ ? limits_.header_timeout_ms : limits_.idle_timeout_ms);
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

asio::awaitable<bool> HttpServer::Impl::Connection::read_body(Parser* parser) {
  const auto start = steady_clock::now();
  int64_t counted = 0;
  error_code ec;
  bool too_much = false;
  while (!parser->is_done() && !ec && !too_much) {
    const int64_t received = static_cast<int64_t>(parser->get().body().size());
    server_->bodies_bytes_ += received - std::exchange(counted, received);
    too_much = server_->bodies_bytes_ > limits_.bodies_bytes_max;
    deadline_ = start + milliseconds(limits_.body_timeout_ms + received * 1000 / limits_.body_bytes_per_second_min);
    co_await http::async_read_some(socket_, buffer_, *parser, asio::redirect_error(asio::use_awaitable, ec));
  }
  server_->bodies_bytes_ -= counted;
  if (too_much) {
    co_await refuse(server_->handler_->on_protocol_error(503, "too many request bodies are being read"));
  } else if (ec) {
    co_await refuse_error(ec);
  }
  co_return !ec && !too_much;
}

asio::awaitable<HttpServer::Impl::Connection::Next> HttpServer::Impl::Connection::serve_one() {
  Parser parser;
  if (!co_await read_header(&parser)) {
    co_return Next::kClose;
  }
  Result<HttpRequest> readable = to_request(parser);
  if (!readable.ok()) {
    co_await refuse(server_->handler_->on_protocol_error(400, readable.error().message));
    co_return Next::kClose;
  }
  HttpRequest request = std::move(readable).value();
  std::optional<HttpResponse> refusal = server_->handler_->on_header(request);
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
  request.keep_alive = request.keep_alive && server_->keep_alive_;
  exchange_ = std::make_shared<HttpExchange>(std::move(request), limits_.unsent_bytes_max);
  exchange_->set_wake([this] { wake(); });
  if (refusal.has_value()) {
    exchange_->respond(*refusal);
  } else {
    server_->handler_->on_request(exchange_);
  }
  const Next next = co_await answer(exchange_);
  exchange_->set_wake(nullptr);
  exchange_ = nullptr;
  co_return next;
}

// Writes what the exchange produces until the response is complete, and notices a client that leaves meanwhile.
asio::awaitable<HttpServer::Impl::Connection::Next> HttpServer::Impl::Connection::answer(
    std::shared_ptr<HttpExchange> exchange) {
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
  co_return exchange->close_after() || !server_->keep_alive_ ? Next::kClose : Next::kContinue;
}

// Reads ahead while a response is being made: an end of the stream or an error means that the client is gone.
void HttpServer::Impl::Connection::watch_client() {
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

asio::awaitable<void> HttpServer::Impl::Connection::stop_watching() {
  error_code ec;
  while (watching_) {
    socket_.cancel(ec);
    wake_timer_.expires_at(steady_clock::time_point::max());
    co_await wake_timer_.async_wait(asio::redirect_error(asio::use_awaitable, ec));
  }
}

asio::awaitable<void> HttpServer::Impl::Connection::refuse_error(const error_code& ec) {
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
  co_await refuse(server_->handler_->on_protocol_error(status, reason));
}

// Answers without having read the whole request, then ends the connection.
asio::awaitable<void> HttpServer::Impl::Connection::refuse(HttpResponse response) {
  timed_out_ = false;
  HttpRequest none;
  none.keep_alive = false;
  HttpExchange exchange(std::move(none), limits_.unsent_bytes_max);
  exchange.respond(response);
  const std::string output = exchange.take_output();
  error_code ec;
  set_deadline(limits_.write_stall_ms);
  co_await asio::async_write(socket_, asio::buffer(output), asio::redirect_error(asio::use_awaitable, ec));
  if (!ec) {
    co_await linger();
  }
}

asio::awaitable<void> HttpServer::Impl::Connection::linger() {
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

void HttpServer::Impl::Connection::check_deadline(steady_clock::time_point now) {
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

void HttpServer::Impl::Connection::close_if_idle(int32_t new_connection_ms) {
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

Status HttpServer::Impl::listen(const std::string& host, int port) {
  error_code ec;
  tcp::resolver resolver(io_);
  const auto found = resolver.resolve(host, std::to_string(port), tcp::resolver::passive, ec);
  if (ec || found.empty()) {
    return with_remedy(make_error(ErrorCode::kInvalidArgument, "cannot resolve host '{}': {}", host, ec.message()),
                       "give --host an address of this machine, e.g. 127.0.0.1 or 0.0.0.0");
  }
  const tcp::endpoint endpoint = found.begin()->endpoint();
  acceptor_.open(endpoint.protocol(), ec);
  if (!ec) {
    acceptor_.set_option(tcp::acceptor::reuse_address(true), ec);
    acceptor_.bind(endpoint, ec);
  }
  if (!ec) {
    acceptor_.listen(asio::socket_base::max_listen_connections, ec);
  }
  if (ec) {
    return with_remedy(make_error(ErrorCode::kIo, "cannot listen on {}:{}: {}", host, port, ec.message()),
                       "choose another --host or --port");
  }
  port_ = acceptor_.local_endpoint().port();
  return Ok{};
}

void HttpServer::Impl::run() {
  asio::co_spawn(io_, accept_loop(), asio::detached);
  asio::co_spawn(io_, tick(kSweepMs, [this] { sweep(); }), asio::detached);
  io_.run();
  // A connection's destructor speaks to connections_, so the coroutines that own them end first.
  for (Connection* connection : std::vector<Connection*>(connections_.begin(), connections_.end())) {
    connection->abort_socket();
  }
  io_.restart();
  io_.poll();
}

void HttpServer::Impl::sweep() {
  const auto now = steady_clock::now();
  for (Connection* connection : connections_) {
    connection->check_deadline(now);
  }
  if (stopping_) {
    end_if_done();
  }
}

asio::awaitable<void> HttpServer::Impl::accept_loop() {
  while (acceptor_.is_open()) {
    error_code ec;
    tcp::socket socket = co_await acceptor_.async_accept(asio::redirect_error(asio::use_awaitable, ec));
    if (ec == asio::error::operation_aborted || !acceptor_.is_open()) {
      co_return;
    }
    if (ec) {
      asio::steady_timer pause(io_, milliseconds(kAcceptRetryMs));
      co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, ec));
      continue;
    }
    if (connections_.size() >= static_cast<size_t>(limits_.connections_max)) {
      refuse_connection(std::move(socket));
      continue;
    }
    socket.set_option(tcp::no_delay(true), ec);
    auto connection = std::make_shared<Connection>(this, std::move(socket));
    connections_.insert(connection.get());
    asio::co_spawn(io_, [connection]() -> asio::awaitable<void> { return connection->serve(); }, asio::detached);
  }
}

// Over the limit of connections: one attempt to say so, without keeping anything.
void HttpServer::Impl::refuse_connection(tcp::socket socket) {
  HttpRequest none;
  none.keep_alive = false;
  HttpExchange exchange(std::move(none), limits_.unsent_bytes_max);
  exchange.respond(handler_->on_protocol_error(503, "too many connections"));
  const std::string output = exchange.take_output();
  error_code ec;
  socket.non_blocking(true, ec);
  socket.write_some(asio::buffer(output), ec);
  socket.shutdown(tcp::socket::shutdown_send, ec);
}

asio::awaitable<void> HttpServer::Impl::tick(int32_t period_ms, std::function<void()> task) {
  asio::steady_timer timer(io_);
  for (;;) {
    error_code ec;
    timer.expires_after(milliseconds(period_ms));
    co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ec));
    task();
  }
}

asio::awaitable<void> HttpServer::Impl::watch_readable(asio::posix::stream_descriptor descriptor,
                                                       std::function<void()> task) {
  error_code ec;
  while (!ec) {
    co_await descriptor.async_wait(asio::posix::stream_descriptor::wait_read,
                                   asio::redirect_error(asio::use_awaitable, ec));
    if (!ec) {
      task();
    }
  }
  descriptor.release();
}

asio::awaitable<void> HttpServer::Impl::watch_signals(std::function<void()> task) {
  error_code ec;
  while (!ec) {
    co_await signals_.async_wait(asio::redirect_error(asio::use_awaitable, ec));
    if (!ec) {
      task();
    }
  }
}

void HttpServer::Impl::close_idle(int32_t new_connection_ms) {
  for (Connection* connection : connections_) {
    connection->close_if_idle(new_connection_ms);
  }
}

void HttpServer::Impl::stop(int32_t limit_ms) {
  stopping_ = true;
  keep_alive_ = false;
  stop_deadline_ = steady_clock::now() + milliseconds(limit_ms);
  error_code ignored;
  acceptor_.close(ignored);
  close_idle(0);
  end_if_done();
}

void HttpServer::Impl::end_if_done() {
  if (connections_.empty() || steady_clock::now() >= stop_deadline_) {
    io_.stop();
  }
}

HttpServer::HttpServer(HttpLimits limits, HttpHandler* handler) : impl_(std::make_unique<Impl>(limits, handler)) {}
HttpServer::~HttpServer() = default;

Status HttpServer::listen(const std::string& host, int port) {
  return impl_->listen(host, port);
}
int HttpServer::port() const {
  return impl_->port_;
}
void HttpServer::run() {
  impl_->run();
}
void HttpServer::post(std::function<void()> task) {
  asio::post(impl_->io_, std::move(task));
}

void HttpServer::every(int32_t period_ms, std::function<void()> task) {
  asio::co_spawn(impl_->io_, impl_->tick(period_ms, std::move(task)), asio::detached);
}

void HttpServer::on_readable(int fd, std::function<void()> task) {
  asio::posix::stream_descriptor descriptor(impl_->io_, fd);
  asio::co_spawn(impl_->io_, impl_->watch_readable(std::move(descriptor), std::move(task)), asio::detached);
}

void HttpServer::on_signals(std::function<void()> task) {
  for (int signal : {SIGTERM, SIGINT}) {
    impl_->signals_.add(signal);
  }
  asio::co_spawn(impl_->io_, impl_->watch_signals(std::move(task)), asio::detached);
}

void HttpServer::stop(int32_t limit_ms) {
  impl_->stop(limit_ms);
}

void HttpServer::stop_keep_alive() {
  impl_->keep_alive_ = false;
  impl_->close_idle(kNewConnectionMs);
}

int32_t HttpServer::connection_count() const {
  return static_cast<int32_t>(impl_->connections_.size());
}

}  // namespace weir::net
