#include "text/jinja/parser.h"

#include <algorithm>

#include "text/jinja/parser_expressions.h"

namespace weir::jinja {
namespace {

using StmtPtr = std::unique_ptr<Stmt>;

class Parser final : private ExpressionParser {
 public:
  Parser(std::vector<Token> tokens, int32_t depth_max) : ExpressionParser(std::move(tokens), depth_max) {}

  Result<Body> run() {
    WEIR_ASSIGN_OR_RETURN(Body body, statements({}));
    if (!unknown_.empty()) {
      return unknown_.front();
    }
    return body;
  }

 private:
  using Ends = std::vector<std::string_view>;

  bool at_end_of(const Ends& ends) const {
    return is(TokenKind::kName) && std::find(ends.begin(), ends.end(), current().text) != ends.end();
  }

  StmtPtr make(StmtKind kind, int32_t line) const {
    auto stmt = std::make_unique<Stmt>();
    stmt->kind = kind;
    stmt->line = line;
    return stmt;
  }

  // Statements up to a tag whose name is one of `ends` (its name is then the current token), or the end of the source.
  Result<Body> statements(const Ends& ends) {
    const Level level(*this);
    WEIR_RETURN_IF_ERROR(check_depth());
    Body body;
    while (!is(TokenKind::kEnd)) {
      const int32_t line = current().line;
      if (is(TokenKind::kData)) {
        StmtPtr stmt = make(StmtKind::kText, line);
        stmt->text = next().text;
        body.push_back(std::move(stmt));
      } else if (is(TokenKind::kVariableBegin)) {
        next();
        StmtPtr stmt = make(StmtKind::kOutput, line);
        WEIR_ASSIGN_OR_RETURN(ExprPtr value, tuple({}));
        stmt->values.push_back(std::move(value));
        body.push_back(std::move(stmt));
        WEIR_RETURN_IF_ERROR(expect(TokenKind::kVariableEnd, "end of print statement"));
      } else {
        next();
        if (at_end_of(ends)) {
          return body;
        }
        WEIR_ASSIGN_OR_RETURN(StmtPtr stmt, statement());
        body.push_back(std::move(stmt));
        WEIR_RETURN_IF_ERROR(expect(TokenKind::kBlockEnd, "end of statement block"));
      }
    }
    if (!ends.empty()) {
      return syntax_error(current().line, fmt::format("unexpected end of template, looking for '{}'", ends.back()));
    }
    return body;
  }

  // The rest of a tag, then its body up to one of `ends`.
  Result<Body> block(const Ends& ends) {
    skip_op(":");
    WEIR_RETURN_IF_ERROR(expect(TokenKind::kBlockEnd, "end of statement block"));
    return statements(ends);
  }

  // As block, and steps over the name of the end tag.
  Result<Body> whole_block(std::string_view end) {
    WEIR_ASSIGN_OR_RETURN(Body body, block({end}));
    next();
    return body;
  }

  Result<StmtPtr> statement() {
    if (!is(TokenKind::kName)) {
      return syntax_error(current().line, "tag name expected");
    }
    using Method = Result<StmtPtr> (Parser::*)(int32_t);
    static constexpr std::pair<std::string_view, Method> kTags[] = {{"set", &Parser::set},
                                                                    {"if", &Parser::if_},
                                                                    {"for", &Parser::for_},
                                                                    {"macro", &Parser::macro},
                                                                    {"call", &Parser::call_block},
                                                                    {"filter", &Parser::filter_block},
                                                                    {"with", &Parser::with},
                                                                    {"print", &Parser::print},
                                                                    {"break", &Parser::break_},
                                                                    {"continue", &Parser::continue_},
                                                                    {"generation", &Parser::generation}};
    static constexpr std::string_view kRefused[] = {"include", "import", "from", "extends", "block", "autoescape"};
    const int32_t line = current().line;
    const std::string name = next().text;
    for (const auto& [tag, method] : kTags) {
      if (name == tag) {
        return (this->*method)(line);
      }
    }
    if (std::find(std::begin(kRefused), std::end(kRefused), name) != std::end(kRefused)) {
      return with_remedy(
          make_error(ErrorCode::kUnsupported,
                     "chat template line {}: '{}' is not supported: a chat template stands alone", line, name),
          "write the template as one file");
    }
    return syntax_error(line, fmt::format("unknown tag '{}'", name));
  }

