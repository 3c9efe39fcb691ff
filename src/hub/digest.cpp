#include "hub/digest.h"

#include <fmt/core.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>

#include "base/check.h"

namespace weir {

struct Digest::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

Digest::Digest(DigestKind kind, int64_t size) : state_(std::make_unique<State>()) {
  const EVP_MD* algorithm = kind == DigestKind::kSha256 ? EVP_sha256() : EVP_sha1();
  WEIR_CHECK(state_->context != nullptr && EVP_DigestInit_ex(state_->context, algorithm, nullptr) == 1);
  if (kind == DigestKind::kGitBlob) {
    const std::string head = fmt::format("blob {}", size);
    update({head.data(), head.size() + 1});  // the NUL is part of it
  }
}

Digest::~Digest() = default;
Digest::Digest(Digest&&) noexcept = default;
Digest& Digest::operator=(Digest&&) noexcept = default;

void Digest::update(std::span<const char> bytes) {
  WEIR_CHECK(EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) == 1);
}

std::string Digest::finish() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> bytes = {};
  unsigned count = 0;
  WEIR_CHECK(EVP_DigestFinal_ex(state_->context, bytes.data(), &count) == 1);
  std::string hex;
  for (unsigned i = 0; i < count; ++i) hex += fmt::format("{:02x}", bytes[i]);
  return hex;
}

bool is_hex(std::string_view text, size_t digits) {
  return text.size() == digits &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

}  // namespace weir
