#include "text/jinja/unicode.h"

#include <algorithm>

#include "text/jinja/unicode_tables.h"
#include "text/unicode.h"

namespace weir::jinja {

uint32_t next_code(std::string_view text, size_t& at) {
  const CodePoint point = code_point_at(text, at);
  at += point.length;
  return point.value;
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

std::string repaired_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (const std::optional<size_t> invalid = find_invalid_utf8(text)) {
    out.append(text, 0, *invalid);
    append_utf8(0xFFFD, &out);
    text.remove_prefix(*invalid + 1);
  }
  return out.append(text);
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
    append_utf8(map_run(kUpperRuns, kUpperRuns_count, code), &out);
  }
}

void append_lower(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code >= 'A' && code <= 'Z' ? code + 32 : code);
  } else if (const char* special = find_special(kLowerSpecial, kLowerSpecial_count, code)) {
    out += special;
  } else {
    append_utf8(map_run(kLowerRuns, kLowerRuns_count, code), &out);
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
  return is_white_space(code) || (code >= 0x1C && code <= 0x1F);
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
    const CodePoint last = code_point_before(text, text.size());
    if (!strips(last.value)) {
      break;
    }
    text.remove_suffix(last.length);
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
