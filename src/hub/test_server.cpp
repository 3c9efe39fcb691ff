#include "hub/test_server.h"

#include <fmt/core.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <boost/asio/read_until.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/streambuf.hpp>
#include <boost/asio/write.hpp>
#include <istream>

#include "base/check.h"

namespace weir {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using Tcp = asio::ip::tcp;

TestRequest read_request(std::istream* in) {
  TestRequest request;
  std::string method;
  std::string version;
  *in >> method >> request.target >> version;
  std::string line;
  std::getline(*in, line);
  while (std::getline(*in, line) && line.size() > 1) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    std::string name = line.substr(0, colon);
    for (char& c : name) c = static_cast<char>(std::tolower(c));
    request.headers[name] = line.substr(colon + 2, line.size() - colon - 3);  // without ": " and "\r"
  }
  return request;
}

std::string pem(const std::function<int(BIO*)>& write) {
  BIO* memory = BIO_new(BIO_s_mem());
  WEIR_CHECK(write(memory) == 1);
  char* data = nullptr;
  const long size = BIO_get_mem_data(memory, &data);
  std::string text(data, static_cast<size_t>(size));
  BIO_free(memory);
  return text;
}

}  // namespace

TestServer::TestServer(Handler handler, const std::string& certificate, const std::string& key)
    : handler_(std::move(handler)), acceptor_(context_, Tcp::endpoint(asio::ip::address_v4::loopback(), 0)) {
  port_ = acceptor_.local_endpoint().port();
  if (!certificate.empty()) {
    tls_ = std::make_unique<asio::ssl::context>(asio::ssl::context::tls_server);
    tls_->use_certificate_chain(asio::buffer(certificate));
    tls_->use_private_key(asio::buffer(key), asio::ssl::context::pem);
  }
  thread_ = std::thread([this] { run(); });
}

TestServer::~TestServer() {
  stopping_ = true;
  // The accepting thread wakes up by one more connection.
  error_code ignored;
  Tcp::socket wake(context_);
  wake.connect(Tcp::endpoint(asio::ip::address_v4::loopback(), static_cast<uint16_t>(port_)), ignored);
  thread_.join();
}

std::string TestServer::url() const {
  return fmt::format("http://127.0.0.1:{}", port_);
}

std::vector<TestRequest> TestServer::requests() const {
  const std::lock_guard lock(mutex_);
  return requests_;
}

void TestServer::run() {
  while (true) {
    error_code error;
    Tcp::socket socket = acceptor_.accept(error);
    if (stopping_ || error) return;
    if (!tls_) {
      serve(&socket);
      continue;
    }
    asio::ssl::stream<Tcp::socket> stream(std::move(socket), *tls_);
    stream.handshake(asio::ssl::stream_base::server, error);
    if (!error) serve(&stream);
    stream.shutdown(error);
  }
}

template <class Stream>
void TestServer::serve(Stream* stream) {
  asio::streambuf buffer;
  error_code error;
  asio::read_until(*stream, buffer, "\r\n\r\n", error);
  if (error) return;
  std::istream in(&buffer);
  const TestRequest request = read_request(&in);
  {
    const std::lock_guard lock(mutex_);
    requests_.push_back(request);
  }
  const TestReply reply = handler_(request);
  std::string text =
      fmt::format("HTTP/1.1 {} x\r\nContent-Length: {}\r\nConnection: close\r\n", reply.status, reply.body.size());
  for (const auto& [name, value] : reply.headers) text += name + ": " + value + "\r\n";
  text += "\r\n";
  text += reply.cut_after < 0 ? reply.body : reply.body.substr(0, static_cast<size_t>(reply.cut_after));
  asio::write(*stream, asio::buffer(text), error);
}

TestCertificate make_certificate(const std::string& name) {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  X509* certificate = X509_new();
  WEIR_CHECK(key != nullptr && certificate != nullptr);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
  X509_set_version(certificate, 2);
  X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
  X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
  X509_set_pubkey(certificate, key);
  X509_NAME* subject = X509_get_subject_name(certificate);
  X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1,
                             0);
  X509_set_issuer_name(certificate, subject);
  X509_EXTENSION* names = X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, ("DNS:" + name).c_str());
  X509_add_ext(certificate, names, -1);
  X509_EXTENSION_free(names);
  WEIR_CHECK(X509_sign(certificate, key, EVP_sha256()) > 0);
  TestCertificate made;
  made.certificate = pem([&](BIO* out) { return PEM_write_bio_X509(out, certificate); });
  made.key = pem([&](BIO* out) { return PEM_write_bio_PrivateKey(out, key, nullptr, nullptr, 0, nullptr, nullptr); });
  X509_free(certificate);
  EVP_PKEY_free(key);
  return made;
}

}  // namespace weir
