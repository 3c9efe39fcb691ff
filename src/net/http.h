// HTTP/1.1 as plain values, and one exchange between a connection and a handler. No socket and no library type here.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace weir::net {

struct HttpHeader {
  std::string name;
  std::string value;
};

// A request as read from the wire. `path` is percent-decoded, `query` is the raw text behind '?'.
struct HttpRequest {
  std::string method;
  std::string path;
  std::string query;
  std::vector<HttpHeader> headers;
  std::string body;
  bool http_1_0 = false;
  bool keep_alive = true;  // what the client asked for

  // The first header of that name (any case), or nullopt.
  std::optional<std::string_view> header(std::string_view name) const;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::vector<HttpHeader> headers;
  std::string body;
  bool close = false;  // end the connection behind this response
};

// One request and its response. Belongs to the event loop's thread: every call is made there.
//
// Exactly one of respond() and start_stream() answers; a stream ends with finish(). Output collects in a bounded buffer
// that the connection empties; a client that reads too slowly to keep it under the bound is cut off (see write()).
class HttpExchange {
 public:
  // `unsent_bytes_max`: the bound of the stream buffer.
  HttpExchange(HttpRequest request, int64_t unsent_bytes_max);

  const HttpRequest& request() const { return request_; }
  HttpRequest& mutable_request() { return request_; }

  // Answers with a whole body. No effect once the client is gone.
  void respond(const HttpResponse& response);

  // Sends the status line and headers of a chunked response (of one that ends with the connection for HTTP/1.0).
  void start_stream(const HttpResponse& head);
  // Adds bytes to the stream. False if the client is gone or was cut off for reading too slowly: stop producing.
  bool write(std::string_view bytes);
  // Raises the bound of the stream buffer by `bytes`, for a frame that is large by nature (an echoed prompt).
  void allow_unsent(int64_t bytes) { unsent_bytes_max_ += bytes; }
  // Ends the stream; `close` ends the connection too.
  void finish(bool close = false);

  // True until the client has gone away or was cut off.
  bool alive() const { return alive_; }
  // True if the client was cut off for reading too slowly.
  bool cut_off() const { return cut_off_; }
  // True once the response is complete in the buffer.
  bool finished() const { return finished_; }
  bool started() const { return started_; }

  // Called once, on the loop's thread, if the client goes away before the response is complete.
  void on_disconnect(std::function<void()> callback) { on_disconnect_ = std::move(callback); }

  // --- the connection's side ---
  void set_wake(std::function<void()> wake) { wake_ = std::move(wake); }
  // Moves the unsent bytes out; they count as unsent until sent() is called.
  std::string take_output();
  void sent() { in_flight_bytes_ = 0; }
  bool has_output() const { return !output_.empty(); }
  bool close_after() const { return close_after_; }
  // The client is gone: calls on_disconnect if the response is not complete.
  void disconnected();

 private:
  void append_head(const HttpResponse& response, std::optional<size_t> content_length);
  void wake();

  HttpRequest request_;
  int64_t unsent_bytes_max_;
  std::string output_;
  int64_t in_flight_bytes_ = 0;
  bool alive_ = true;
  bool cut_off_ = false;
  bool started_ = false;
  bool finished_ = false;
  bool chunked_ = false;
  bool close_after_ = false;
  std::function<void()> on_disconnect_;
  std::function<void()> wake_;
};

// The reason phrase of a status code.
std::string_view reason_phrase(int status);

// "%41" -> "A". An error for a broken escape or an encoded NUL.
Result<std::string> percent_decode(std::string_view text);

// Splits a request target (origin form, or absolute form whose authority is dropped) into path and query.
struct RequestTarget {
  std::string path;
  std::string query;
};
Result<RequestTarget> split_target(std::string_view target);

// The value of `name` in a query string, percent-decoded; nullopt if absent or broken.
std::optional<std::string> query_value(std::string_view query, std::string_view name);

// Equal ignoring ASCII case.
bool iequals(std::string_view a, std::string_view b);

}  // namespace weir::net
