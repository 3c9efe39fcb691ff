// The two digests by which a hub names files.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace weir {

enum class DigestKind : uint8_t {
  kSha256,   // large files: 64 hex digits of the content
  kGitBlob,  // small ones: 40 hex digits, SHA-1 of "blob SIZE\0" and the content
};

class Digest {
 public:
  // `size`: bytes that will follow (a git blob's name depends on them).
  Digest(DigestKind kind, int64_t size);
  ~Digest();
  Digest(Digest&&) noexcept;
  Digest& operator=(Digest&&) noexcept;
  void update(std::span<const char> bytes);
  // Lower-case hex; ends the digest.
  std::string finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Lower-case hexadecimal of exactly `digits` digits: what may become a file name in the cache.
bool is_hex(std::string_view text, size_t digits);

}  // namespace weir
