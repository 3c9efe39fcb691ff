#include <algorithm>

#include "text/jinja/evaluator.h"
#include "text/jinja/filters.h"
#include "text/jinja/operators.h"
#include "text/jinja/predicates.h"
#include "text/jinja/show.h"

namespace weir::jinja {
Status Evaluator::check_depth() const {
  if (depth_ > runtime_.limits().eval_depth_max) {
    return make_error(ErrorCode::kTooLarge, "evaluation nested deeper than {} levels (eval_depth_max)",
                      runtime_.limits().eval_depth_max);
  }
  return Ok{};
}

Value Evaluator::lookup(std::string_view name) const {
  for (const Scope* scope = scope_; scope != nullptr; scope = scope->parent) {
    for (const auto& [variable, value] : scope->variables) {
      if (variable == name) {
        return value;
      }
    }
  }
  if (const Value* value = context_.dict().find(name)) {
    return *value;
  }
  if (const Value* global = find_global(name)) {
    return *global;
  }
  return Value::undefined(fmt::format("{} is undefined", repr_text(name)));
}

Result<Value> Evaluator::evaluate(const Expr& expr) {
  if (expr.kind == ExprKind::kConstant) {
    return expr.constant;
  }
  const DepthGuard guard(depth_);
  WEIR_RETURN_IF_ERROR(check_depth());
  WEIR_RETURN_IF_ERROR(runtime_.spend(1));
  line_ = expr.line;
  return evaluate_inner(expr);
}

Result<Value> Evaluator::evaluate_inner(const Expr& expr) {
  switch (expr.kind) {
    case ExprKind::kConstant:
      return expr.constant;
    case ExprKind::kName:
      return lookup(expr.name);
    case ExprKind::kAttribute:
      return evaluate_attribute(expr);
    case ExprKind::kSubscript:
      return evaluate_subscript(expr);
    case ExprKind::kSlice:
      return evaluate_slice(expr);
    case ExprKind::kCall: {
      WEIR_ASSIGN_OR_RETURN(const Value callee, evaluate(*expr.items[0]));
      WEIR_ASSIGN_OR_RETURN(const Arguments arguments, evaluate_arguments(expr.arguments));
      line_ = expr.line;
      return call(callee, arguments);
    }
    case ExprKind::kFilter:
      return evaluate_filter(expr);
    case ExprKind::kFilterInput:
      return filter_inputs_.back();
    case ExprKind::kTest:
      return evaluate_test(expr);
    case ExprKind::kList:
    case ExprKind::kTuple: {
      WEIR_ASSIGN_OR_RETURN(std::vector<Value> items, evaluate_items(expr));
      return runtime_.list(std::move(items), expr.kind == ExprKind::kList ? ListKind::kList : ListKind::kTuple);
    }
    case ExprKind::kDict:
      return evaluate_dict(expr);
    case ExprKind::kNot:
    case ExprKind::kNegate:
    case ExprKind::kPlus: {
      WEIR_ASSIGN_OR_RETURN(const Value value, evaluate(*expr.items[0]));
      if (expr.kind == ExprKind::kNot) {
        return Value(!truthy(value));
      }
      return expr.kind == ExprKind::kNegate ? negate(value) : plus(value);
    }
    case ExprKind::kBinary: {
      WEIR_ASSIGN_OR_RETURN(const Value left, evaluate(*expr.items[0]));
      WEIR_ASSIGN_OR_RETURN(const Value right, evaluate(*expr.items[1]));
      line_ = expr.line;
      return binary(runtime_, expr.op, left, right);
    }
    case ExprKind::kConcat:
      return evaluate_concat(expr);
    case ExprKind::kAnd:
    case ExprKind::kOr: {
      WEIR_ASSIGN_OR_RETURN(const Value left, evaluate(*expr.items[0]));
      return truthy(left) == (expr.kind == ExprKind::kOr) ? Result<Value>(left) : evaluate(*expr.items[1]);
    }
    case ExprKind::kCompare:
      return evaluate_compare(expr);
    case ExprKind::kCondition:
      return evaluate_condition(expr);
    case ExprKind::kNamespaceRef:
      break;
  }
  return make_error(ErrorCode::kInternal, "an assignment target cannot be evaluated");
}

Result<std::vector<Value>> Evaluator::evaluate_items(const Expr& expr) {
  std::vector<Value> values;
  values.reserve(expr.items.size());
  for (const ExprPtr& item : expr.items) {
    WEIR_ASSIGN_OR_RETURN(Value value, evaluate(*item));
    values.push_back(std::move(value));
  }
  return values;
}

Result<Value> Evaluator::evaluate_dict(const Expr& expr) {
  WEIR_ASSIGN_OR_RETURN(std::vector<Value> items, evaluate_items(expr));
  Dict dict;
  for (size_t i = 0; i < items.size(); i += 2) {
    if (!hashable(items[i])) {
      return failure("unhashable type: '{}'", type_name(items[i]));
    }
    dict.set(std::move(items[i]), std::move(items[i + 1]));
  }
  return runtime_.dict(std::move(dict));
}

Result<Value> Evaluator::evaluate_compare(const Expr& expr) {
  WEIR_ASSIGN_OR_RETURN(Value left, evaluate(*expr.items[0]));
  for (size_t i = 0; i < expr.compares.size(); ++i) {
    WEIR_ASSIGN_OR_RETURN(Value right, evaluate(*expr.items[i + 1]));
    line_ = expr.line;
    WEIR_ASSIGN_OR_RETURN(const bool holds, compare(runtime_, expr.compares[i], left, right));
    if (!holds) {
      return Value(false);
    }
    left = std::move(right);
  }
  return Value(true);
}

Result<Value> Evaluator::evaluate_concat(const Expr& expr) {
  std::string text;
  for (const ExprPtr& item : expr.items) {
    WEIR_ASSIGN_OR_RETURN(const Value value, evaluate(*item));
    WEIR_ASSIGN_OR_RETURN(const std::string part, to_text(runtime_, value));
    WEIR_RETURN_IF_ERROR(runtime_.check_room(static_cast<int64_t>(text.size() + part.size())));
    text += part;
  }
  return runtime_.string(std::move(text));
}

Result<Value> Evaluator::evaluate_condition(const Expr& expr) {
  WEIR_ASSIGN_OR_RETURN(const Value test, evaluate(*expr.items[0]));
  if (truthy(test)) {
    return evaluate(*expr.items[1]);
  }
  if (expr.items[2]) {
    return evaluate(*expr.items[2]);
  }
  return Value::undefined(fmt::format(
      "the inline if-expression on line {} evaluated to false and no else section was defined.", expr.line));
}

Result<Value> Evaluator::evaluate_slice(const Expr& expr) {
  Value parts[4];
  for (size_t i = 0; i < 4; ++i) {
    if (expr.items[i]) {
      WEIR_ASSIGN_OR_RETURN(parts[i], evaluate(*expr.items[i]));
    }
  }
  line_ = expr.line;
  return get_slice(runtime_, parts[0], parts[1], parts[2], parts[3]);
}

Result<Value> Evaluator::evaluate_filter(const Expr& expr) {
  WEIR_ASSIGN_OR_RETURN(const Value value, evaluate(*expr.items[0]));
  const FilterFunction filter = find_filter(expr.name);
  if (filter == nullptr) {
    return failure("no filter named '{}'", expr.name);
  }
  WEIR_ASSIGN_OR_RETURN(const Arguments arguments, evaluate_arguments(expr.arguments));
  line_ = expr.line;
  if (value.is(Kind::kLoop) && (expr.name == "length" || expr.name == "count")) {
    WEIR_ASSIGN_OR_RETURN(const int64_t length, loop_length(value.loop()));
    return Value(length);
  }
  return filter(runtime_, value, arguments);
}

Result<Value> Evaluator::evaluate_test(const Expr& expr) {
  WEIR_ASSIGN_OR_RETURN(const Value value, evaluate(*expr.items[0]));
  const TestFunction test = find_test(expr.name);
  if (test == nullptr) {
    return failure("no test named '{}'", expr.name);
  }
  WEIR_ASSIGN_OR_RETURN(const Arguments arguments, evaluate_arguments(expr.arguments));
  line_ = expr.line;
  WEIR_ASSIGN_OR_RETURN(const bool passes, test(runtime_, value, arguments));
  return Value(passes);
}

Result<Value> Evaluator::evaluate_attribute(const Expr& expr) {
  WEIR_ASSIGN_OR_RETURN(const Value object, evaluate(*expr.items[0]));
  line_ = expr.line;
  if (object.is(Kind::kLoop)) {
    return loop_attribute(object.loop(), expr.name);
  }
  return get_attribute(runtime_, object, expr.name);
}

Result<Value> Evaluator::evaluate_subscript(const Expr& expr) {
  WEIR_ASSIGN_OR_RETURN(const Value object, evaluate(*expr.items[0]));
  WEIR_ASSIGN_OR_RETURN(const Value key, evaluate(*expr.items[1]));
  line_ = expr.line;
  if (object.is(Kind::kLoop) && key.is_string()) {
    return loop_attribute(object.loop(), key.string());
  }
  return get_item(runtime_, object, key);
}

Result<Arguments> Evaluator::evaluate_arguments(const ArgumentExprs& exprs) {
  Arguments arguments;
  for (const ExprPtr& expr : exprs.positional) {
    WEIR_ASSIGN_OR_RETURN(Value value, evaluate(*expr));
    arguments.positional.push_back(std::move(value));
  }
  for (const auto& [name, expr] : exprs.named) {
    WEIR_ASSIGN_OR_RETURN(Value value, evaluate(*expr));
    const auto same = [&name = name](const auto& entry) { return entry.first == name; };
    if (std::any_of(arguments.named.begin(), arguments.named.end(), same)) {
      return failure("keyword argument repeated: {}", name);
    }
    arguments.named.emplace_back(name, std::move(value));
  }
  if (exprs.star) {
    WEIR_ASSIGN_OR_RETURN(const Value value, evaluate(*exprs.star));
    WEIR_ASSIGN_OR_RETURN(const std::vector<Value> items, runtime_.items_of(value));
    arguments.positional.insert(arguments.positional.end(), items.begin(), items.end());
  }
  if (exprs.star_star) {
    WEIR_ASSIGN_OR_RETURN(const Value value, evaluate(*exprs.star_star));
    if (!value.is_dict()) {
      return failure("argument after ** must be a mapping, not {}", type_name(value));
    }
    for (const auto& [key, entry] : value.dict().entries()) {
      const auto same = [&key = key](const auto& named) { return named.first == key.string(); };
      if (!key.is_string() || std::any_of(arguments.named.begin(), arguments.named.end(), same)) {
        return failure("keywords must be strings, each given once");
      }
      arguments.named.emplace_back(key.string(), entry);
    }
  }
  return arguments;
}

}  // namespace weir::jinja
