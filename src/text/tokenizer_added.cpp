#include "text/tokenizer_added.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>

#include "base/check.h"
#include "text/unicode.h"

namespace weir {
namespace {

// \w of the reference's regular expressions (Unicode TR18 annex C), for single_word.
constexpr std::string_view kWordPattern = R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}])";

bool is_word(char32_t value) {
  static pcre2_code* const code = [] {
    int error = 0;
    PCRE2_SIZE offset = 0;
    pcre2_code* compiled = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(kWordPattern.data()), kWordPattern.size(),
                                         PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr);
    WEIR_CHECK(compiled != nullptr, "word pattern: error {} at {}", error, offset);
    return compiled;
  }();
  std::string text;
  append_utf8(value, &text);
  const std::string subject = substitute_categories(text).value_or(text);
  pcre2_match_data* match = pcre2_match_data_create(1, nullptr);
  const int result = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(subject.data()), subject.size(), 0,
                                 PCRE2_NO_UTF_CHECK, match, nullptr);
  pcre2_match_data_free(match);
  return result > 0;
}

bool stands_alone(std::string_view text, size_t begin, size_t end) {
  if (begin > 0 && is_word(code_point_before(text, begin).value)) return false;
  return end == text.size() || !is_word(code_point_at(text, end).value);
}

size_t skip_space_before(std::string_view text, size_t position) {
  while (position > 0) {
    const CodePoint point = code_point_before(text, position);
    if (!is_white_space(point.value)) break;
    position -= point.length;
  }
  return position;
}

size_t skip_space_after(std::string_view text, size_t position) {
  while (position < text.size()) {
    const CodePoint point = code_point_at(text, position);
    if (!is_white_space(point.value)) break;
    position += point.length;
  }
  return position;
}

}  // namespace

AddedMatcher::AddedMatcher(std::vector<Pattern> patterns) : patterns_(std::move(patterns)) {
  std::sort(patterns_.begin(), patterns_.end(), [](const Pattern& a, const Pattern& b) { return a.text < b.text; });
  size_t index = 0;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    first_[byte] = static_cast<uint32_t>(index);
    while (index < patterns_.size() && static_cast<unsigned char>(patterns_[index].text[0]) == byte) ++index;
  }
  first_[256] = static_cast<uint32_t>(index);
}

const AddedMatcher::Pattern* AddedMatcher::longest_at(std::string_view text, size_t position) const {
  const auto byte = static_cast<unsigned char>(text[position]);
  size_t low = first_[byte];
  size_t high = first_[byte + 1];
  const Pattern* longest = nullptr;
  // Narrows the sorted range of patterns that share the text's next bytes.
  for (size_t length = 1; low < high; ++length) {
    // A pattern of exactly this length sorts before its extensions.
    if (patterns_[low].text.size() == length) longest = &patterns_[low++];
    if (low == high || position + length == text.size()) break;
    const auto next = static_cast<unsigned char>(text[position + length]);
    const auto begin = patterns_.begin() + static_cast<ptrdiff_t>(low);
    const auto end = patterns_.begin() + static_cast<ptrdiff_t>(high);
    const auto at = [length](const Pattern& pattern) { return static_cast<unsigned char>(pattern.text[length]); };
    const auto lower = std::partition_point(begin, end, [&](const Pattern& pattern) { return at(pattern) < next; });
    const auto upper = std::partition_point(lower, end, [&](const Pattern& pattern) { return at(pattern) == next; });
    low = static_cast<size_t>(lower - patterns_.begin());
    high = static_cast<size_t>(upper - patterns_.begin());
  }
  return longest;
}

void AddedMatcher::split(std::string_view text, bool skip_special, std::vector<TextPart>* parts) const {
  size_t done = 0;
  const auto push = [parts](int32_t id, size_t begin, size_t end) {
    if (begin < end) parts->push_back({id, static_cast<uint32_t>(begin), static_cast<uint32_t>(end)});
  };
  for (size_t position = 0; position < text.size();) {
    const Pattern* pattern = longest_at(text, position);
    if (pattern == nullptr) {
      ++position;
      continue;
    }
    const AddedToken& token = *pattern->token;
    size_t begin = position;
    size_t end = position + pattern->text.size();
    position = end;
    if (skip_special && token.special) continue;
    if (token.single_word && !stands_alone(text, begin, end)) continue;
    // White space that the token before took along stays with that one.
    if (token.lstrip) begin = std::max(skip_space_before(text, begin), done);
    if (token.rstrip) end = skip_space_after(text, end);
    push(-1, done, begin);
    push(token.id, begin, end);
    done = end;
  }
  push(-1, done, text.size());
}

}  // namespace weir
