// Filters that make or change text and numbers.
#include <algorithm>
#include <cmath>

#include "text/jinja/filters.h"
#include "text/jinja/operators.h"
#include "text/jinja/show.h"
#include "text/jinja/unicode.h"

namespace weir::jinja {
namespace {

using Bound = std::vector<std::optional<Value>>;

// Text of any value; text that is markup stays markup.
Result<Value> soft_text(Runtime& runtime, const Value& value) {
  if (value.is_string()) {
    return value;
  }
  WEIR_ASSIGN_OR_RETURN(std::string text, to_text(runtime, value));
  return runtime.string(std::move(text));
}

// Applies the string method of the same name to the value as text.
template <const char* kMethod>
Result<Value> by_method(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Value text, soft_text(runtime, value));
  return call_method(runtime, text, kMethod, arguments);
}

constexpr char kUpper[] = "upper";
constexpr char kLower[] = "lower";
constexpr char kCapitalize[] = "capitalize";
constexpr char kStrip[] = "strip";

Result<Value> filter_title(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_RETURN_IF_ERROR(bind_arguments("title", arguments, {}, 0));
  WEIR_ASSIGN_OR_RETURN(const std::string text, to_text(runtime, value));
  WEIR_RETURN_IF_ERROR(runtime.check_room(static_cast<int64_t>(text.size() * 3)));
  std::string out;
  bool starts = true;
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    const uint32_t code = next_code(text, at);
    const bool separates = is_space(code) || code == '-' || code == '(' || code == '{' || code == '[' || code == '<';
    const std::string_view part = std::string_view(text).substr(start, at - start);
    out += starts ? to_upper(part) : to_lower(part);
    starts = separates;
  }
  return runtime.string(std::move(out));
}

Result<Value> filter_string(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_RETURN_IF_ERROR(bind_arguments("string", arguments, {}, 0));
  return soft_text(runtime, value);
}

Result<Value> filter_safe(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_RETURN_IF_ERROR(bind_arguments("safe", arguments, {}, 0));
  WEIR_ASSIGN_OR_RETURN(std::string text, to_text(runtime, value));
  return runtime.string(std::move(text), true);
}

template <bool kForce>
Result<Value> filter_escape(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_RETURN_IF_ERROR(bind_arguments("escape", arguments, {}, 0));
  if (!kForce && value.is_string() && value.str().markup) {
    return value;
  }
  WEIR_ASSIGN_OR_RETURN(const std::string text, to_text(runtime, value));
  // An escaped character is at most five bytes long.
  WEIR_RETURN_IF_ERROR(runtime.check_room(static_cast<int64_t>(text.size() * 5)));
  return runtime.string(html_escaped(text), true);
}

Result<Value> filter_replace(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("replace", arguments, {"old", "new", "count"}, 2));
  WEIR_ASSIGN_OR_RETURN(const std::string text, to_text(runtime, value));
  WEIR_ASSIGN_OR_RETURN(const std::string from, to_text(runtime, *bound[0]));
  WEIR_ASSIGN_OR_RETURN(const std::string to, to_text(runtime, *bound[1]));
  int64_t count = -1;
  if (bound[2] && !bound[2]->is_none()) {
    WEIR_ASSIGN_OR_RETURN(count, to_index(*bound[2]));
  }
  WEIR_ASSIGN_OR_RETURN(std::string out, replaced(runtime, text, from, to, count));
  return runtime.string(std::move(out));
}

Result<Value> filter_format(Runtime& runtime, const Value& value, const Arguments& arguments) {
  if (!arguments.positional.empty() && !arguments.named.empty()) {
    return failure("can't handle positional and keyword arguments at the same time");
  }
  WEIR_ASSIGN_OR_RETURN(const Value text, soft_text(runtime, value));
  if (!arguments.named.empty()) {
    Dict named;
    for (const auto& [name, argument] : arguments.named) {
      named.set(Value::text(name), argument);
    }
    WEIR_ASSIGN_OR_RETURN(const Value values, runtime.dict(std::move(named)));
    return percent_format(runtime, text, values);
  }
  WEIR_ASSIGN_OR_RETURN(const Value values, runtime.tuple(arguments.positional));
  return percent_format(runtime, text, values);
}

