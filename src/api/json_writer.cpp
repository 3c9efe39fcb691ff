#include "api/json_writer.h"

#include <fmt/format.h>

#include <cmath>
#include <iterator>

namespace weir::api {

namespace {

// Clients expect a finite number; the value that OpenAI-compatible servers use for "as good as impossible".
constexpr std::string_view kImpossibleLogprob = "-9999.0";

// Bytes of the well-formed UTF-8 sequence at text[i], or 0.
size_t utf8_length(std::string_view text, size_t i) {
  const auto byte = [&](size_t k) { return i + k < text.size() ? static_cast<unsigned char>(text[i + k]) : 0U; };
  const auto continues = [&](size_t k) { return (byte(k) & 0xC0U) == 0x80U; };
  const unsigned lead = byte(0);
  if (lead >= 0xC2 && lead <= 0xDF) {
    return continues(1) ? 2 : 0;
  }
  if (lead >= 0xE0 && lead <= 0xEF) {
    const bool overlong = lead == 0xE0 && byte(1) < 0xA0;
    const bool surrogate = lead == 0xED && byte(1) > 0x9F;
    return continues(1) && continues(2) && !overlong && !surrogate ? 3 : 0;
  }
  if (lead >= 0xF0 && lead <= 0xF4) {
    const bool overlong = lead == 0xF0 && byte(1) < 0x90;
    const bool beyond = lead == 0xF4 && byte(1) > 0x8F;
    return continues(1) && continues(2) && continues(3) && !overlong && !beyond ? 4 : 0;
  }
  return 0;
}

void append_escaped(unsigned char c, std::string* out) {
  switch (c) {
    case '"':
      *out += "\\\"";
      break;
    case '\\':
      *out += "\\\\";
      break;
    case '\n':
      *out += "\\n";
      break;
    case '\r':
      *out += "\\r";
      break;
    case '\t':
      *out += "\\t";
      break;
    default:
      fmt::format_to(std::back_inserter(*out), "\\u{:04x}", c);
  }
}

}  // namespace

void append_json_string(std::string_view text, std::string* out) {
  out->push_back('"');
  for (size_t i = 0; i < text.size();) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c >= 0x80) {
      const size_t length = utf8_length(text, i);
      *out += length == 0 ? std::string_view("\xEF\xBF\xBD") : text.substr(i, length);
      i += length == 0 ? 1 : length;
      continue;
    }
    // 0x7F is legal JSON, but some terminals act on it.
    if (c < 0x20 || c == '"' || c == '\\' || c == 0x7F) {
      append_escaped(c, out);
    } else {
      out->push_back(static_cast<char>(c));
    }
    ++i;
  }
  out->push_back('"');
}

void append_json_string_or_null(std::string_view text, std::string* out) {
  if (text.empty()) {
    *out += "null";
  } else {
    append_json_string(text, out);
  }
}

void append_json_int(int64_t value, std::string* out) {
  fmt::format_to(std::back_inserter(*out), "{}", value);
}

void append_json_float(float value, std::string* out) {
  if (!std::isfinite(value)) {
    *out += kImpossibleLogprob;
    return;
  }
  fmt::format_to(std::back_inserter(*out), "{}", value);
}

}  // namespace weir::api
