#include "text/jinja/operators.h"

#include <algorithm>
#include <cmath>

#include "text/jinja/show.h"

namespace weir::jinja {
namespace {

constexpr const char* kSymbols[] = {"+", "-", "*", "/", "//", "%", "**"};

Error overflow() {
  return failure("integer overflow: this engine computes with 128 bits");
}

Error wrong_types(BinaryOp op, const Value& a, const Value& b) {
  return failure("unsupported operand type(s) for {}: '{}' and '{}'",
                 op == BinaryOp::kPower ? "** or pow()" : kSymbols[static_cast<size_t>(op)], type_name(a),
                 type_name(b));
}

Result<Value> power_int(Int base, Int exponent) {
  if (exponent < 0) {
    if (base == 0) {
      return failure("0.0 cannot be raised to a negative power");
    }
    return Value(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  Int result = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) {
      return overflow();
    }
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) {
      return overflow();
    }
  }
  return Value(result);
}

Result<Value> integers(BinaryOp op, Int a, Int b) {
  Int result = 0;
  bool overflows = false;
  switch (op) {
    case BinaryOp::kAdd:
      overflows = __builtin_add_overflow(a, b, &result);
      break;
    case BinaryOp::kSubtract:
      overflows = __builtin_sub_overflow(a, b, &result);
      break;
    case BinaryOp::kMultiply:
      overflows = __builtin_mul_overflow(a, b, &result);
      break;
    case BinaryOp::kPower:
      return power_int(a, b);
    case BinaryOp::kDivide:
    case BinaryOp::kFloorDivide:
    case BinaryOp::kModulo: {
      if (b == 0) {
        return failure("{}", op == BinaryOp::kDivide ? "division by zero" : "integer division or modulo by zero");
      }
      if (op == BinaryOp::kDivide) {
        return Value(static_cast<double>(a) / static_cast<double>(b));
      }
      if (b == -1) {
        // The one quotient that can overflow.
        overflows = op == BinaryOp::kFloorDivide && __builtin_sub_overflow(Int{0}, a, &result);
        break;
      }
      const Int remainder = a % b;
      const bool adjust = remainder != 0 && (remainder < 0) != (b < 0);
      result = op == BinaryOp::kModulo ? remainder + (adjust ? b : 0) : a / b - (adjust ? 1 : 0);
      break;
    }
  }
  return overflows ? Result<Value>(overflow()) : Result<Value>(Value(result));
}

Result<Value> floats(BinaryOp op, double a, double b) {
  switch (op) {
    case BinaryOp::kAdd:
      return Value(a + b);
    case BinaryOp::kSubtract:
      return Value(a - b);
    case BinaryOp::kMultiply:
      return Value(a * b);
    case BinaryOp::kPower: {
      if (a == 0 && b < 0) {
        return failure("0.0 cannot be raised to a negative power");
      }
      const double result = std::pow(a, b);
      if (std::isinf(result) && std::isfinite(a) && std::isfinite(b)) {
        return failure("numerical result out of range");
      }
      if (std::isnan(result) && !std::isnan(a) && !std::isnan(b)) {
        return failure("complex numbers are not supported");
      }
      return Value(result);
    }
    default:
      break;
  }
  if (b == 0) {
    return failure("{}", op == BinaryOp::kDivide
                             ? "float division by zero"
                             : (op == BinaryOp::kModulo ? "float modulo" : "float floor division by zero"));
  }
  if (op == BinaryOp::kDivide) {
    return Value(a / b);
  }
  double remainder = std::fmod(a, b);
  double quotient = (a - remainder) / b;
  if (remainder != 0) {
    if ((b < 0) != (remainder < 0)) {
      remainder += b;
      quotient -= 1.0;
    }
  } else {
    remainder = std::copysign(0.0, b);
  }
  if (op == BinaryOp::kModulo) {
    return Value(remainder);
  }
  if (quotient == 0) {
    return Value(std::copysign(0.0, a / b));
  }
  const double whole = std::floor(quotient);
  return Value(quotient - whole > 0.5 ? whole + 1.0 : whole);
}

bool tuple_like(const Value& value) {
  return value.is_list_kind(ListKind::kTuple) || value.is_list_kind(ListKind::kGroup);
}

Result<Value> repeat(Runtime& runtime, const Value& sequence, Int count) {
  const Int times = std::max<Int>(count, 0);
  const size_t size = sequence.is_string() ? sequence.string().size() : sequence.list().items.size();
  if (times > 0 && static_cast<Int>(size) * static_cast<Int>(sizeof(Value)) > (Int{1} << 40) / times) {
    // Past any limit that can be set; keeps the product below within range.
    WEIR_RETURN_IF_ERROR(runtime.check_room(int64_t{1} << 40));
  }
  const auto n = static_cast<size_t>(size == 0 ? 0 : times);
  if (sequence.is_string()) {
    WEIR_RETURN_IF_ERROR(runtime.check_room(static_cast<int64_t>(size * n)));
    std::string text;
    text.reserve(size * n);
    for (size_t i = 0; i < n; ++i) {
      text += sequence.string();
    }
    return runtime.string(std::move(text), sequence.str().markup);
  }
  WEIR_RETURN_IF_ERROR(runtime.check_room(static_cast<int64_t>(size * n * sizeof(Value))));
  std::vector<Value> items;
  items.reserve(size * n);
  for (size_t i = 0; i < n; ++i) {
    items.insert(items.end(), sequence.list().items.begin(), sequence.list().items.end());
  }
  return runtime.list(std::move(items), tuple_like(sequence) ? ListKind::kTuple : ListKind::kList);
}

bool repeatable(const Value& value) {
  return value.is_string() || value.is_list_kind(ListKind::kList) || tuple_like(value);
}

}  // namespace