Result<Value> filter_indent(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("indent", arguments, {"width", "first", "blank"}, 0));
  if (!value.is_string()) {
    return value.is_undefined() ? failure("{}", value.undefined().message)
                                : failure("indent works on text, not on {}", type_name(value));
  }
  std::string indention(4, ' ');
  if (bound[0] && bound[0]->is_string()) {
    indention = bound[0]->string();
  } else if (bound[0]) {
    WEIR_ASSIGN_OR_RETURN(const int64_t width, to_index(*bound[0]));
    WEIR_RETURN_IF_ERROR(runtime.check_room(width));
    indention.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  const bool first = bound[1] && truthy(*bound[1]);
  const bool blank = bound[2] && truthy(*bound[2]);
  const std::string text = value.string() + "\n";
  WEIR_RETURN_IF_ERROR(runtime.work(static_cast<int64_t>(text.size())));
  const auto lines = split_lines(text, false);
  std::string out;
  for (size_t i = 0; i < lines.size(); ++i) {
    out += i == 0 ? "" : "\n";
    if (i == 0 ? first : (blank || !lines[i].empty())) {
      out += indention;
    }
    out += lines[i];
    WEIR_RETURN_IF_ERROR(runtime.check_room(static_cast<int64_t>(out.size())));
  }
  return runtime.string(std::move(out), value.str().markup);
}

Result<Value> filter_center(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("center", arguments, {"width"}, 0));
  WEIR_ASSIGN_OR_RETURN(const Value text, soft_text(runtime, value));
  Arguments width;
  width.positional.push_back(bound[0].value_or(Value(80)));
  return call_method(runtime, text, "center", width);
}

Result<Value> filter_truncate(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound,
                        bind_arguments("truncate", arguments, {"length", "killwords", "end", "leeway"}, 0));
  if (bound[2] && !bound[2]->is_string()) {
    return failure("truncate takes a text as its end, not {}", type_name(*bound[2]));
  }
  const std::string end = bound[2] ? bound[2]->string() : "...";
  const auto end_codes = static_cast<int64_t>(code_count(end));
  WEIR_ASSIGN_OR_RETURN(const int64_t length, to_index(bound[0].value_or(Value(255))));
  int64_t leeway = 5;
  if (bound[3] && !bound[3]->is_none()) {
    WEIR_ASSIGN_OR_RETURN(leeway, to_index(*bound[3]));
  }
  if (length < end_codes || leeway < 0) {
    return failure("truncate: expected length >= {} and leeway >= 0", end_codes);
  }
  WEIR_RETURN_IF_ERROR(runtime.scan(value.is_string() ? value.string().size() : 0));
  WEIR_ASSIGN_OR_RETURN(const int64_t size, length_of(value));
  if (size <= length + leeway) {
    return value;
  }
  if (!value.is_string()) {
    return failure("truncate works on text, not on {}", type_name(value));
  }
  const std::string& text = value.string();
  std::string cut = text.substr(0, byte_of_code(text, static_cast<size_t>(length - end_codes)));
  if (!bound[1] || !truthy(*bound[1])) {
    cut = cut.substr(0, cut.rfind(' '));
  }
  return runtime.string(cut + end);
}

Result<Value> filter_wordcount(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_RETURN_IF_ERROR(bind_arguments("wordcount", arguments, {}, 0));
  WEIR_ASSIGN_OR_RETURN(const std::string text, to_text(runtime, value));
  WEIR_RETURN_IF_ERROR(runtime.scan(text.size()));
  int64_t count = 0;
  bool in_word = false;
  for (size_t at = 0; at < text.size();) {
    const uint32_t code = next_code(text, at);
    const bool word = code == '_' || is_alnum(code);
    count += word && !in_word ? 1 : 0;
    in_word = word;
  }
  return Value(count);
}

// The digits of a Python number literal as text: white space cut, single underscores between digits dropped.
std::optional<std::string> literal_digits(std::string_view text) {
  text = strip(text, nullptr, true, true);
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out += text[i];
    } else if (i == 0 || i + 1 == text.size() || !isxdigit(static_cast<unsigned char>(text[i - 1])) ||
               !isxdigit(static_cast<unsigned char>(text[i + 1]))) {
      return std::nullopt;
    }
  }
  return out;
}

std::optional<double> parse_float(std::string_view text) {
  const auto digits = literal_digits(text);
  if (!digits || digits->empty()) {
    return std::nullopt;
  }
  const std::string lower = to_lower(*digits);
  const std::string_view magnitude = std::string_view(lower).substr(lower[0] == '-' || lower[0] == '+' ? 1 : 0);
  const bool named = magnitude == "inf" || magnitude == "infinity" || magnitude == "nan";
  if (!named && (magnitude.empty() || magnitude.find_first_not_of("0123456789.e+-") != std::string_view::npos)) {
    return std::nullopt;
  }
  char* end = nullptr;
  const double value = std::strtod(lower.c_str(), &end);
  return *end == '\0' ? std::optional<double>(value) : std::nullopt;
}