  Status check_target(const Expr& target) const {
    if (target.kind == ExprKind::kTuple) {
      for (const ExprPtr& item : target.items) {
        WEIR_RETURN_IF_ERROR(check_target(*item));
      }
      return Ok{};
    }
    if (target.kind != ExprKind::kName && target.kind != ExprKind::kNamespaceRef) {
      return syntax_error(target.line, "this cannot be assigned to");
    }
    if (target.kind == ExprKind::kName && target.name == "loop" && loops_ > 0) {
      return syntax_error(target.line, "the loop variable cannot be assigned to in a for loop");
    }
    return Ok{};
  }

  Result<ExprPtr> target(bool namespaces, std::string_view end_name) {
    TupleRules rules;
    rules.targets = true;
    rules.namespaces = namespaces;
    rules.end_name = end_name;
    WEIR_ASSIGN_OR_RETURN(ExprPtr expr, tuple(rules));
    WEIR_RETURN_IF_ERROR(check_target(*expr));
    return expr;
  }

  Result<StmtPtr> set(int32_t line) {
    StmtPtr stmt = make(StmtKind::kSet, line);
    WEIR_ASSIGN_OR_RETURN(stmt->target, target(true, ""));
    if (skip_op("=")) {
      WEIR_ASSIGN_OR_RETURN(stmt->value, tuple({}));
      return stmt;
    }
    stmt->kind = StmtKind::kSetBlock;
    if (is_op("|")) {
      WEIR_ASSIGN_OR_RETURN(stmt->value, filters(nullptr, false));
    }
    WEIR_ASSIGN_OR_RETURN(stmt->body, whole_block("endset"));
    return stmt;
  }

  Result<StmtPtr> if_(int32_t line) {
    ++conditions_;
    auto result = branches(line);
    --conditions_;
    return result;
  }

  Result<StmtPtr> branches(int32_t line) {
    StmtPtr stmt = make(StmtKind::kIf, line);
    TupleRules rules;
    rules.conditions = false;
    while (true) {
      Branch branch;
      WEIR_ASSIGN_OR_RETURN(branch.condition, tuple(rules));
      WEIR_ASSIGN_OR_RETURN(branch.body, block({"elif", "else", "endif"}));
      stmt->branches.push_back(std::move(branch));
      const std::string& end = next().text;
      if (end == "elif") {
        continue;
      }
      if (end == "else") {
        Branch otherwise;
        WEIR_ASSIGN_OR_RETURN(otherwise.body, whole_block("endif"));
        stmt->branches.push_back(std::move(otherwise));
      }
      return stmt;
    }
  }

  Result<StmtPtr> for_(int32_t line) {
    StmtPtr stmt = make(StmtKind::kFor, line);
    ++loops_;
    auto result = [&]() -> Status {
      WEIR_ASSIGN_OR_RETURN(stmt->target, target(false, "in"));
      if (!skip_name("in")) {
        return unexpected("'in'");
      }
      TupleRules rules;
      rules.conditions = false;
      rules.end_name = "recursive";
      WEIR_ASSIGN_OR_RETURN(stmt->value, tuple(rules));
      if (skip_name("if")) {
        WEIR_ASSIGN_OR_RETURN(stmt->condition, expression());
      }
      stmt->recursive = skip_name("recursive");
      WEIR_ASSIGN_OR_RETURN(stmt->body, block({"else", "endfor"}));
      if (next().text == "else") {
        WEIR_ASSIGN_OR_RETURN(stmt->else_body, whole_block("endfor"));
      }
      return Ok{};
    }();
    --loops_;
    WEIR_RETURN_IF_ERROR(std::move(result));
    return stmt;
  }

  Status signature(MacroNode& node) {
    WEIR_RETURN_IF_ERROR(expect_op("("));
    while (!is_op(")")) {
      if (!node.parameters.empty()) {
        WEIR_RETURN_IF_ERROR(expect_op(","));
      }
      WEIR_ASSIGN_OR_RETURN(std::string name, expect_name());
      if (skip_op("=")) {
        WEIR_ASSIGN_OR_RETURN(ExprPtr value, expression());
        node.defaults.push_back(std::move(value));
      } else if (!node.defaults.empty()) {
        return syntax_error(current().line, "non-default argument follows default argument");
      }
      node.parameters.push_back(std::move(name));
    }
    next();
    return Ok{};
  }

