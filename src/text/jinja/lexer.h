// Cuts a template's source into tokens, with the white space control of trim_blocks and lstrip_blocks applied.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/jinja/value.h"

namespace weir::jinja {

enum class TokenKind : uint8_t {
  kData,
  kVariableBegin,
  kVariableEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  int32_t line = 0;
  std::string text;  // data, name, operator, or the string's value
  Int integer = 0;
  double number = 0;
};

// Tokens of `source`, the last of kind kEnd. Errors: kCorrupt with the line.
Result<std::vector<Token>> tokenize(std::string_view source);

// An error of the template's text: "line N: message".
Error syntax_error(int32_t line, std::string_view message);

}  // namespace weir::jinja
