// Streaming detokenizer: tokens in, whole code points out.
#pragma once

#include <string>
#include <string_view>

#include "text/tokenizer.h"

namespace weir {

// Turns any byte stream into valid UTF-8 piece by piece. Each maximal invalid part becomes one U+FFFD (the Unicode
// standard's "substitution of maximal subparts"), so the pieces add up to the lossy decode of the whole.
class Utf8Stream {
 public:
  // Appends to `out` the code points that `bytes` completes; keeps at most 3 bytes of an unfinished one.
  void push(std::string_view bytes, std::string* out);

  // Ends the stream: an unfinished code point becomes U+FFFD. The object may be used again from the start.
  void finish(std::string* out);

  // Bytes held back until the code point is whole, 0 to 3.
  int pending() const { return pending_size_; }

 private:
  void push_byte(unsigned char byte, std::string* out);

  char pending_[4] = {};
  int pending_size_ = 0;
  int needed_ = 0;            // bytes the code point has in all
  unsigned char low_ = 0x80;  // the range that the next byte must be in
  unsigned char high_ = 0xBF;
};

// One per generated sequence. `tokenizer` must outlive it. Not thread-safe.
class Detokenizer {
 public:
  Detokenizer(const Tokenizer* tokenizer, bool skip_special) : tokenizer_(tokenizer), skip_special_(skip_special) {}

  // Appends the text that `id` completes, possibly none. Never half a code point.
  void push(TokenId id, std::string* out);

  // Appends what is left (U+FFFD for an unfinished code point). All output together equals Tokenizer::decode().
  void finish(std::string* out) { stream_.finish(out); }

  // Whether text is held back because the last code point is unfinished.
  bool holds_back() const { return stream_.pending() > 0; }

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  Utf8Stream stream_;
};

}  // namespace weir