Result<Value> add(Runtime& runtime, const Value& a, const Value& b) {
  if (a.is_string() && b.is_string()) {
    const bool markup = a.str().markup || b.str().markup;
    WEIR_RETURN_IF_ERROR(runtime.check_room(static_cast<int64_t>(a.string().size() + b.string().size())));
    const auto part = [markup](const Str& s) { return markup && !s.markup ? html_escaped(s.text) : s.text; };
    return runtime.string(part(a.str()) + part(b.str()), markup);
  }
  const bool lists = a.is_list_kind(ListKind::kList) && b.is_list_kind(ListKind::kList);
  if (lists || (tuple_like(a) && tuple_like(b))) {
    const size_t size = a.list().items.size() + b.list().items.size();
    WEIR_RETURN_IF_ERROR(runtime.check_room(static_cast<int64_t>(size * sizeof(Value))));
    std::vector<Value> items = a.list().items;
    items.insert(items.end(), b.list().items.begin(), b.list().items.end());
    return runtime.list(std::move(items), lists ? ListKind::kList : ListKind::kTuple);
  }
  if (a.is_number() && b.is_number()) {
    return a.is_integral() && b.is_integral() ? integers(BinaryOp::kAdd, a.integer(), b.integer())
                                              : floats(BinaryOp::kAdd, a.number(), b.number());
  }
  if (a.is_undefined() || b.is_undefined()) {
    return failure("{}", (a.is_undefined() ? a : b).undefined().message);
  }
  if (a.is_string()) {
    return failure("can only concatenate str (not \"{}\") to str", type_name(b));
  }
  return wrong_types(BinaryOp::kAdd, a, b);
}

Result<Value> binary(Runtime& runtime, BinaryOp op, const Value& a, const Value& b) {
  if (op == BinaryOp::kAdd) {
    return add(runtime, a, b);
  }
  if (op == BinaryOp::kModulo && a.is_string()) {
    return percent_format(runtime, a, b);
  }
  if (a.is_undefined() || b.is_undefined()) {
    return failure("{}", (a.is_undefined() ? a : b).undefined().message);
  }
  if (a.is_number() && b.is_number()) {
    return a.is_integral() && b.is_integral() ? integers(op, a.integer(), b.integer())
                                              : floats(op, a.number(), b.number());
  }
  if (op == BinaryOp::kMultiply && repeatable(a) && b.is_integral()) {
    return repeat(runtime, a, b.integer());
  }
  if (op == BinaryOp::kMultiply && repeatable(b) && a.is_integral()) {
    return repeat(runtime, b, a.integer());
  }
  return wrong_types(op, a, b);
}

