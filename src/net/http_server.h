// The HTTP/1.1 server: one thread runs the event loop, every wait and every buffer has a limit.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "net/http.h"

namespace weir::net {

struct HttpLimits {
  int32_t connections_max = 4096;                // an open connection costs under 16 KiB while idle
  int32_t header_bytes_max = 32 * 1024;          // 431 above; cookies and tokens of real clients stay under 16 KiB
  int64_t body_bytes_max = 16 * 1024 * 1024;     // 413 above; 4 M tokens of text
  int64_t bodies_bytes_max = 256 * 1024 * 1024;  // all bodies being read, together; 503 above
  int32_t header_timeout_ms = 10'000;            // from the first byte (or the accept) to the last header: 408
  int32_t body_timeout_ms = 10'000;              // a body may take this long plus its bytes over the minimum rate: 408
  int32_t body_bytes_per_second_min = 4096;      // the slowest mobile links are above this
  int32_t idle_timeout_ms = 75'000;              // keep-alive; must outlive the pools of clients (15 to 60 s)
  int32_t new_connection_ms = 1'000;             // for the first request, once keep-alive has ended: a few round trips
  int32_t write_stall_ms = 60'000;               // no byte accepted by the client for this long: cut off
  int64_t unsent_bytes_max = 1024 * 1024;        // of one stream; a slower reader is cut off
  int32_t pipelined_bytes_max = 64 * 1024;       // read ahead while a response is being made; closed above
};

// What the server does with requests. Every call is made on the loop's thread and must not block.
class HttpHandler {
 public:
  virtual ~HttpHandler() = default;

  // The headers are read, the body is not: a response refuses the request without reading a large body.
  virtual std::optional<HttpResponse> on_header(const HttpRequest& request) = 0;

  // A whole request. The handler answers now or later through the exchange.
  // Shared: the connection and the work under way may each outlive the other.
  virtual void on_request(std::shared_ptr<HttpExchange> exchange) = 0;

  // The response for a request that broke the protocol or a limit (400, 408, 413, 431, 503, ...).
  virtual HttpResponse on_protocol_error(int status, std::string_view reason) = 0;
};

class HttpServer {
 public:
  // `handler` must outlive the server.
  HttpServer(HttpLimits limits, HttpHandler* handler);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Binds and listens; port 0 picks a free one. An error names host, port and the system's reason.
  Status listen(const std::string& host, int port);
  // The bound port.
  int port() const;

  // Runs the loop on the calling thread until the server has stopped.
  void run();

  // Runs `task` on the loop's thread. Callable from any thread.
  void post(std::function<void()> task);
  // Runs `task` on the loop's thread every `period_ms` until the server stops. Call before run().
  void every(int32_t period_ms, std::function<void()> task);
  // Calls `task` on the loop's thread whenever `fd` is readable; it must read it empty. Call before run().
  void on_readable(int fd, std::function<void()> task);
  // Calls `task` on the loop's thread for each SIGTERM or SIGINT. Call before run().
  void on_signals(std::function<void()> task);

  // --- on the loop's thread ---
  // Closes the listener and idle connections; run() returns when the last response is flushed or `limit_ms` have
  // passed.
  void stop(int32_t limit_ms);
  // From now on each response ends its connection, and idle connections are closed; a connection that has carried no
  // request yet has `new_connection_ms` to bring one.
  void stop_keep_alive();
  int32_t connection_count() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace weir::net