  // Reads the body of a macro. A loop outside it is not its own: break and continue do not reach out.
  Result<Body> macro_body(MacroNode& node, std::string_view end) {
    macros_.push_back(&node);
    const int loops = std::exchange(loops_, 0);
    auto body = whole_block(end);
    loops_ = loops;
    macros_.pop_back();
    const auto named = [&node](std::string_view name) {
      return std::find(node.parameters.begin(), node.parameters.end(), name) != node.parameters.end();
    };
    node.uses_caller &= !named("caller");
    node.uses_varargs &= !named("varargs");
    node.uses_kwargs &= !named("kwargs");
    return body;
  }

  Result<StmtPtr> macro(int32_t line) {
    StmtPtr stmt = make(StmtKind::kMacro, line);
    stmt->macro = std::make_unique<MacroNode>();
    WEIR_ASSIGN_OR_RETURN(stmt->macro->name, expect_name());
    WEIR_RETURN_IF_ERROR(signature(*stmt->macro));
    WEIR_ASSIGN_OR_RETURN(stmt->macro->body, macro_body(*stmt->macro, "endmacro"));
    return stmt;
  }

  Result<StmtPtr> call_block(int32_t line) {
    StmtPtr stmt = make(StmtKind::kCallBlock, line);
    stmt->macro = std::make_unique<MacroNode>();
    if (is_op("(")) {
      WEIR_RETURN_IF_ERROR(signature(*stmt->macro));
    }
    WEIR_ASSIGN_OR_RETURN(stmt->value, expression());
    if (stmt->value->kind != ExprKind::kCall) {
      return syntax_error(line, "expected call");
    }
    WEIR_ASSIGN_OR_RETURN(stmt->macro->body, macro_body(*stmt->macro, "endcall"));
    return stmt;
  }

  Result<StmtPtr> filter_block(int32_t line) {
    StmtPtr stmt = make(StmtKind::kFilter, line);
    WEIR_ASSIGN_OR_RETURN(stmt->value, filters(nullptr, true));
    WEIR_ASSIGN_OR_RETURN(stmt->body, whole_block("endfilter"));
    return stmt;
  }

  Result<StmtPtr> with(int32_t line) {
    StmtPtr stmt = make(StmtKind::kWith, line);
    while (!is(TokenKind::kBlockEnd)) {
      if (!stmt->targets.empty()) {
        WEIR_RETURN_IF_ERROR(expect_op(","));
      }
      // Each target is one name here: a comma starts the next pair.
      WEIR_ASSIGN_OR_RETURN(std::string name, expect_name());
      auto expr = std::make_unique<Expr>();
      expr->kind = ExprKind::kName;
      expr->line = line;
      expr->name = std::move(name);
      WEIR_RETURN_IF_ERROR(expect_op("="));
      WEIR_ASSIGN_OR_RETURN(ExprPtr value, expression());
      stmt->targets.push_back(std::move(expr));
      stmt->values.push_back(std::move(value));
    }
    WEIR_ASSIGN_OR_RETURN(stmt->body, whole_block("endwith"));
    return stmt;
  }

  Result<StmtPtr> print(int32_t line) {
    StmtPtr stmt = make(StmtKind::kOutput, line);
    while (!is(TokenKind::kBlockEnd)) {
      if (!stmt->values.empty()) {
        WEIR_RETURN_IF_ERROR(expect_op(","));
      }
      WEIR_ASSIGN_OR_RETURN(ExprPtr value, expression());
      stmt->values.push_back(std::move(value));
    }
    return stmt;
  }

  Result<StmtPtr> break_(int32_t line) { return jump(StmtKind::kBreak, "break", line); }
  Result<StmtPtr> continue_(int32_t line) { return jump(StmtKind::kContinue, "continue", line); }

  Result<StmtPtr> jump(StmtKind kind, std::string_view name, int32_t line) {
    if (loops_ == 0) {
      return syntax_error(line, fmt::format("'{}' outside a for loop", name));
    }
    return make(kind, line);
  }

  Result<StmtPtr> generation(int32_t line) {
    StmtPtr stmt = make(StmtKind::kScope, line);
    WEIR_ASSIGN_OR_RETURN(stmt->body, whole_block("endgeneration"));
    return stmt;
  }

  int loops_ = 0;
};

}  // namespace

Result<Body> parse_template(std::string_view source, const TemplateLimits& limits) {
  if (static_cast<int64_t>(source.size()) > limits.source_bytes_max) {
    return make_error(ErrorCode::kTooLarge, "chat template of {} bytes: more than {} (source_bytes_max)", source.size(),
                      limits.source_bytes_max);
  }
  WEIR_ASSIGN_OR_RETURN(std::vector<Token> tokens, tokenize(source));
  return Parser(std::move(tokens), limits.parse_depth_max).run();
}

}  // namespace weir::jinja
