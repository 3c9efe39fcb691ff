// The byte alphabet of GPT-2: the printable Latin-1 characters stand for themselves, the other 68 bytes for U+0100 up.
#include <array>

#include "text/tokenizer_spec.h"
#include "text/unicode.h"

namespace weir {
namespace {

constexpr size_t kAlphabetEnd = 0x100 + 68;

constexpr bool stands_for_itself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

// By code point: the byte, or -1.
constexpr std::array<int16_t, kAlphabetEnd> kBytes = [] {
  std::array<int16_t, kAlphabetEnd> bytes{};
  size_t next = 0x100;
  for (int byte = 0; byte < 0x100; ++byte) {
    bytes[static_cast<size_t>(byte)] = stands_for_itself(byte) ? static_cast<int16_t>(byte) : int16_t{-1};
    if (!stands_for_itself(byte)) bytes[next++] = static_cast<int16_t>(byte);
  }
  return bytes;
}();

}  // namespace

bool append_alphabet_bytes(std::string_view token_text, std::string* out) {
  const size_t before = out->size();
  for (size_t position = 0; position < token_text.size();) {
    const CodePoint point = code_point_at(token_text, position);
    position += point.length;
    const int byte = point.value < kAlphabetEnd ? kBytes[point.value] : -1;
    if (byte < 0) {
      out->resize(before);
      return false;
    }
    out->push_back(static_cast<char>(static_cast<unsigned char>(byte)));
  }
  return true;
}

}  // namespace weir
