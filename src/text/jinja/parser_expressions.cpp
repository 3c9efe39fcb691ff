#include "text/jinja/parser_expressions.h"

#include <algorithm>

#include "text/jinja/filters.h"
#include "text/jinja/predicates.h"

namespace weir::jinja {
namespace {

// (x), [x] and f(x) on one operand.
std::vector<ExprPtr> one(ExprPtr a) {
  std::vector<ExprPtr> items;
  items.push_back(std::move(a));
  return items;
}

std::vector<ExprPtr> two(ExprPtr a, ExprPtr b) {
  std::vector<ExprPtr> items = one(std::move(a));
  items.push_back(std::move(b));
  return items;
}

ExprPtr constant(Value value, int32_t line) {
  auto expr = std::make_unique<Expr>();
  expr->line = line;
  expr->constant = std::move(value);
  return expr;
}

}  // namespace

Result<ExprPtr> ExpressionParser::node(ExprKind kind, int32_t line, std::vector<ExprPtr> items) {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->line = line;
  for (const ExprPtr& item : items) {
    if (item) {
      expr->depth = std::max(expr->depth, item->depth + 1);
    }
  }
  expr->items = std::move(items);
  if (expr->depth > depth_max_) {
    return too_deep(line);
  }
  return expr;
}

Status ExpressionParser::deepen(Expr& expr, const ArgumentExprs& arguments) const {
  const auto take = [&expr](const ExprPtr& item) {
    if (item) {
      expr.depth = std::max(expr.depth, item->depth + 1);
    }
  };
  std::for_each(arguments.positional.begin(), arguments.positional.end(), take);
  for (const auto& [argument, value] : arguments.named) {
    take(value);
  }
  take(arguments.star);
  take(arguments.star_star);
  if (expr.depth > depth_max_) {
    return too_deep(expr.line);
  }
  return Ok{};
}

template <class Next>
Result<ExprPtr> ExpressionParser::binary_chain(Next next_level,
                                               std::initializer_list<std::pair<std::string_view, BinaryOp>> ops) {
  WEIR_ASSIGN_OR_RETURN(ExprPtr left, next_level());
  while (true) {
    const auto* op = std::find_if(ops.begin(), ops.end(), [this](const auto& entry) { return is_op(entry.first); });
    if (op == ops.end()) {
      return left;
    }
    const int32_t line = next().line;
    WEIR_ASSIGN_OR_RETURN(ExprPtr right, next_level());
    WEIR_ASSIGN_OR_RETURN(left, node(ExprKind::kBinary, line, two(std::move(left), std::move(right))));
    left->op = op->second;
  }
}

Result<ExprPtr> ExpressionParser::condition() {
  const Level level(*this);
  WEIR_RETURN_IF_ERROR(check_depth());
  const int32_t line = current().line;
  const size_t unknown_before = unknown_.size();
  WEIR_ASSIGN_OR_RETURN(ExprPtr value, logical_or());
  while (skip_name("if")) {
    ++conditions_;
    auto test = logical_or();
    ExprPtr otherwise;
    Status status = Ok{};
    if (test.ok() && skip_name("else")) {
      auto parsed = condition();
      if (parsed.ok()) {
        otherwise = std::move(parsed).value();
      } else {
        status = std::move(parsed).error();
      }
    }
    --conditions_;
    WEIR_RETURN_IF_ERROR(std::move(status));
    WEIR_ASSIGN_OR_RETURN(ExprPtr test_value, std::move(test));
    std::vector<ExprPtr> items = two(std::move(test_value), std::move(value));
    items.push_back(std::move(otherwise));
    WEIR_ASSIGN_OR_RETURN(value, node(ExprKind::kCondition, line, std::move(items)));
    // The value turned out to be conditional, so an unknown name in it is no error yet.
    unknown_.resize(unknown_before);
  }
  return value;
}

Result<ExprPtr> ExpressionParser::logical_or() {
  WEIR_ASSIGN_OR_RETURN(ExprPtr left, logical_and());
  while (is_name("or")) {
    const int32_t line = next().line;
    WEIR_ASSIGN_OR_RETURN(ExprPtr right, logical_and());
    WEIR_ASSIGN_OR_RETURN(left, node(ExprKind::kOr, line, two(std::move(left), std::move(right))));
  }
  return left;
}

Result<ExprPtr> ExpressionParser::logical_and() {
  WEIR_ASSIGN_OR_RETURN(ExprPtr left, logical_not());
  while (is_name("and")) {
    const int32_t line = next().line;
    WEIR_ASSIGN_OR_RETURN(ExprPtr right, logical_not());
    WEIR_ASSIGN_OR_RETURN(left, node(ExprKind::kAnd, line, two(std::move(left), std::move(right))));
  }
  return left;
}

Result<ExprPtr> ExpressionParser::logical_not() {
  if (!is_name("not")) {
    return compare();
  }
  const Level level(*this);
  WEIR_RETURN_IF_ERROR(check_depth());
  const int32_t line = next().line;
  WEIR_ASSIGN_OR_RETURN(ExprPtr value, logical_not());
  return node(ExprKind::kNot, line, one(std::move(value)));
}

Result<ExprPtr> ExpressionParser::compare() {
  static constexpr std::pair<std::string_view, CompareOp> kOps[] = {
      {"==", CompareOp::kEqual},     {"!=", CompareOp::kNotEqual}, {"<", CompareOp::kLess},
      {"<=", CompareOp::kLessEqual}, {">", CompareOp::kGreater},   {">=", CompareOp::kGreaterEqual}};
  const int32_t line = current().line;
  WEIR_ASSIGN_OR_RETURN(ExprPtr first, sum());
  std::vector<ExprPtr> items = one(std::move(first));
  std::vector<CompareOp> compares;
  while (true) {
    const auto* op =
        std::find_if(std::begin(kOps), std::end(kOps), [this](const auto& entry) { return is_op(entry.first); });
    if (op != std::end(kOps)) {
      next();
      compares.push_back(op->second);
    } else if (skip_name("in")) {
      compares.push_back(CompareOp::kIn);
    } else if (is_name("not") && look().kind == TokenKind::kName && look().text == "in") {
      next();
      next();
      compares.push_back(CompareOp::kNotIn);
    } else {
      break;
    }
    WEIR_ASSIGN_OR_RETURN(ExprPtr operand, sum());
    items.push_back(std::move(operand));
  }
  if (compares.empty()) {
    return std::move(items[0]);
  }
  WEIR_ASSIGN_OR_RETURN(ExprPtr expr, node(ExprKind::kCompare, line, std::move(items)));
  expr->compares = std::move(compares);
  return expr;
}

Result<ExprPtr> ExpressionParser::sum() {
  return binary_chain([this] { return concat(); }, {{"+", BinaryOp::kAdd}, {"-", BinaryOp::kSubtract}});
}

Result<ExprPtr> ExpressionParser::concat() {
  const int32_t line = current().line;
  WEIR_ASSIGN_OR_RETURN(ExprPtr first, product());
  if (!is_op("~")) {
    return first;
  }
  std::vector<ExprPtr> items = one(std::move(first));
  while (skip_op("~")) {
    WEIR_ASSIGN_OR_RETURN(ExprPtr operand, product());
    items.push_back(std::move(operand));
  }
  return node(ExprKind::kConcat, line, std::move(items));
}

Result<ExprPtr> ExpressionParser::product() {
  return binary_chain(
      [this] { return power(); },
      {{"*", BinaryOp::kMultiply}, {"/", BinaryOp::kDivide}, {"//", BinaryOp::kFloorDivide}, {"%", BinaryOp::kModulo}});
}

Result<ExprPtr> ExpressionParser::power() {
  // Left to right, unlike Python: so jinja2 reads it.
  return binary_chain([this] { return unary(true); }, {{"**", BinaryOp::kPower}});
}

Result<ExprPtr> ExpressionParser::unary(bool with_filters) {
  const Level level(*this);
  WEIR_RETURN_IF_ERROR(check_depth());
  const int32_t line = current().line;
  ExprPtr value;
  if (is_op("-") || is_op("+")) {
    const ExprKind kind = next().text == "-" ? ExprKind::kNegate : ExprKind::kPlus;
    WEIR_ASSIGN_OR_RETURN(ExprPtr operand, unary(false));
    WEIR_ASSIGN_OR_RETURN(value, node(kind, line, one(std::move(operand))));
  } else {
    WEIR_ASSIGN_OR_RETURN(value, primary(false));
  }
  WEIR_ASSIGN_OR_RETURN(value, postfix(std::move(value)));
  return with_filters ? filters_and_tests(std::move(value)) : Result<ExprPtr>(std::move(value));
}

Result<ExprPtr> ExpressionParser::name(bool namespaces) {
  const Token& token = next();
  if (token.text == "true" || token.text == "True" || token.text == "false" || token.text == "False") {
    return constant(Value(token.text[0] == 't' || token.text[0] == 'T'), token.line);
  }
  if (token.text == "none" || token.text == "None") {
    return constant(Value(), token.line);
  }
  const bool reference = namespaces && is_op(".");
  WEIR_ASSIGN_OR_RETURN(ExprPtr expr, node(reference ? ExprKind::kNamespaceRef : ExprKind::kName, token.line, {}));
  expr->name = token.text;
  if (reference) {
    next();
    WEIR_ASSIGN_OR_RETURN(expr->attribute, expect_name());
  }
  for (MacroNode* macro : macros_) {
    macro->uses_caller |= expr->name == "caller";
    macro->uses_varargs |= expr->name == "varargs";
    macro->uses_kwargs |= expr->name == "kwargs";
  }
  return expr;
}

Result<ExprPtr> ExpressionParser::primary(bool namespaces) {
  const Token& token = current();
  switch (token.kind) {
    case TokenKind::kName:
      return name(namespaces);
    case TokenKind::kString: {
      std::string text;
      while (is(TokenKind::kString)) {
        text += next().text;
      }
      return constant(Value::text(std::move(text)), token.line);
    }
    case TokenKind::kInteger:
      next();
      return constant(Value(token.integer), token.line);
    case TokenKind::kFloat:
      next();
      return constant(Value(token.number), token.line);
    default:
      break;
  }
  if (is_op("(")) {
    next();
    TupleRules rules;
    rules.parentheses = true;
    WEIR_ASSIGN_OR_RETURN(ExprPtr value, tuple(rules));
    WEIR_RETURN_IF_ERROR(expect_op(")"));
    return value;
  }
  if (is_op("[")) {
    return list();
  }
  if (is_op("{")) {
    return dict();
  }
  return syntax_error(token.line, fmt::format("unexpected '{}'", describe(token)));
}

Result<ExprPtr> ExpressionParser::tuple(const TupleRules& rules) {
  const Level level(*this);
  WEIR_RETURN_IF_ERROR(check_depth());
  const int32_t line = current().line;
  std::vector<ExprPtr> items;
  bool is_tuple = false;
  while (true) {
    const bool ends = is(TokenKind::kVariableEnd) || is(TokenKind::kBlockEnd) || is_op(")") ||
                      (!rules.end_name.empty() && is_name(rules.end_name));
    if (ends) {
      break;
    }
    auto item =
        rules.targets ? primary(rules.namespaces) : (rules.conditions ? expression() : expression_without_condition());
    WEIR_ASSIGN_OR_RETURN(ExprPtr value, std::move(item));
    items.push_back(std::move(value));
    if (!skip_op(",")) {
      break;
    }
    is_tuple = true;
  }
  if (!is_tuple) {
    if (!items.empty()) {
      return std::move(items[0]);
    }
    if (!rules.parentheses) {
      return syntax_error(line, fmt::format("expected an expression, got '{}'", describe(current())));
    }
  }
  return node(ExprKind::kTuple, line, std::move(items));
}

Result<ExprPtr> ExpressionParser::list() {
  const int32_t line = next().line;
  std::vector<ExprPtr> items;
  while (!is_op("]")) {
    if (!items.empty()) {
      WEIR_RETURN_IF_ERROR(expect_op(","));
      if (is_op("]")) {
        break;
      }
    }
    WEIR_ASSIGN_OR_RETURN(ExprPtr item, expression());
    items.push_back(std::move(item));
  }
  next();
  return node(ExprKind::kList, line, std::move(items));
}

Result<ExprPtr> ExpressionParser::dict() {
  const int32_t line = next().line;
  std::vector<ExprPtr> items;
  while (!is_op("}")) {
    if (!items.empty()) {
      WEIR_RETURN_IF_ERROR(expect_op(","));
      if (is_op("}")) {
        break;
      }
    }
    WEIR_ASSIGN_OR_RETURN(ExprPtr key, expression());
    WEIR_RETURN_IF_ERROR(expect_op(":"));
    WEIR_ASSIGN_OR_RETURN(ExprPtr value, expression());
    items.push_back(std::move(key));
    items.push_back(std::move(value));
  }
  next();
  return node(ExprKind::kDict, line, std::move(items));
}

Result<ExprPtr> ExpressionParser::postfix(ExprPtr value) {
  while (true) {
    if (is_op(".") || is_op("[")) {
      WEIR_ASSIGN_OR_RETURN(value, subscript(std::move(value)));
    } else if (is_op("(")) {
      WEIR_ASSIGN_OR_RETURN(value, call(std::move(value)));
    } else {
      return value;
    }
  }
}

Result<ExprPtr> ExpressionParser::filters_and_tests(ExprPtr value) {
  while (true) {
    if (is_op("|")) {
      WEIR_ASSIGN_OR_RETURN(value, filters(std::move(value), false));
    } else if (is_name("is")) {
      WEIR_ASSIGN_OR_RETURN(value, test(std::move(value)));
    } else if (is_op("(")) {
      WEIR_ASSIGN_OR_RETURN(value, call(std::move(value)));
    } else {
      return value;
    }
  }
}

Result<ExprPtr> ExpressionParser::subscript(ExprPtr value) {
  const Token& token = next();
  if (token.text == ".") {
    const Token& attribute = next();
    if (attribute.kind == TokenKind::kName) {
      WEIR_ASSIGN_OR_RETURN(ExprPtr expr, node(ExprKind::kAttribute, token.line, one(std::move(value))));
      expr->name = attribute.text;
      return expr;
    }
    if (attribute.kind != TokenKind::kInteger) {
      return syntax_error(attribute.line, "expected name or number");
    }
    return node(ExprKind::kSubscript, token.line,
                two(std::move(value), constant(Value(attribute.integer), token.line)));
  }
  std::vector<ExprPtr> keys;
  while (!is_op("]")) {
    if (!keys.empty()) {
      WEIR_RETURN_IF_ERROR(expect_op(","));
    }
    bool is_slice = false;
    WEIR_ASSIGN_OR_RETURN(ExprPtr key, subscribed(std::move(value), is_slice));
    if (is_slice) {
      if (!keys.empty() || !is_op("]")) {
        return syntax_error(token.line, "slices in a tuple are not supported");
      }
      next();
      return key;
    }
    // A plain key hands the sliced value back as its first item.
    value = std::move(key->items[0]);
    keys.push_back(std::move(key->items[1]));
  }
  next();
  if (keys.size() == 1) {
    return node(ExprKind::kSubscript, token.line, two(std::move(value), std::move(keys[0])));
  }
  WEIR_ASSIGN_OR_RETURN(ExprPtr key, node(ExprKind::kTuple, token.line, std::move(keys)));
  return node(ExprKind::kSubscript, token.line, two(std::move(value), std::move(key)));
}

// `value[key]` or, with `is_slice` set, `value[from:to:step]`.
Result<ExprPtr> ExpressionParser::subscribed(ExprPtr value, bool& is_slice) {
  const int32_t line = current().line;
  std::vector<ExprPtr> items = one(std::move(value));
  ExprPtr part;
  if (!is_op(":")) {
    WEIR_ASSIGN_OR_RETURN(part, expression());
    if (!is_op(":")) {
      items.push_back(std::move(part));
      return node(ExprKind::kSubscript, line, std::move(items));
    }
  }
  is_slice = true;
  items.push_back(std::move(part));
  for (int bound = 0; bound < 2; ++bound) {
    ExprPtr limit;
    if (skip_op(":") && !is_op(":") && !is_op("]") && !is_op(",")) {
      WEIR_ASSIGN_OR_RETURN(limit, expression());
    }
    items.push_back(std::move(limit));
  }
  return node(ExprKind::kSlice, line, std::move(items));
}

Result<ArgumentExprs> ExpressionParser::arguments() {
  const int32_t line = next().line;
  ArgumentExprs result;
  bool first = true;
  while (!is_op(")")) {
    if (!first) {
      WEIR_RETURN_IF_ERROR(expect_op(","));
      if (is_op(")")) {
        break;
      }
    }
    first = false;
    const bool plain = !result.star && !result.star_star;
    bool valid = true;
    if (skip_op("*")) {
      valid = plain;
      WEIR_ASSIGN_OR_RETURN(result.star, expression());
    } else if (skip_op("**")) {
      valid = !result.star_star;
      WEIR_ASSIGN_OR_RETURN(result.star_star, expression());
    } else if (is(TokenKind::kName) && look().kind == TokenKind::kOperator && look().text == "=") {
      valid = !result.star_star;
      std::string key = next().text;
      next();
      WEIR_ASSIGN_OR_RETURN(ExprPtr value, expression());
      result.named.emplace_back(std::move(key), std::move(value));
    } else {
      valid = plain && result.named.empty();
      WEIR_ASSIGN_OR_RETURN(ExprPtr value, expression());
      result.positional.push_back(std::move(value));
    }
    if (!valid) {
      return syntax_error(line, "invalid syntax for function call expression");
    }
  }
  next();
  return result;
}

Result<ExprPtr> ExpressionParser::call(ExprPtr value) {
  const int32_t line = current().line;
  WEIR_ASSIGN_OR_RETURN(ArgumentExprs call_arguments, arguments());
  WEIR_ASSIGN_OR_RETURN(ExprPtr expr, node(ExprKind::kCall, line, one(std::move(value))));
  WEIR_RETURN_IF_ERROR(deepen(*expr, call_arguments));
  expr->arguments = std::move(call_arguments);
  return expr;
}

Result<std::string> ExpressionParser::dotted_name() {
  WEIR_ASSIGN_OR_RETURN(std::string name, expect_name());
  while (skip_op(".")) {
    WEIR_ASSIGN_OR_RETURN(const std::string part, expect_name());
    name += "." + part;
  }
  return name;
}

Result<ExprPtr> ExpressionParser::filters(ExprPtr value, bool inline_start) {
  if (!value) {
    WEIR_ASSIGN_OR_RETURN(value, node(ExprKind::kFilterInput, current().line, {}));
  }
  while (is_op("|") || inline_start) {
    if (!inline_start) {
      next();
    }
    inline_start = false;
    const int32_t line = current().line;
    WEIR_ASSIGN_OR_RETURN(std::string name, dotted_name());
    if (conditions_ == 0 && find_filter(name) == nullptr) {
      unknown_.push_back(syntax_error(line, fmt::format("no filter named '{}'", name)));
    }
    WEIR_ASSIGN_OR_RETURN(ExprPtr expr, node(ExprKind::kFilter, line, one(std::move(value))));
    expr->name = std::move(name);
    if (is_op("(")) {
      WEIR_ASSIGN_OR_RETURN(expr->arguments, arguments());
      WEIR_RETURN_IF_ERROR(deepen(*expr, expr->arguments));
    }
    value = std::move(expr);
  }
  return value;
}

Result<ExprPtr> ExpressionParser::test(ExprPtr value) {
  const int32_t line = next().line;
  const bool negated = skip_name("not");
  WEIR_ASSIGN_OR_RETURN(std::string name, dotted_name());
  if (conditions_ == 0 && find_test(name) == nullptr) {
    unknown_.push_back(syntax_error(line, fmt::format("no test named '{}'", name)));
  }
  WEIR_ASSIGN_OR_RETURN(ExprPtr expr, node(ExprKind::kTest, line, one(std::move(value))));
  expr->name = std::move(name);
  const TokenKind kind = current().kind;
  if (is_op("(")) {
    WEIR_ASSIGN_OR_RETURN(expr->arguments, arguments());
  } else if (kind == TokenKind::kString || kind == TokenKind::kInteger || kind == TokenKind::kFloat || is_op("[") ||
             is_op("{") || (kind == TokenKind::kName && !is_name("else") && !is_name("or") && !is_name("and"))) {
    if (is_name("is")) {
      return syntax_error(line, "tests cannot be chained with 'is'");
    }
    WEIR_ASSIGN_OR_RETURN(ExprPtr argument, primary(false));
    WEIR_ASSIGN_OR_RETURN(argument, postfix(std::move(argument)));
    expr->arguments.positional.push_back(std::move(argument));
  }
  WEIR_RETURN_IF_ERROR(deepen(*expr, expr->arguments));
  return negated ? node(ExprKind::kNot, line, one(std::move(expr))) : Result<ExprPtr>(std::move(expr));
}

}  // namespace weir::jinja
