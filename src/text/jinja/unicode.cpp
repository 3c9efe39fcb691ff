#include "text/jinja/unicode.h"

#include <algorithm>

#include "text/jinja/unicode_tables.h"

namespace weir::jinja {

uint32_t next_code(std::string_view text, size_t& at) {
  const auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<unsigned char>(text[i])); };
  const uint32_t lead = byte(at);
  if (lead < 0x80) {
    ++at;
    return lead;
  }
  const size_t length = lead >= 0xF0 ? 4 : (lead >= 0xE0 ? 3 : 2);
  uint32_t code = lead & (0xFFU >> (length + 1));
  const size_t end = std::min(text.size(), at + length);
  for (++at; at < end; ++at) {
    code = (code << 6) | (byte(at) & 0x3F);
  }
  return code;
}

size_t previous_start(std::string_view text, size_t end) {
  size_t at = end - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) {
    --at;
  }
  return at;
}

void append_code(std::string& out, uint32_t code) {
  const auto put = [&out](uint32_t byte) { out += static_cast<char>(static_cast<unsigned char>(byte)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | (code >> 6));
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | (code >> 12));
    put(0x80 | ((code >> 6) & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | (code >> 18));
    put(0x80 | ((code >> 12) & 0x3F));
    put(0x80 | ((code >> 6) & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

size_t code_count(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

size_t byte_of_code(std::string_view text, size_t index) {
  size_t at = 0;
  while (index > 0 && at < text.size()) {
    ++at;
    while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) {
      ++at;
    }
    --index;
  }
  return at;
}

namespace {

// The length of the valid sequence at `at`, or 0.
size_t valid_length(std::string_view text, size_t at) {
  const auto lead = static_cast<unsigned char>(text[at]);
  if (lead < 0x80) {
    return 1;
  }
  if (lead < 0xC2 || lead > 0xF4) {
    return 0;
  }
  const size_t length = lead >= 0xF0 ? 4 : (lead >= 0xE0 ? 3 : 2);
  if (at + length > text.size()) {
    return 0;
  }
  for (size_t i = 1; i < length; ++i) {
    if ((static_cast<unsigned char>(text[at + i]) & 0xC0) != 0x80) {
      return 0;
    }
  }
  size_t from = at;
  const uint32_t code = next_code(text, from);
  // The least code point of each length: anything below is an overlong form.
  constexpr uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = code >= 0xD800 && code < 0xE000;
  return code >= kLeast[length] && code <= 0x10FFFF && !surrogate ? length : 0;
}

}  // namespace

bool valid_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const size_t length = valid_length(text, at);
    if (length == 0) {
      return false;
    }
    at += length;
  }
  return true;
}

std::string repaired_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const size_t length = valid_length(text, at);
    if (length == 0) {
      append_code(out, 0xFFFD);
      ++at;
    } else {
      out.append(text, at, length);
      at += length;
    }
  }
  return out;
}

namespace {

bool in_ranges(const CodeRange* ranges, size_t count, uint32_t code) {
  const CodeRange* end = ranges + count;
  const CodeRange* it =
      std::lower_bound(ranges, end, code, [](const CodeRange& range, uint32_t c) { return range.last < c; });
  return it != end && it->first <= code;
}

const char* find_special(const CaseSpecial* specials, size_t count, uint32_t code) {
  const CaseSpecial* end = specials + count;
  const CaseSpecial* it =
      std::lower_bound(specials, end, code, [](const CaseSpecial& special, uint32_t c) { return special.code < c; });
  return it != end && it->code == code ? it->text : nullptr;
}

uint32_t map_run(const CaseRun* runs, size_t count, uint32_t code) {
  const CaseRun* end = runs + count;
  const CaseRun* it = std::lower_bound(runs, end, code, [](const CaseRun& run, uint32_t c) { return run.last < c; });
  if (it == end || code < it->first || (code - it->first) % it->stride != 0) {
    return code;
  }
  return static_cast<uint32_t>(static_cast<int32_t>(code) + it->delta);
}

void append_upper(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code >= 'a' && code <= 'z' ? code - 32 : code);
  } else if (const char* special = find_special(kUpperSpecial, kUpperSpecial_count, code)) {
    out += special;
  } else {
    append_code(out, map_run(kUpperRuns, kUpperRuns_count, code));
  }
}