// Empty if the text is no integer of that base; an error if it is one that is too large.
Result<std::optional<Int>> parse_int(std::string_view text, int64_t base) {
  const auto literal = literal_digits(text);
  if (!literal) {
    return std::optional<Int>();
  }
  std::string_view digits = *literal;
  const bool negative = digits.starts_with('-');
  digits.remove_prefix(negative || digits.starts_with('+') ? 1 : 0);
  const std::string prefix = to_lower(digits.substr(0, 2));
  const int64_t marked = prefix == "0x" ? 16 : (prefix == "0o" ? 8 : (prefix == "0b" ? 2 : 0));
  if (marked != 0 && (base == marked || base == 0)) {
    base = marked;
    digits.remove_prefix(2);
  } else if (base == 0) {
    base = 10;
    if (digits.starts_with('0') && digits.find_first_not_of('0') != std::string_view::npos) {
      return std::optional<Int>();
    }
  }
  Int value = 0;
  for (const char c : digits) {
    const int64_t digit =
        c >= '0' && c <= '9' ? c - '0' : (isalpha(static_cast<unsigned char>(c)) ? (c | 0x20) - 'a' + 10 : 99);
    if (digit >= base) {
      return std::optional<Int>();
    }
    if (__builtin_mul_overflow(value, Int{base}, &value) || __builtin_add_overflow(value, Int{digit}, &value)) {
      return failure("integer overflow: this engine computes with 128 bits");
    }
  }
  return digits.empty() ? std::optional<Int>() : std::optional<Int>(negative ? -value : value);
}

Result<Value> int_of_float(double value, const Value& fallback) {
  if (std::isnan(value)) {
    return fallback;
  }
  if (std::fabs(value) > 1.7e38) {
    return failure("cannot convert float {} to integer", float_text(value));
  }
  return Value(static_cast<Int>(value));
}

Result<Value> filter_int(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("int", arguments, {"default", "base"}, 0));
  const Value fallback = bound[0].value_or(Value(0));
  if (value.is_undefined()) {
    return failure("{}", value.undefined().message);
  }
  if (value.is_integral()) {
    return Value(value.integer());
  }
  if (value.is(Kind::kFloat)) {
    return int_of_float(value.number(), fallback);
  }
  if (!value.is_string()) {
    return fallback;
  }
  WEIR_RETURN_IF_ERROR(runtime.scan(value.string().size()));
  int64_t base = 10;
  if (bound[1]) {
    WEIR_ASSIGN_OR_RETURN(base, to_index(*bound[1]));
  }
  if (base == 0 || (base >= 2 && base <= 36)) {
    WEIR_ASSIGN_OR_RETURN(const auto parsed, parse_int(value.string(), base));
    if (parsed) {
      return Value(*parsed);
    }
  }
  const auto number = parse_float(value.string());
  return number && std::isfinite(*number) ? int_of_float(*number, fallback) : Result<Value>(fallback);
}

Result<Value> filter_float(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("float", arguments, {"default"}, 0));
  if (value.is_undefined()) {
    return failure("{}", value.undefined().message);
  }
  if (value.is_number()) {
    return Value(value.number());
  }
  if (value.is_string()) {
    WEIR_RETURN_IF_ERROR(runtime.scan(value.string().size()));
    if (const auto number = parse_float(value.string())) {
      return Value(*number);
    }
  }
  return bound[0].value_or(Value(0.0));
}

Result<Value> filter_abs(Runtime&, const Value& value, const Arguments& arguments) {
  WEIR_RETURN_IF_ERROR(bind_arguments("abs", arguments, {}, 0));
  if (value.is_integral()) {
    return value.integer() < 0 ? negate(value) : plus(value);
  }
  if (value.is(Kind::kFloat)) {
    return Value(std::fabs(value.number()));
  }
  return value.is_undefined() ? failure("{}", value.undefined().message)
                              : failure("bad operand type for abs(): '{}'", type_name(value));
}

// Python's round: to even between two, judged by the exact value of the float.
Result<Value> round_common(const Value& value, int64_t precision) {
  if (value.is_integral()) {
    if (precision >= 0 || precision < -38) {
      return Value(precision >= 0 ? value.integer() : Int{0});
    }
    Int unit = 1;
    for (int64_t i = 0; i < -precision; ++i) {
      unit *= 10;
    }
    Int rest = value.integer() % unit;
    rest += rest < 0 ? unit : 0;
    const Int low = value.integer() - rest;
    const bool up = rest > unit - rest || (rest == unit - rest && (low / unit) % 2 != 0);
    return Value(up ? low + unit : low);
  }
  const double x = value.number();
  // Past these digits a double does not change, or is rounded away.
  if (!std::isfinite(x) || precision > 323) {
    return Value(x);
  }
  if (precision < -308) {
    return Value(std::copysign(0.0, x));
  }
  if (precision < 0) {
    const double unit = std::pow(10.0, static_cast<double>(-precision));
    return Value(std::nearbyint(x / unit) * unit);
  }
  return Value(std::strtod(fmt::format("{:.{}f}", x, precision).c_str(), nullptr));
}

