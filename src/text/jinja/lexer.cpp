#include "text/jinja/lexer.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "text/jinja/unicode.h"
#include "text/unicode.h"

namespace weir::jinja {

Error syntax_error(int32_t line, std::string_view message) {
  return with_remedy(make_error(ErrorCode::kCorrupt, "chat template line {}: {}", line, message),
                     "correct the model's chat template or pass another one");
}

namespace {

constexpr size_t kNone = std::string_view::npos;

bool digit_of_base(char c, int base) {
  if (base == 16) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
  }
  return c >= '0' && c < '0' + base;
}

// \r\n and \r become \n; one newline at the end goes.
std::string normalized(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      i += i + 1 < source.size() && source[i + 1] == '\n' ? 1 : 0;
    } else {
      out += source[i];
    }
  }
  if (!out.empty() && out.back() == '\n') {
    out.pop_back();
  }
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)), rest_(source_) {}

  Result<std::vector<Token>> run() {
    while (at_ < rest_.size()) {
      WEIR_RETURN_IF_ERROR(root());
    }
    add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  bool looking_at(std::string_view text) const { return rest_.substr(at_).starts_with(text); }

  void add(TokenKind kind, std::string text) { tokens_.push_back({kind, line_, std::move(text), 0, 0}); }

  // Moves to `end` and counts the lines passed.
  void advance(size_t end) {
    line_ += static_cast<int32_t>(std::count(rest_.begin() + static_cast<std::ptrdiff_t>(at_),
                                             rest_.begin() + static_cast<std::ptrdiff_t>(end), '\n'));
    line_starting_ = end > at_ ? rest_[end - 1] == '\n' : line_starting_;
    at_ = end;
  }

  size_t skip_space(size_t at) const {
    while (at < rest_.size()) {
      size_t next = at;
      if (!is_space(next_code(rest_, next))) {
        break;
      }
      at = next;
    }
    return at;
  }

  // The first of {{, {% and {# at or after `from`.
  size_t find_begin(size_t from) const {
    for (size_t at = rest_.find('{', from); at != kNone; at = rest_.find('{', at + 1)) {
      if (at + 1 < rest_.size() && (rest_[at + 1] == '{' || rest_[at + 1] == '%' || rest_[at + 1] == '#')) {
        return at;
      }
    }
    return kNone;
  }

  // The text before a tag, cut as the sign after the tag's start and lstrip_blocks ask.
  std::string_view before_tag(std::string_view text, char sign, bool variable) const {
    if (sign == '-') {
      return strip(text, nullptr, false, true);
    }
    if (sign != '+' && !variable) {
      const size_t newline = text.rfind('\n');
      const size_t line_start = newline == kNone ? 0 : newline + 1;
      if ((line_start > 0 || line_starting_) && strip(text.substr(line_start), nullptr, true, false).empty()) {
        return text.substr(0, line_start);
      }
    }
    return text;
  }

  char sign_at(size_t at) const {
    return at < rest_.size() && (rest_[at] == '-' || rest_[at] == '+') ? rest_[at] : '\0';
  }

  // The end of "{%- raw -%}" starting at `begin`, or npos.
  size_t raw_end(size_t begin) const {
    size_t at = begin + 2;
    at += sign_at(at) != '\0' ? 1U : 0U;
    at = skip_space(at);
    if (!rest_.substr(at).starts_with("raw")) {
      return kNone;
    }
    at = skip_space(at + 3);
    if (rest_.substr(at).starts_with("-%}")) {
      return skip_space(at + 3);
    }
    return rest_.substr(at).starts_with("%}") ? at + 2 : kNone;
  }

  Status root() {
    const size_t begin = find_begin(at_);
    if (begin == kNone) {
      add(TokenKind::kData, std::string(rest_.substr(at_)));
      advance(rest_.size());
      return Ok{};
    }
    const char tag = rest_[begin + 1];
    const char sign = sign_at(begin + 2);
    const std::string_view text = before_tag(rest_.substr(at_, begin - at_), sign, tag == '{');
    if (!text.empty()) {
      add(TokenKind::kData, std::string(text));
    }
    const size_t raw = tag == '%' ? raw_end(begin) : kNone;
    if (raw != kNone) {
      advance(raw);
      return raw_block();
    }
    advance(begin + 2 + (sign != '\0' ? 1U : 0U));
    if (tag == '#') {
      return comment();
    }
    add(tag == '{' ? TokenKind::kVariableBegin : TokenKind::kBlockBegin, "");
    return inside(tag == '{');
  }

  // Where a comment or block ends if it ends at `at`: behind "+X}", "-X}" and white space, or "X}" and a newline.
  size_t block_end(size_t at, char mark) const {
    const std::array<char, 2> plain = {mark, '}'};
    const std::string_view close(plain.data(), plain.size());
    const std::string_view here = rest_.substr(at);
    if (here.size() >= 3 && here.substr(1).starts_with(close) && (here[0] == '+' || here[0] == '-')) {
      return here[0] == '-' ? skip_space(at + 3) : at + 3;
    }
    if (here.starts_with(close)) {
      return at + 2 + (here.size() > 2 && here[2] == '\n' ? 1U : 0U);
    }
    return kNone;
  }

  Status comment() {
    for (size_t at = at_; at < rest_.size(); ++at) {
      const size_t end = block_end(at, '#');
      if (end != kNone) {
        advance(end);
        return Ok{};
      }
    }
    return syntax_error(line_, "missing end of comment tag");
  }

  Status raw_block() {
    for (size_t at = rest_.find("{%", at_); at != kNone; at = rest_.find("{%", at + 1)) {
      const char sign = sign_at(at + 2);
      size_t inner = skip_space(at + 2 + (sign != '\0' ? 1U : 0U));
      if (!rest_.substr(inner).starts_with("endraw")) {
        continue;
      }
      inner = skip_space(inner + 6);
      const size_t end = block_end(inner, '%');
      if (end != kNone) {
        add(TokenKind::kData, std::string(before_tag(rest_.substr(at_, at - at_), sign, false)));
        advance(end);
        return Ok{};
      }
    }
    return syntax_error(line_, "missing end of raw directive");
  }

  Status inside(bool variable) {
    std::vector<char> open;
    while (true) {
      advance(skip_space(at_));
      if (at_ >= rest_.size()) {
        return syntax_error(line_, "unexpected end of template");
      }
      if (open.empty()) {
        size_t end = kNone;
        if (!variable) {
          end = block_end(at_, '%');
        } else if (looking_at("-}}")) {
          end = skip_space(at_ + 3);
        } else if (looking_at("}}")) {
          end = at_ + 2;
        }
        if (end != kNone) {
          add(variable ? TokenKind::kVariableEnd : TokenKind::kBlockEnd, "");
          advance(end);
          return Ok{};
        }
      }
      WEIR_RETURN_IF_ERROR(token(open));
    }
  }

  Status token(std::vector<char>& open) {
    const char c = rest_[at_];
    if (c >= '0' && c <= '9') {
      return number();
    }
    size_t next = at_;
    const uint32_t code = next_code(rest_, next);
    if (c == '_' || is_alpha(code)) {
      size_t end = next;
      while (end < rest_.size()) {
        next = end;
        const uint32_t part = next_code(rest_, next);
        if (part != '_' && !is_alnum(part)) {
          break;
        }
        end = next;
      }
      add(TokenKind::kName, std::string(rest_.substr(at_, end - at_)));
      advance(end);
      return Ok{};
    }
    if (c == '\'' || c == '"') {
      return string(c);
    }
    return operation(open);
  }

  // The end of digits with single underscores between them, from `at`; `at` itself if there are none.
  size_t digits(size_t at, int base) const {
    size_t end = at;
    while (end < rest_.size() && digit_of_base(rest_[end], base)) {
      ++end;
      if (end + 1 < rest_.size() && rest_[end] == '_' && digit_of_base(rest_[end + 1], base)) {
        ++end;
      }
    }
    return end;
  }

  size_t float_end() const {
    const size_t whole = digits(at_, 10);
    size_t end = whole;
    bool is_float = false;
    if (end + 1 < rest_.size() && rest_[end] == '.' && digit_of_base(rest_[end + 1], 10)) {
      end = digits(end + 1, 10);
      is_float = true;
    }
    if (end < rest_.size() && (rest_[end] == 'e' || rest_[end] == 'E')) {
      size_t exponent = end + 1;
      exponent += sign_at(exponent) != '\0' ? 1U : 0U;
      const size_t after = digits(exponent, 10);
      if (after > exponent) {
        return after;
      }
    }
    return is_float ? end : kNone;
  }

  Status number() {
    const bool after_dot = at_ > 0 && rest_[at_ - 1] == '.';
    const size_t float_at = after_dot ? kNone : float_end();
    if (float_at != kNone) {
      std::string text(rest_.substr(at_, float_at - at_));
      std::erase(text, '_');
      add(TokenKind::kFloat, text);
      // Out of range gives infinity or zero, as the language's own literals do.
      tokens_.back().number = std::strtod(text.c_str(), nullptr);
      advance(float_at);
      return Ok{};
    }
    return integer();
  }

  Status integer() {
    int base = 10;
    size_t start = at_;
    if (rest_[at_] == '0' && at_ + 1 < rest_.size()) {
      const char mark = static_cast<char>(rest_[at_ + 1] | 0x20);
      const int marked = mark == 'x' ? 16 : (mark == 'o' ? 8 : (mark == 'b' ? 2 : 10));
      size_t after = at_ + 2;
      after += after < rest_.size() && rest_[after] == '_' ? 1U : 0U;
      if (marked != 10 && digits(after, marked) > after) {
        base = marked;
        start = after;
      }
    }
    size_t end = digits(start, base);
    if (base == 10 && rest_[at_] == '0') {
      // A number that starts with 0 is zeros only.
      end = at_ + 1;
      while (end < rest_.size() &&
             (rest_[end] == '0' || (rest_[end] == '_' && rest_.substr(end + 1).starts_with("0")))) {
        ++end;
      }
    }
    Int value = 0;
    for (size_t i = start; i < end; ++i) {
      const char c = rest_[i];
      if (c == '_') {
        continue;
      }
      const int digit = c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
      if (__builtin_mul_overflow(value, Int{base}, &value) || __builtin_add_overflow(value, Int{digit}, &value)) {
        return syntax_error(line_, "integer too large: this engine computes with 128 bits");
      }
    }
    add(TokenKind::kInteger, std::string(rest_.substr(at_, end - at_)));
    tokens_.back().integer = value;
    advance(end);
    return Ok{};
  }

  Status string(char quote) {
    size_t end = at_ + 1;
    while (end < rest_.size() && rest_[end] != quote) {
      end += rest_[end] == '\\' ? 2U : 1U;
    }
    if (end >= rest_.size()) {
      return syntax_error(line_, fmt::format("unexpected char {}", quote == '"' ? "'\"'" : "\"'\""));
    }
    WEIR_ASSIGN_OR_RETURN(std::string value, unescaped(rest_.substr(at_ + 1, end - at_ - 1)));
    add(TokenKind::kString, std::move(value));
    advance(end + 1);
    return Ok{};
  }

  // Appends the character of \xHH, \uHHHH, \UHHHHHHHH or up to three octal digits at `at`, and moves `at` behind it.
  Status escaped_code(std::string_view text, size_t& at, std::string& out) const {
    const char kind = text[at];
    const bool octal = kind >= '0' && kind <= '7';
    const size_t want = octal ? 3 : (kind == 'x' ? 2 : (kind == 'u' ? 4 : 8));
    const int base = octal ? 8 : 16;
    size_t from = octal ? at : at + 1;
    uint32_t code = 0;
    size_t count = 0;
    for (; count < want && from < text.size() && digit_of_base(text[from], base); ++count, ++from) {
      const char c = text[from];
      code = code * static_cast<uint32_t>(base) + static_cast<uint32_t>(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    if ((!octal && count < want) || code > 0x10FFFF) {
      return syntax_error(line_, fmt::format("truncated or illegal \\{} escape in a string", kind));
    }
    if (code >= 0xD800 && code < 0xE000) {
      return syntax_error(line_, "a surrogate escape in a string is not text");
    }
    append_utf8(code, &out);
    at = from;
    return Ok{};
  }

  Result<std::string> unescaped(std::string_view text) const {
    std::string out;
    for (size_t at = 0; at < text.size();) {
      if (text[at] != '\\') {
        out += text[at++];
        continue;
      }
      ++at;
      static constexpr std::string_view kLetters = "abfnrtv\\'\"\n";
      static constexpr std::string_view kValues = "\a\b\f\n\r\t\v\\'\"";
      const size_t found = kLetters.find(text[at]);
      if (found != kNone) {
        out += found < kValues.size() ? std::string(1, kValues[found]) : std::string();
        ++at;
      } else if (text[at] == 'x' || text[at] == 'u' || text[at] == 'U' || (text[at] >= '0' && text[at] <= '7')) {
        WEIR_RETURN_IF_ERROR(escaped_code(text, at, out));
      } else if (text[at] == 'N') {
        return syntax_error(line_, "\\N escapes in strings are not supported: write the character itself");
      } else {
        out += '\\';
      }
    }
    return out;
  }

  Status operation(std::vector<char>& open) {
    static constexpr std::array<std::string_view, 6> kDouble = {"//", "**", "==", "!=", ">=", "<="};
    static constexpr std::string_view kSingle = "+-*/%~[](){}><=.:|,;";
    for (const std::string_view op : kDouble) {
      if (looking_at(op)) {
        add(TokenKind::kOperator, std::string(op));
        advance(at_ + 2);
        return Ok{};
      }
    }
    const char c = rest_[at_];
    if (kSingle.find(c) == kNone) {
      size_t end = at_;
      next_code(rest_, end);
      return syntax_error(line_, fmt::format("unexpected char '{}'", rest_.substr(at_, end - at_)));
    }
    if (c == '(' || c == '[' || c == '{') {
      open.push_back(c == '(' ? ')' : (c == '[' ? ']' : '}'));
    } else if (c == ')' || c == ']' || c == '}') {
      if (open.empty() || open.back() != c) {
        return syntax_error(line_, open.empty() ? fmt::format("unexpected '{}'", c)
                                                : fmt::format("unexpected '{}', expected '{}'", c, open.back()));
      }
      open.pop_back();
    }
    add(TokenKind::kOperator, std::string(1, c));
    advance(at_ + 1);
    return Ok{};
  }

  std::string source_;
  std::string_view rest_;
  size_t at_ = 0;
  int32_t line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

Result<std::vector<Token>> tokenize(std::string_view source) {
  return Lexer(normalized(source)).run();
}

}  // namespace weir::jinja
