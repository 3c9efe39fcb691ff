// One client's connection, and what the connections of a server share. Everything is on the loop's thread.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/system/error_code.hpp>
#include <chrono>
#include <cstdint>
#include <memory>
#include <unordered_set>

#include "net/http_framing.h"
#include "net/http_server.h"

namespace weir::net {

class HttpConnection;

// What a server's connections share. It outlives them.
struct HttpConnections {
  const HttpLimits limits;
  HttpHandler* const handler;
  std::unordered_set<HttpConnection*> open = {};
  int64_t bodies_bytes = 0;  // of all bodies being read
  bool keep_alive = true;
};

// A coroutine reads requests one after the other and writes their responses.
class HttpConnection : public std::enable_shared_from_this<HttpConnection> {
 public:
  // Enters itself into `connections->open`, and leaves it at the end.
  HttpConnection(HttpConnections* connections, boost::asio::ip::tcp::socket socket);
  ~HttpConnection();
  HttpConnection(const HttpConnection&) = delete;
  HttpConnection& operator=(const HttpConnection&) = delete;

  // Until the connection ends. The coroutine owns the connection.
  boost::asio::awaitable<void> serve();
  void check_deadline(std::chrono::steady_clock::time_point now);
  // A request that has arrived and was not read yet is still served, and a connection that never carried one may bring
  // its first within `new_connection_ms`: its client has no answer to this connection being closed.
  void close_if_idle(int32_t new_connection_ms);
  void abort_socket();

 private:
  enum class Next { kContinue, kClose };

  boost::asio::awaitable<bool> read_header(RequestParser* parser);
  int32_t drop_empty_lines(int32_t dropped);
  bool needs_request_line(int32_t dropped) const;
  boost::asio::awaitable<bool> read_body(RequestParser* parser);
  boost::asio::awaitable<Next> serve_one();
  boost::asio::awaitable<Next> answer(std::shared_ptr<HttpExchange> exchange);
  boost::asio::awaitable<void> refuse(HttpResponse response);
  boost::asio::awaitable<void> refuse_error(const boost::system::error_code& ec);
  boost::asio::awaitable<void> linger();
  boost::asio::awaitable<void> stop_watching();
  void watch_client();
  void wake() { wake_timer_.cancel(); }
  void set_deadline(int64_t ms) { deadline_ = std::chrono::steady_clock::now() + std::chrono::milliseconds(ms); }
  void clear_deadline() { deadline_ = std::chrono::steady_clock::time_point::max(); }

  HttpConnections* const connections_;
  const HttpLimits& limits_;
  boost::asio::ip::tcp::socket socket_;
  boost::beast::flat_buffer buffer_;
  boost::asio::steady_timer wake_timer_;  // never expires: cancelled to wake the writer
  std::chrono::steady_clock::time_point deadline_ = std::chrono::steady_clock::time_point::max();
  std::shared_ptr<HttpExchange> exchange_;
  bool idle_ = false;  // between requests, nothing read
  bool timed_out_ = false;
  bool watching_ = false;  // a read that notices the client's leaving is under way
  bool first_request_ = true;
};

}  // namespace weir::net
