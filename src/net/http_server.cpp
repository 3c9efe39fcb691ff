#include "net/http_server.h"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <csignal>
#include <utility>
#include <vector>

#include "net/http_connection.h"
#include "net/http_framing.h"

namespace weir::net {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

namespace {

// Deadlines are looked at this often; they are seconds long.
constexpr int32_t kSweepMs = 100;
// Wait before accepting again when the process is out of descriptors.
constexpr int32_t kAcceptRetryMs = 100;

}  // namespace

class HttpServer::Impl {
 public:
  Impl(HttpLimits limits, HttpHandler* handler)
      : connections_{.limits = limits, .handler = handler}, io_(1), acceptor_(io_), signals_(io_) {}

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

  HttpConnections connections_;  // before the loop, whose coroutines own the connections
  asio::io_context io_;
  tcp::acceptor acceptor_;
  asio::signal_set signals_;
  int port_ = 0;
  bool stopping_ = false;
  steady_clock::time_point stop_deadline_;
};

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
  for (HttpConnection* connection : std::vector<HttpConnection*>(connections_.open.begin(), connections_.open.end())) {
    connection->abort_socket();
  }
  io_.restart();
  io_.poll();
}

void HttpServer::Impl::sweep() {
  const auto now = steady_clock::now();
  for (HttpConnection* connection : connections_.open) {
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
    if (connections_.open.size() >= static_cast<size_t>(connections_.limits.connections_max)) {
      refuse_connection(std::move(socket));
      continue;
    }
    socket.set_option(tcp::no_delay(true), ec);
    auto connection = std::make_shared<HttpConnection>(&connections_, std::move(socket));
    asio::co_spawn(io_, [connection]() -> asio::awaitable<void> { return connection->serve(); }, asio::detached);
  }
}

// Over the limit of connections: one attempt to say so, without keeping anything.
void HttpServer::Impl::refuse_connection(tcp::socket socket) {
  const std::string output = closing_bytes(connections_.handler->on_protocol_error(503, "too many connections"),
                                           connections_.limits.unsent_bytes_max);
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
  for (HttpConnection* connection : connections_.open) {
    connection->close_if_idle(new_connection_ms);
  }
}

void HttpServer::Impl::stop(int32_t limit_ms) {
  stopping_ = true;
  connections_.keep_alive = false;
  stop_deadline_ = steady_clock::now() + milliseconds(limit_ms);
  error_code ignored;
  acceptor_.close(ignored);
  close_idle(0);
  end_if_done();
}

void HttpServer::Impl::end_if_done() {
  if (connections_.open.empty() || steady_clock::now() >= stop_deadline_) {
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
  impl_->connections_.keep_alive = false;
  impl_->close_idle(impl_->connections_.limits.new_connection_ms);
}

int32_t HttpServer::connection_count() const {
  return static_cast<int32_t>(impl_->connections_.open.size());
}

}  // namespace weir::net
