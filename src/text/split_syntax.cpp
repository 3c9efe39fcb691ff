// Which regular expressions mean the same in Oniguruma (Ruby syntax) and in PCRE2.
#include <algorithm>
#include <array>

#include "text/split.h"
#include "text/unicode.h"

namespace weir {
namespace {

constexpr std::array<std::string_view, 34> kCategories = {
    "L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N", "Nd", "Nl", "No", "P",  "Pc", "Pd",
    "Ps", "Pe", "Pi", "Pf", "Po", "S",  "Sm", "Sc", "Sk", "So", "Z", "Zs", "Zl", "Zp", "Cc", "Cf", "Co"};

class SyntaxChecker {
 public:
  explicit SyntaxChecker(std::string_view pattern) : pattern_(pattern) {}

  Status check() {
    while (at_ < pattern_.size()) WEIR_RETURN_IF_ERROR(check_item());
    if (depth_ != 0) return make_error(ErrorCode::kCorrupt, "split pattern: a group is not closed");
    return Ok{};
  }

 private:
  bool rest_starts_with(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }

  Error refuse(std::string_view what) const {
    return with_remedy(make_error(ErrorCode::kUnsupported, "split pattern at byte {}: {} is not supported", at_, what),
                       "its meaning differs between regex engines, so ids could differ silently");
  }

  Status check_item() {
    switch (pattern_[at_]) {
      case '(':
        return check_group();
      case ')':
        if (--depth_ < 0) return make_error(ErrorCode::kCorrupt, "split pattern at byte {}: unmatched )", at_);
        ++at_;
        return check_quantifier();
      case '[':
        return check_class();
      case '|':
        ++at_;
        return Ok{};
      case '.':
        return refuse("'.'");
      case '^':
        return refuse("'^'");
      case '$':
        return refuse("'$'");
      case '*':
      case '+':
      case '?':
        return refuse("a quantifier after a quantifier or nothing");
      case '{':
      case '}':
      case ']':
        return refuse("a bare bracket");
      default: {
        char32_t value = 0;
        WEIR_RETURN_IF_ERROR(check_character(&value));
        return check_quantifier();
      }
    }
  }

  Status check_group() {
    if (rest_starts_with("(?!") || rest_starts_with("(?=") || rest_starts_with("(?:")) {
      at_ += 3;
    } else if (rest_starts_with("(?i:")) {
      at_ += 4;
    } else if (rest_starts_with("(?")) {
      return refuse("this kind of group");
    } else {
      at_ += 1;
    }
    ++depth_;
    return Ok{};
  }

  Status check_quantifier() {
    if (at_ >= pattern_.size()) return Ok{};
    const char c = pattern_[at_];
    if (c == '{') {
      const size_t end = pattern_.find('}', at_);
      const std::string_view body = pattern_.substr(at_ + 1, end == std::string_view::npos ? 0 : end - at_ - 1);
      const bool digits = !body.empty() && body.front() != ',' && std::all_of(body.begin(), body.end(), [](char d) {
        return (d >= '0' && d <= '9') || d == ',';
      });
      if (end == std::string_view::npos || !digits) return refuse("this quantifier");
      at_ = end + 1;
      // Ruby reads {n,m}+ as a quantifier of a quantifier, PCRE2 as possessive.
      if (at_ < pattern_.size() && (pattern_[at_] == '+' || pattern_[at_] == '?'))
        return refuse("a modifier after {n,m}");
      return Ok{};
    }
    if (c != '*' && c != '+' && c != '?') return Ok{};
    ++at_;
    if (at_ < pattern_.size() && (pattern_[at_] == '+' || pattern_[at_] == '?')) ++at_;
    return Ok{};
  }

  // A literal, an escape or a category, in or out of a class. `value` is the literal, or 0.
  Status check_character(char32_t* value) {
    *value = 0;
    if (pattern_[at_] == '\\') return check_escape(value);
    const CodePoint point = code_point_at(pattern_, at_);
    if (point.value >= 0x80 && touches_substitutes(point.value, point.value)) return refuse("this literal");
    *value = point.value;
    at_ += point.length;
    return Ok{};
  }

  Status check_escape(char32_t* value) {
    if (at_ + 1 >= pattern_.size()) return make_error(ErrorCode::kCorrupt, "split pattern ends in a backslash");
    const char c = pattern_[at_ + 1];
    if (c == 'p' || c == 'P') {
      const size_t end = pattern_.find('}', at_);
      if (at_ + 2 >= pattern_.size() || pattern_[at_ + 2] != '{' || end == std::string_view::npos) {
        return refuse("a property without braces");
      }
      const std::string_view name = pattern_.substr(at_ + 3, end - at_ - 3);
      if (std::find(kCategories.begin(), kCategories.end(), name) == kCategories.end()) return refuse("this property");
      at_ = end + 1;
      return Ok{};
    }
    const bool known = std::string_view("sSrntf").find(c) != std::string_view::npos;
    const bool punctuation =
        c > ' ' && c < 0x7F && !(c >= '0' && c <= '9') && !((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
    // \v is not among them: one character in Ruby, a class in PCRE2.
    if (!known && !punctuation) return refuse("this escape");
    if (punctuation) *value = static_cast<char32_t>(c);
    if (c == 'r') *value = '\r';
    if (c == 'n') *value = '\n';
    if (c == 't') *value = '\t';
    at_ += 2;
    return Ok{};
  }

  Status check_class() {
    ++at_;
    if (rest_starts_with("^")) ++at_;
    if (rest_starts_with("]")) return refuse("] as the first member of a class");
    while (at_ < pattern_.size() && pattern_[at_] != ']') {
      if (pattern_[at_] == '[') return refuse("a class in a class");
      if (rest_starts_with("&&")) return refuse("an intersection of classes");
      char32_t first = 0;
      WEIR_RETURN_IF_ERROR(check_character(&first));
      if (!rest_starts_with("-") || rest_starts_with("-]")) continue;
      if (first == 0) return refuse("a range that starts with a class");
      ++at_;
      if (at_ >= pattern_.size()) break;
      if (pattern_[at_] == '[') return refuse("a class in a class");
      char32_t last = 0;
      WEIR_RETURN_IF_ERROR(check_character(&last));
      if (last < first) return refuse("this range");
      if (touches_substitutes(first, last)) return refuse("a range over letters that newer Unicode versions added");
    }
    if (at_ >= pattern_.size()) return make_error(ErrorCode::kCorrupt, "split pattern: a class is not closed");
    ++at_;
    return check_quantifier();
  }

  std::string_view pattern_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

Status check_split_syntax(std::string_view pattern) {
  if (const auto offset = find_invalid_utf8(pattern)) {
    return make_error(ErrorCode::kCorrupt, "split pattern: invalid UTF-8 at byte {}", *offset);
  }
  return SyntaxChecker(pattern).check();
}

}  // namespace weir
