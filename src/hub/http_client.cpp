#include "hub/http_client.h"

#include <openssl/ssl.h>

#include <array>
#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl.hpp>
#include <chrono>
#include <optional>
#include <utility>

namespace weir {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using Parser = http::response_parser<http::buffer_body>;
using NetError = beast::error_code;

// A listing page of 1,000 entries has about 300 KB, an index of 190,000 tensors about 20 MB.
constexpr size_t kBodyMax = 32u << 20;
// Signed redirects run to several kilobytes.
constexpr uint32_t kHeaderMax = 64u << 10;
constexpr size_t kReadBytes = 256u << 10;

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

// One request and its reply over `Stream` (plain or TLS). Operations are asynchronous underneath, because only those
// obey the stream's time limit; each is waited for here.
template <class Stream>
class Exchange {
 public:
  Exchange(asio::io_context* context, Stream* stream, const Url& url, const HttpOptions& options)
      : context_(context), stream_(stream), url_(url), options_(options) {}

  Result<HttpReply> run(const std::vector<HttpHeader>& headers, const ChooseSink& choose_sink) {
    WEIR_RETURN_IF_ERROR(send(headers));
    parser_.header_limit(kHeaderMax);
    parser_.body_limit(boost::none);
    if (const NetError error = wait([&](auto done) { http::async_read_header(*stream_, buffer_, parser_, done); })) {
      return failed("reading the reply's head", error);
    }
    HttpReply reply;
    reply.status = parser_.get().result_int();
    for (const auto& field : parser_.get()) {
      reply.headers[lower(std::string(field.name_string()))] = std::string(field.value());
    }
    BodySink sink;
    if (choose_sink) {
      WEIR_ASSIGN_OR_RETURN(sink, choose_sink(reply));
    }
    WEIR_RETURN_IF_ERROR(read_body(&reply, sink));
    return reply;
  }

  // Runs one asynchronous operation to its end or to the time limit.
  template <class Start>
  NetError wait(Start start) {
    NetError result = asio::error::would_block;
    beast::get_lowest_layer(*stream_).expires_after(std::chrono::milliseconds(options_.idle_ms_max));
    start([&result](NetError error, auto&&...) { result = error; });
    context_->restart();
    context_->run();
    return result;
  }

  Error failed(std::string_view doing, NetError error) const {
    return make_error(ErrorCode::kUnavailable, "{}: {}: {}", url_.authority(), doing, error.message());
  }

 private:
  Status send(const std::vector<HttpHeader>& headers) {
    http::request<http::empty_body> request(http::verb::get, url_.target, 11);
    request.set(http::field::host, url_.authority());
    request.set(http::field::user_agent, "weir");
    request.set(http::field::accept_encoding, "identity");
    request.set(http::field::connection, "close");
    for (const HttpHeader& header : headers) request.set(header.name, header.value);
    if (const NetError error = wait([&](auto done) { http::async_write(*stream_, request, done); })) {
      return failed("sending the request", error);
    }
    return Ok{};
  }

  Status read_body(HttpReply* reply, const BodySink& sink) {
    std::vector<char> chunk(kReadBytes);
    while (!parser_.is_done()) {
      parser_.get().body().data = chunk.data();
      parser_.get().body().size = chunk.size();
      NetError error = wait([&](auto done) { http::async_read_some(*stream_, buffer_, parser_, done); });
      if (error == http::error::need_buffer) error = {};
      const std::span<const char> part(chunk.data(), chunk.size() - parser_.get().body().size);
      // What arrived before a failure is good: keep it, so that the transfer resumes behind it.
      if (!part.empty()) WEIR_RETURN_IF_ERROR(take(part, reply, sink));
      if (error) return failed("reading the body", error);
    }
    return Ok{};
  }

  static Status take(std::span<const char> part, HttpReply* reply, const BodySink& sink) {
    if (sink) return sink(part);
    if (reply->body.size() + part.size() > kBodyMax) {
      return make_error(ErrorCode::kTooLarge, "a reply over {} bytes", kBodyMax);
    }
    reply->body.append(part.data(), part.size());
    return Ok{};
  }

  asio::io_context* context_;
  Stream* stream_;
  const Url& url_;
  const HttpOptions& options_;
  beast::flat_buffer buffer_{kReadBytes + kHeaderMax};
  Parser parser_;
};

Result<asio::ip::tcp::resolver::results_type> resolve(asio::io_context* context, const Url& url) {
  asio::ip::tcp::resolver resolver(*context);
  NetError error;
  auto found = resolver.resolve(url.host, url.port, error);
  if (error) {
    return with_remedy(make_error(ErrorCode::kUnavailable, "{}: {}", url.host, error.message()),
                       "check the network and HF_ENDPOINT");
  }
  return found;
}

Result<HttpReply> get_plain(const Url& url, const std::vector<HttpHeader>& headers, const HttpOptions& options,
                            const ChooseSink& choose_sink) {
  asio::io_context context;
  beast::tcp_stream stream(context);
  WEIR_ASSIGN_OR_RETURN(const auto addresses, resolve(&context, url));
  Exchange<beast::tcp_stream> exchange(&context, &stream, url, options);
  if (const NetError error = exchange.wait([&](auto done) { stream.async_connect(addresses, done); })) {
    return exchange.failed("connecting", error);
  }
  return exchange.run(headers, choose_sink);
}

Result<HttpReply> get_tls(const Url& url, const std::vector<HttpHeader>& headers, const HttpOptions& options,
                          const ChooseSink& choose_sink) {
  asio::io_context context;
  asio::ssl::context tls(asio::ssl::context::tls_client);
  NetError error;
  tls.set_default_verify_paths(error);
  if (!options.ca_file.empty()) tls.load_verify_file(options.ca_file, error);
  if (error) return make_error(ErrorCode::kIo, "loading certificate authorities: {}", error.message());
  tls.set_verify_mode(asio::ssl::verify_peer);
  SSL_CTX_set_min_proto_version(tls.native_handle(), TLS1_2_VERSION);

  beast::ssl_stream<beast::tcp_stream> stream(context, tls);
  stream.set_verify_callback(asio::ssl::host_name_verification(url.host));
  SSL_set_tlsext_host_name(stream.native_handle(), url.host.c_str());
  WEIR_ASSIGN_OR_RETURN(const auto addresses, resolve(&context, url));
  Exchange<beast::ssl_stream<beast::tcp_stream>> exchange(&context, &stream, url, options);
  error = exchange.wait([&](auto done) { beast::get_lowest_layer(stream).async_connect(addresses, done); });
  if (error) return exchange.failed("connecting", error);
  error = exchange.wait([&](auto done) { stream.async_handshake(asio::ssl::stream_base::client, done); });
  if (error) {
    return with_remedy(exchange.failed("TLS handshake", error),
                       "the server's certificate must be valid for its name; are ca-certificates installed?");
  }
  return exchange.run(headers, choose_sink);
}

}  // namespace

std::string HttpReply::header(const std::string& name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? std::string() : found->second;
}

Result<HttpReply> http_get(const Url& url, const std::vector<HttpHeader>& headers, const HttpOptions& options,
                           const ChooseSink& choose_sink) {
  return url.tls ? get_tls(url, headers, options, choose_sink) : get_plain(url, headers, options, choose_sink);
}

}  // namespace weir
