// Strings are UTF-8 inside the engine, but templates count, cut and change case by code point, as Python does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace weir::jinja {

// The code point at byte `at` (of valid UTF-8) and, in `at`, the byte after it.
uint32_t next_code(std::string_view text, size_t& at);
// Code points in `text`.
size_t code_count(std::string_view text);
// The byte where code point number `index` starts; the size of `text` past its end.
size_t byte_of_code(std::string_view text, size_t index);
// A copy with every byte that is not valid UTF-8 replaced by U+FFFD.
std::string repaired_utf8(std::string_view text);

// Python's str.isspace, isprintable, isalpha, isalnum, isdigit of one character.
bool is_space(uint32_t code);
bool is_printable(uint32_t code);
bool is_alpha(uint32_t code);
bool is_alnum(uint32_t code);
bool is_digit(uint32_t code);
bool is_upper(uint32_t code);
bool is_lower(uint32_t code);

// Python's str.isupper or islower: some cased character, and all cased ones of that case.
bool is_all_cased(std::string_view text, bool upper);

// Python's str.upper and so on, without the special case of a final sigma.
std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
std::string to_title(std::string_view text);
std::string to_capitalized(std::string_view text);
std::string to_swapped_case(std::string_view text);

// Strips code points that are in `chars` from the ends; null `chars` means white space.
std::string_view strip(std::string_view text, const std::string* chars, bool left, bool right);
// Python's str.splitlines.
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends);

}  // namespace weir::jinja
