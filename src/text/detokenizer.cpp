#include "text/detokenizer.h"

#include "text/unicode.h"

namespace weir {
namespace {

constexpr char32_t kReplacement = 0xFFFD;

}  // namespace

void Utf8Stream::push_byte(unsigned char byte, std::string* out) {
  if (pending_size_ > 0) {
    if (byte >= low_ && byte <= high_) {
      pending_[pending_size_++] = static_cast<char>(byte);
      low_ = 0x80;
      high_ = 0xBF;
      if (pending_size_ == needed_) {
        out->append(pending_, static_cast<size_t>(pending_size_));
        pending_size_ = 0;
      }
      return;
    }
    // What was held back cannot go on: one replacement for it, and the byte starts anew.
    finish(out);
  }
  if (byte < 0x80) {
    out->push_back(static_cast<char>(byte));
    return;
  }
  if (byte < 0xC2 || byte > 0xF4) {
    append_utf8(kReplacement, out);
    return;
  }
  needed_ = byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
  // The second byte's range shuts out overlong forms, surrogates and what lies above U+10FFFF.
  low_ = byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;
  high_ = byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF;
  pending_[0] = static_cast<char>(byte);
  pending_size_ = 1;
}

void Utf8Stream::push(std::string_view bytes, std::string* out) {
  for (const char byte : bytes) push_byte(static_cast<unsigned char>(byte), out);
}

void Utf8Stream::finish(std::string* out) {
  if (pending_size_ > 0) append_utf8(kReplacement, out);
  pending_size_ = 0;
  low_ = 0x80;
  high_ = 0xBF;
}

void Detokenizer::push(TokenId id, std::string* out) {
  if (skip_special_ && tokenizer_->is_special(id)) return;
  stream_.push(tokenizer_->bytes(id), out);
}

}  // namespace weir