void append_lower(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code >= 'A' && code <= 'Z' ? code + 32 : code);
  } else if (const char* special = find_special(kLowerSpecial, kLowerSpecial_count, code)) {
    out += special;
  } else {
    append_code(out, map_run(kLowerRuns, kLowerRuns_count, code));
  }
}

void append_title(std::string& out, uint32_t code) {
  if (const char* special = find_special(kTitleSpecial, kTitleSpecial_count, code)) {
    out += special;
  } else {
    append_upper(out, code);
  }
}

}  // namespace

bool is_space(uint32_t code) {
  return (code >= 9 && code <= 13) || (code >= 0x1C && code <= 0x20) || code == 0x85 || code == 0xA0 ||
         code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F ||
         code == 0x205F || code == 0x3000;
}

bool is_printable(uint32_t code) {
  return code < 0x7F ? code >= 0x20 : !in_ranges(kNotPrintable, kNotPrintable_count, code);
}

bool is_alpha(uint32_t code) {
  return in_ranges(kAlpha, kAlpha_count, code);
}
bool is_alnum(uint32_t code) {
  return in_ranges(kAlnum, kAlnum_count, code);
}
bool is_digit(uint32_t code) {
  return in_ranges(kDigit, kDigit_count, code);
}

bool is_upper(uint32_t code) {
  return map_run(kLowerRuns, kLowerRuns_count, code) != code ||
         find_special(kLowerSpecial, kLowerSpecial_count, code) != nullptr;
}

bool is_lower(uint32_t code) {
  return !is_upper(code) && (map_run(kUpperRuns, kUpperRuns_count, code) != code ||
                             find_special(kUpperSpecial, kUpperSpecial_count, code) != nullptr);
}

bool is_all_cased(std::string_view text, bool upper) {
  bool any = false;
  for (size_t at = 0; at < text.size();) {
    const uint32_t code = next_code(text, at);
    if (upper ? is_lower(code) : is_upper(code)) {
      return false;
    }
    any = any || (upper ? is_upper(code) : is_lower(code));
  }
  return any;
}

std::string to_upper(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    append_upper(out, next_code(text, at));
  }
  return out;
}

std::string to_lower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    append_lower(out, next_code(text, at));
  }
  return out;
}

std::string to_title(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  bool in_word = false;
  for (size_t at = 0; at < text.size();) {
    const uint32_t code = next_code(text, at);
    if (in_word) {
      append_lower(out, code);
    } else {
      append_title(out, code);
    }
    in_word = is_upper(code) || is_lower(code);
  }
  return out;
}

std::string to_capitalized(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const bool first = at == 0;
    const uint32_t code = next_code(text, at);
    if (first) {
      append_title(out, code);
    } else {
      append_lower(out, code);
    }
  }
  return out;
}

std::string to_swapped_case(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const uint32_t code = next_code(text, at);
    if (is_upper(code)) {
      append_lower(out, code);
    } else {
      append_upper(out, code);
    }
  }
  return out;
}

std::string_view strip(std::string_view text, const std::string* chars, bool left, bool right) {
  const auto strips = [chars](uint32_t code) {
    if (chars == nullptr) {
      return is_space(code);
    }
    for (size_t at = 0; at < chars->size();) {
      if (next_code(*chars, at) == code) {
        return true;
      }
    }
    return false;
  };
  while (left && !text.empty()) {
    size_t at = 0;
    if (!strips(next_code(text, at))) {
      break;
    }
    text.remove_prefix(at);
  }
  while (right && !text.empty()) {
    const size_t start = previous_start(text, text.size());
    size_t at = start;
    if (!strips(next_code(text, at))) {
      break;
    }
    text = text.substr(0, start);
  }
  return text;
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  const auto breaks = [](uint32_t c) {
    return (c >= 10 && c <= 13) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
  };
  std::vector<std::string_view> lines;
  size_t start = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = at;
    const uint32_t code = next_code(text, at);
    if (!breaks(code)) {
      continue;
    }
    if (code == '\r' && at < text.size() && text[at] == '\n') {
      ++at;
    }
    lines.push_back(text.substr(start, (keep_ends ? at : end) - start));
    start = at;
  }
  if (start < text.size()) {
    lines.push_back(text.substr(start));
  }
  return lines;
}

}  // namespace weir::jinja
