// The half of the parser that reads expressions, in jinja2's order of precedence.
#pragma once

#include "text/jinja/parser_base.h"

namespace weir::jinja {

class ExpressionParser : protected ParserBase {
 protected:
  using ParserBase::ParserBase;

  Result<ExprPtr> expression() { return condition(); }
  Result<ExprPtr> expression_without_condition() { return logical_or(); }

  // What may stand at a place where commas make a tuple.
  struct TupleRules {
    bool targets = false;       // only names and literals, as the target of an assignment
    bool namespaces = false;    // `name.attribute` is a target
    bool conditions = true;     // `a if b else c` without parentheses
    bool parentheses = false;   // () is an empty tuple
    std::string_view end_name;  // a name that ends the tuple
  };
  Result<ExprPtr> tuple(const TupleRules& rules);
  // `tail` of a filter chain on `input` (null: a kFilterInput); `inline_start`: the first filter has no bar.
  Result<ExprPtr> filters(ExprPtr input, bool inline_start);

  // Macros whose bodies are being read, to note the special names that they use.
  std::vector<MacroNode*> macros_;
  // Inside a condition an unknown filter or test is an error only when it is reached.
  int conditions_ = 0;
  // Unknown filters and tests outside of conditions: the template is refused for the first of them.
  std::vector<Error> unknown_;

 private:
  Result<ExprPtr> node(ExprKind kind, int32_t line, std::vector<ExprPtr> items);
  template <class Next>
  Result<ExprPtr> binary_chain(Next next, std::initializer_list<std::pair<std::string_view, BinaryOp>> ops);
  Result<ExprPtr> condition();
  Result<ExprPtr> logical_or();
  Result<ExprPtr> logical_and();
  Result<ExprPtr> logical_not();
  Result<ExprPtr> compare();
  Result<ExprPtr> sum();
  Result<ExprPtr> concat();
  Result<ExprPtr> product();
  Result<ExprPtr> power();
  Result<ExprPtr> unary(bool with_filters);
  Result<ExprPtr> primary(bool namespaces);
  Result<ExprPtr> name(bool namespaces);
  Result<ExprPtr> postfix(ExprPtr value);
  Result<ExprPtr> filters_and_tests(ExprPtr value);
  Result<ExprPtr> subscript(ExprPtr value);
  Result<ExprPtr> subscribed(ExprPtr value, bool& is_slice);
  Result<ExprPtr> call(ExprPtr value);
  Result<ExprPtr> test(ExprPtr value);
  Result<ExprPtr> list();
  Result<ExprPtr> dict();
  Result<std::string> dotted_name();
  Result<ArgumentExprs> arguments();
  Status deepen(Expr& expr, const ArgumentExprs& arguments) const;
};

}  // namespace weir::jinja
