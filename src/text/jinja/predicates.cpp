#include "text/jinja/predicates.h"

#include <algorithm>

#include "text/jinja/filters.h"
#include "text/jinja/operators.h"
#include "text/jinja/show.h"
#include "text/jinja/unicode.h"

namespace weir::jinja {
namespace {

using Bound = std::vector<std::optional<Value>>;

template <bool (*kTest)(const Value&)>
Result<bool> plain(Runtime&, const Value& value, const Arguments& arguments) {
  WEIR_RETURN_IF_ERROR(bind_arguments("test", arguments, {}, 0));
  return kTest(value);
}

bool is_defined(const Value& value) {
  return !value.is_undefined();
}
bool is_undefined(const Value& value) {
  return value.is_undefined();
}
bool is_none(const Value& value) {
  return value.is_none();
}
bool is_boolean(const Value& value) {
  return value.is(Kind::kBool);
}
bool is_true(const Value& value) {
  return value.is(Kind::kBool) && value.boolean();
}
bool is_false(const Value& value) {
  return value.is(Kind::kBool) && !value.boolean();
}
bool is_integer(const Value& value) {
  return value.is(Kind::kInt);
}
bool is_float(const Value& value) {
  return value.is(Kind::kFloat);
}
bool is_number(const Value& value) {
  return value.is_number();
}
bool is_text(const Value& value) {
  return value.is_string();
}
bool is_mapping(const Value& value) {
  return value.is_dict();
}
bool is_callable(const Value& value) {
  // Undefined has a __call__, which fails; Python calls it callable all the same. So is a loop.
  return value.is(Kind::kFunction) || value.is_undefined() || value.is(Kind::kLoop);
}
bool is_escaped(const Value& value) {
  return value.is_string() && value.str().markup;
}
bool is_sequence(const Value& value) {
  return value.is_string() || value.is_dict() || (value.is(Kind::kList) && value.list().kind <= ListKind::kGroup) ||
         value.is_undefined();
}
bool is_iterable(const Value& value) {
  return value.is_string() || value.is_dict() || value.is(Kind::kList) || value.is(Kind::kIterator) ||
         value.is_undefined() || value.is(Kind::kLoop);
}

template <bool kUpper>
Result<bool> cased(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_RETURN_IF_ERROR(bind_arguments("test", arguments, {}, 0));
  WEIR_ASSIGN_OR_RETURN(const std::string text, to_text(runtime, value));
  WEIR_RETURN_IF_ERROR(runtime.scan(text.size()));
  return is_all_cased(text, kUpper);
}

Result<bool> divides(Runtime& runtime, const Value& value, const Value& by, int expected) {
  WEIR_ASSIGN_OR_RETURN(const Value rest, binary(runtime, BinaryOp::kModulo, value, by));
  return equal(rest, Value(expected));
}

Result<bool> odd(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_RETURN_IF_ERROR(bind_arguments("odd", arguments, {}, 0));
  return divides(runtime, value, Value(2), 1);
}

Result<bool> even(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_RETURN_IF_ERROR(bind_arguments("even", arguments, {}, 0));
  return divides(runtime, value, Value(2), 0);
}

Result<bool> divisible_by(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("divisibleby", arguments, {"num"}, 1));
  return divides(runtime, value, *bound[0], 0);
}

template <CompareOp kOp>
Result<bool> comparison(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("comparison", arguments, {"other"}, 1));
  return compare(runtime, kOp, value, *bound[0]);
}

Result<bool> same_as(Runtime&, const Value& value, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("sameas", arguments, {"other"}, 1));
  return value.same_as(*bound[0]);
}

Result<bool> names_filter(Runtime&, const Value& value, const Arguments& arguments) {
  WEIR_RETURN_IF_ERROR(bind_arguments("filter", arguments, {}, 0));
  return value.is_string() && find_filter(value.string()) != nullptr;
}

Result<bool> names_test(Runtime&, const Value& value, const Arguments& arguments) {
  WEIR_RETURN_IF_ERROR(bind_arguments("test", arguments, {}, 0));
  return value.is_string() && find_test(value.string()) != nullptr;
}

struct TestEntry {
  std::string_view name;
  TestFunction function;
};

constexpr TestEntry kTests[] = {
    {"!=", comparison<CompareOp::kNotEqual>},
    {"<", comparison<CompareOp::kLess>},
    {"<=", comparison<CompareOp::kLessEqual>},
    {"==", comparison<CompareOp::kEqual>},
    {">", comparison<CompareOp::kGreater>},
    {">=", comparison<CompareOp::kGreaterEqual>},
    {"boolean", plain<is_boolean>},
    {"callable", plain<is_callable>},
    {"defined", plain<is_defined>},
    {"divisibleby", divisible_by},
    {"eq", comparison<CompareOp::kEqual>},
    {"equalto", comparison<CompareOp::kEqual>},
    {"escaped", plain<is_escaped>},
    {"even", even},
    {"false", plain<is_false>},
    {"filter", names_filter},
    {"float", plain<is_float>},
    {"ge", comparison<CompareOp::kGreaterEqual>},
    {"greaterthan", comparison<CompareOp::kGreater>},
    {"gt", comparison<CompareOp::kGreater>},
    {"in", comparison<CompareOp::kIn>},
    {"integer", plain<is_integer>},
    {"iterable", plain<is_iterable>},
    {"le", comparison<CompareOp::kLessEqual>},
    {"lessthan", comparison<CompareOp::kLess>},
    {"lower", cased<false>},
    {"lt", comparison<CompareOp::kLess>},
    {"mapping", plain<is_mapping>},
    {"ne", comparison<CompareOp::kNotEqual>},
    {"none", plain<is_none>},
    {"number", plain<is_number>},
    {"odd", odd},
    {"sameas", same_as},
    {"sequence", plain<is_sequence>},
    {"string", plain<is_text>},
    {"test", names_test},
    {"true", plain<is_true>},
    {"undefined", plain<is_undefined>},
    {"upper", cased<true>},
};

}  // namespace

TestFunction find_test(std::string_view name) {
  const auto* it =
      std::find_if(std::begin(kTests), std::end(kTests), [name](const TestEntry& entry) { return entry.name == name; });
  return it == std::end(kTests) ? nullptr : it->function;
}

}  // namespace weir::jinja