Result<Value> filter_round(Runtime&, const Value& value, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("round", arguments, {"precision", "method"}, 0));
  const std::string method = bound[1] && bound[1]->is_string() ? bound[1]->string() : (bound[1] ? "" : "common");
  if (method != "common" && method != "ceil" && method != "floor") {
    return failure("method must be common, ceil or floor");
  }
  if (!value.is_number()) {
    return value.is_undefined() ? failure("{}", value.undefined().message)
                                : failure("type {} doesn't define __round__ method", type_name(value));
  }
  int64_t precision = 0;
  if (bound[0]) {
    WEIR_ASSIGN_OR_RETURN(precision, to_index(*bound[0]));
  }
  if (method == "common") {
    return round_common(value, precision);
  }
  const double unit = std::pow(10.0, static_cast<double>(precision));
  const double scaled = value.number() * unit;
  if (!std::isfinite(scaled)) {
    return failure("cannot round {}", float_text(value.number()));
  }
  return Value((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / unit);
}

Result<std::string> separator(const Value& value, size_t index) {
  if (!value.is(Kind::kList) || value.list().items.size() != 2 || !value.list().items[index].is_string()) {
    return failure("tojson: separators must be a pair of strings");
  }
  return value.list().items[index].string();
}

Result<Value> filter_tojson(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound,
                        bind_arguments("tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"}, 0));
  JsonStyle style;
  style.ensure_ascii = bound[0] && truthy(*bound[0]);
  if (bound[1] && bound[1]->is_string()) {
    style.indent = bound[1]->string();
  } else if (bound[1] && !bound[1]->is_none()) {
    WEIR_ASSIGN_OR_RETURN(const int64_t width, to_index(*bound[1]));
    WEIR_RETURN_IF_ERROR(runtime.check_room(width));
    style.indent = std::string(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  if (style.indent) {
    style.item_separator = ",";
  }
  if (bound[2] && !bound[2]->is_none()) {
    WEIR_ASSIGN_OR_RETURN(style.item_separator, separator(*bound[2], 0));
    WEIR_ASSIGN_OR_RETURN(style.key_separator, separator(*bound[2], 1));
  }
  style.sort_keys = bound[3] && truthy(*bound[3]);
  WEIR_ASSIGN_OR_RETURN(std::string text, to_json(runtime, value, style));
  return runtime.string(std::move(text));
}

Result<Value> filter_default(Runtime&, const Value& value, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("default", arguments, {"default_value", "boolean"}, 0));
  const bool by_truth = bound[1] && truthy(*bound[1]);
  if (value.is_undefined() || (by_truth && !truthy(value))) {
    return bound[0] ? *bound[0] : Value::text("");
  }
  return value;
}

Result<Value> filter_attr(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("attr", arguments, {"name"}, 1));
  if (!bound[0]->is_string()) {
    return failure("attribute name must be string, not '{}'", type_name(*bound[0]));
  }
  // Unlike a dot, this does not look among the keys of a dict.
  if (value.is_dict() && !has_method(value, bound[0]->string())) {
    return Value::undefined(fmt::format("'dict object' has no attribute {}", repr_text(bound[0]->string())));
  }
  return get_attribute(runtime, value, bound[0]->string());
}

constexpr FilterEntry kFilters[] = {
    {"abs", filter_abs},
    {"attr", filter_attr},
    {"capitalize", by_method<kCapitalize>},
    {"center", filter_center},
    {"d", filter_default},
    {"default", filter_default},
    {"e", filter_escape<false>},
    {"escape", filter_escape<false>},
    {"float", filter_float},
    {"forceescape", filter_escape<true>},
    {"format", filter_format},
    {"indent", filter_indent},
    {"int", filter_int},
    {"lower", by_method<kLower>},
    {"replace", filter_replace},
    {"round", filter_round},
    {"safe", filter_safe},
    {"string", filter_string},
    {"title", filter_title},
    {"tojson", filter_tojson},
    {"trim", by_method<kStrip>},
    {"truncate", filter_truncate},
    {"upper", by_method<kUpper>},
    {"wordcount", filter_wordcount},
};

}  // namespace

const FilterEntry* find_text_filter(std::string_view name) {
  const auto* it = std::find_if(std::begin(kFilters), std::end(kFilters),
                                [name](const FilterEntry& entry) { return entry.name == name; });
  return it == std::end(kFilters) ? nullptr : it;
}

}  // namespace weir::jinja
