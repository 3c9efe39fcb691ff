// For tests: an HTTP/1.1 server on a loopback port that answers by a function, one connection at a time.
#pragma once

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace weir {

struct TestRequest {
  std::string target;
  std::map<std::string, std::string> headers;  // names in lower case
};

struct TestReply {
  int status = 200;
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;
  // Body bytes after which the connection is closed although more were announced; negative: none.
  int64_t cut_after = -1;
};

class TestServer {
 public:
  using Handler = std::function<TestReply(const TestRequest&)>;
  // With a certificate and key (PEM) the server speaks TLS.
  explicit TestServer(Handler handler, const std::string& certificate = {}, const std::string& key = {});
  ~TestServer();
  int port() const { return port_; }
  // "http://127.0.0.1:PORT".
  std::string url() const;
  std::vector<TestRequest> requests() const;

 private:
  void run();
  template <class Stream>
  void serve(Stream* stream);

  Handler handler_;
  boost::asio::io_context context_;
  boost::asio::ip::tcp::acceptor acceptor_;
  std::unique_ptr<boost::asio::ssl::context> tls_;
  int port_ = 0;
  std::atomic<bool> stopping_ = false;
  mutable std::mutex mutex_;
  std::vector<TestRequest> requests_;
  std::thread thread_;
};

// A self-signed certificate for the DNS name, and its key, as PEM.
struct TestCertificate {
  std::string certificate;
  std::string key;
};
TestCertificate make_certificate(const std::string& name);

}  // namespace weir
