// What the two halves of the parser share: the tokens, the errors and the limit on nesting.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "text/jinja/ast.h"
#include "text/jinja/lexer.h"

namespace weir::jinja {

class ParserBase {
 protected:
  ParserBase(std::vector<Token> tokens, int32_t depth_max) : tokens_(std::move(tokens)), depth_max_(depth_max) {}

  // One level of nesting for as long as it lives.
  class Level {
   public:
    explicit Level(ParserBase& parser) : parser_(parser) { ++parser_.depth_; }
    ~Level() { --parser_.depth_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    ParserBase& parser_;
  };

  const Token& current() const { return tokens_[at_]; }
  const Token& look() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  bool is(TokenKind kind) const { return current().kind == kind; }
  bool is_op(std::string_view op) const { return current().kind == TokenKind::kOperator && current().text == op; }
  bool is_name(std::string_view name) const { return current().kind == TokenKind::kName && current().text == name; }
  const Token& next() {
    const Token& token = tokens_[at_];
    at_ = std::min(at_ + 1, tokens_.size() - 1);
    return token;
  }
  bool skip_op(std::string_view op) {
    const bool found = is_op(op);
    if (found) {
      next();
    }
    return found;
  }
  bool skip_name(std::string_view name) {
    const bool found = is_name(name);
    if (found) {
      next();
    }
    return found;
  }

  static std::string describe(const Token& token) {
    switch (token.kind) {
      case TokenKind::kEnd:
        return "end of template";
      case TokenKind::kBlockEnd:
        return "end of statement block";
      case TokenKind::kVariableEnd:
        return "end of print statement";
      case TokenKind::kData:
        return "template data";
      case TokenKind::kString:
        return "string";
      default:
        return token.text;
    }
  }

  Error unexpected(std::string_view wanted) const {
    return syntax_error(current().line, fmt::format("expected {}, got '{}'", wanted, describe(current())));
  }
  Status expect_op(std::string_view op) {
    if (!skip_op(op)) {
      return unexpected(fmt::format("'{}'", op));
    }
    return Ok{};
  }
  Status expect(TokenKind kind, std::string_view what) {
    if (!is(kind)) {
      return unexpected(what);
    }
    next();
    return Ok{};
  }
  Result<std::string> expect_name() {
    if (!is(TokenKind::kName)) {
      return unexpected("a name");
    }
    return next().text;
  }
  Status check_depth() const {
    if (depth_ > depth_max_) {
      return too_deep(current().line);
    }
    return Ok{};
  }
  Error too_deep(int32_t line) const {
    return make_error(ErrorCode::kTooLarge, "chat template line {}: nested deeper than {} levels (parse_depth_max)",
                      line, depth_max_);
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int32_t depth_ = 0;
  const int32_t depth_max_;
};

}  // namespace weir::jinja
