// UTF-8 and normalisation as the tokenizer needs them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace weir {

// The byte offset of the first byte that is not part of valid UTF-8 (no surrogates, no overlong forms), or none.
std::optional<size_t> find_invalid_utf8(std::string_view text);

struct CodePoint {
  char32_t value;
  size_t length;  // bytes, 1 to 4
};

// The code point that starts at `position`; `text` must be valid UTF-8.
CodePoint code_point_at(std::string_view text, size_t position);

// The code point that ends before `position` (> 0); `text` must be valid UTF-8.
CodePoint code_point_before(std::string_view text, size_t position);

void append_utf8(char32_t value, std::string* out);

// The Unicode property White_Space (25 code points, closed since Unicode 6.3).
bool is_white_space(char32_t value);

// NFC with the properties of Unicode 9, as the reference tokenizer normalises; linear but for sorting runs of marks.
// `text` must be valid UTF-8. None when `text` is already in that form.
std::optional<std::string> normalize_nfc(std::string_view text);

// Replaces code points that the linked regex engine knows under another general category than the reference by one of
// the reference's category and the same length in UTF-8. None when there is nothing to replace. Offsets stay valid.
std::optional<std::string> substitute_categories(std::string_view text);

// Whether a code point in [first, last] is one that substitute_categories() replaces or puts in.
bool touches_substitutes(char32_t first, char32_t last);

}  // namespace weir