Result<Value> negate(const Value& value) {
  if (value.is_undefined()) {
    return failure("{}", value.undefined().message);
  }
  if (value.is_integral()) {
    return integers(BinaryOp::kSubtract, 0, value.integer());
  }
  if (value.is(Kind::kFloat)) {
    return Value(-value.number());
  }
  return failure("bad operand type for unary -: '{}'", type_name(value));
}

Result<Value> plus(const Value& value) {
  if (value.is_undefined()) {
    return failure("{}", value.undefined().message);
  }
  if (value.is_integral()) {
    return Value(value.integer());
  }
  if (value.is(Kind::kFloat)) {
    return value;
  }
  return failure("bad operand type for unary +: '{}'", type_name(value));
}

Result<bool> contains(Runtime& runtime, const Value& container, const Value& item) {
  switch (container.kind()) {
    case Kind::kUndefined:
      return false;
    case Kind::kString:
      if (!item.is_string()) {
        return failure("'in <string>' requires string as left operand, not {}", type_name(item));
      }
      WEIR_RETURN_IF_ERROR(runtime.scan(container.string().size()));
      return container.string().find(item.string()) != std::string::npos;
    case Kind::kDict:
      if (!hashable(item)) {
        return failure("unhashable type: '{}'", type_name(item));
      }
      return container.dict().find(item) != nullptr;
    case Kind::kList: {
      WEIR_RETURN_IF_ERROR(runtime.spend(std::min(
          extent_of(container).weight, static_cast<int64_t>(container.list().items.size()) * extent_of(item).weight)));
      const auto& items = container.list().items;
      return std::any_of(items.begin(), items.end(), [&item](const Value& other) { return equal(item, other); });
    }
    case Kind::kIterator: {
      WEIR_ASSIGN_OR_RETURN(const std::vector<Value> items, runtime.items_of(container));
      return std::any_of(items.begin(), items.end(), [&item](const Value& other) { return equal(item, other); });
    }
    default:
      return failure("argument of type '{}' is not iterable", type_name(container));
  }
}

namespace {

// less() names "<"; the message of the other three names what was written.
Result<bool> ordered(const Value& a, const Value& b, const Value& left, const Value& right, std::string_view symbol) {
  auto result = less(left, right);
  if (!result.ok() && result.error().message.starts_with("'<'")) {
    return failure("'{}' not supported between instances of '{}' and '{}'", symbol, type_name(a), type_name(b));
  }
  return result;
}

bool unordered(const Value& a, const Value& b) {
  return a.is_number() && b.is_number() && (std::isnan(a.number()) || std::isnan(b.number()));
}

}  // namespace

Result<bool> compare(Runtime& runtime, CompareOp op, const Value& a, const Value& b) {
  if (op == CompareOp::kIn || op == CompareOp::kNotIn) {
    WEIR_ASSIGN_OR_RETURN(const bool found, contains(runtime, b, a));
    return found == (op == CompareOp::kIn);
  }
  WEIR_RETURN_IF_ERROR(runtime.spend(std::min(extent_of(a).weight, extent_of(b).weight)));
  switch (op) {
    case CompareOp::kEqual:
      return equal(a, b);
    case CompareOp::kNotEqual:
      return !equal(a, b);
    case CompareOp::kLess:
      return less(a, b);
    case CompareOp::kGreater:
      return ordered(a, b, b, a, ">");
    default:
      break;
  }
  const bool less_equal = op == CompareOp::kLessEqual;
  WEIR_ASSIGN_OR_RETURN(const bool reversed, less_equal ? ordered(a, b, b, a, "<=") : ordered(a, b, a, b, ">="));
  return !reversed && !unordered(a, b);
}

}  // namespace weir::jinja
