// Fuzzes the tokenizer.json parser and, with what loads, encoding and streaming decoding.
// Input: a text, a zero byte, and a tokenizer.json; without a zero byte all of it is the tokenizer.json.
#include <cstdlib>
#include <string>
#include <string_view>

#include "text/detokenizer.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

void check_text(const weir::Tokenizer& tokenizer, std::string_view text) {
  const auto ids = tokenizer.encode(text);
  require(!weir::find_invalid_utf8(text).has_value() || !ids.ok());
  if (!ids.ok()) return;
  std::string streamed;
  weir::Detokenizer detokenizer(&tokenizer, false);
  for (const weir::TokenId id : *ids) {
    require(tokenizer.contains(id));
    detokenizer.push(id, &streamed);
    require(!weir::find_invalid_utf8(streamed).has_value());
  }
  detokenizer.finish(&streamed);
  require(streamed == tokenizer.decode(*ids, false));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t zero = input.find('\0');
  const std::string_view json = zero == std::string_view::npos ? input : input.substr(zero + 1);
  const auto tokenizer = weir::Tokenizer::parse(json);
  if (!tokenizer.ok()) {
    require(!tokenizer.error().message.empty());
    return 0;
  }
  if (zero != std::string_view::npos) check_text(**tokenizer, input.substr(0, zero));
  check_text(**tokenizer, "Hello w\u00f6rld, it's <|im_end|>\n\n 123");
  return 0;
}
