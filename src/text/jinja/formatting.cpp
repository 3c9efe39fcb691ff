// Python's two ways to format text: `format % values` and str.format.
#include <algorithm>
#include <cmath>

#include "text/jinja/operators.h"
#include "text/jinja/show.h"
#include "text/jinja/unicode.h"
#include "text/unicode.h"

namespace weir::jinja {
namespace {

// More digits or columns than a prompt can want; keeps a hostile width from being a large allocation.
constexpr int64_t kWidthMax = 100'000;
constexpr int kPrecisionMax = 300;

// [[fill]align][sign][#][0][width][,][.precision][type], and the same for %.
struct Spec {
  std::string fill = " ";
  char align = '\0';
  char sign = '-';
  bool alternate = false;
  char group = '\0';
  int64_t width = 0;
  int precision = -1;
  char type = '\0';
};

std::string grouped(const std::string& digits, char group, size_t every) {
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i != 0 && (digits.size() - i) % every == 0) {
      out += group;
    }
    out += digits[i];
  }
  return out;
}

std::string int_digits(unsigned __int128 value, unsigned base, bool upper) {
  const std::string_view letters = upper ? "0123456789ABCDEF" : "0123456789abcdef";
  std::string out;
  do {
    out += letters[static_cast<size_t>(value % base)];
    value /= base;
  } while (value != 0);
  std::reverse(out.begin(), out.end());
  return out;
}

// Sign, prefix and digits, filled to the width as the spec says.
std::string laid_out(const Spec& spec, bool negative, const std::string& prefix, const std::string& digits) {
  const std::string sign = negative ? "-" : (spec.sign == '-' ? "" : std::string(1, spec.sign));
  const int64_t missing = spec.width - static_cast<int64_t>(code_count(sign + prefix + digits));
  if (missing <= 0) {
    return sign + prefix + digits;
  }
  const auto filling = [&spec](int64_t count) {
    std::string out;
    for (int64_t i = 0; i < count; ++i) {
      out += spec.fill;
    }
    return out;
  };
  switch (spec.align) {
    case '<':
      return sign + prefix + digits + filling(missing);
    case '^':
      return filling(missing / 2) + sign + prefix + digits + filling(missing - missing / 2);
    case '=':
      return sign + prefix + filling(missing) + digits;
    default:
      return filling(missing) + sign + prefix + digits;
  }
}

std::string format_int(const Spec& spec, Int value) {
  const char type = spec.type;
  const unsigned base = type == 'x' || type == 'X' ? 16 : (type == 'o' ? 8 : (type == 'b' ? 2 : 10));
  const auto magnitude = value < 0 ? -static_cast<unsigned __int128>(value) : static_cast<unsigned __int128>(value);
  std::string digits = int_digits(magnitude, base, type == 'X');
  if (spec.precision > static_cast<int>(digits.size())) {
    digits.insert(0, static_cast<size_t>(spec.precision) - digits.size(), '0');
  }
  if (spec.group != '\0') {
    digits = grouped(digits, spec.group, base == 10 ? 3 : 4);
  }
  const std::string prefix = spec.alternate && base != 10 ? std::string("0") + type : "";
  return laid_out(spec, value < 0, prefix, digits);
}

std::string format_float(const Spec& spec, double value) {
  const bool percent = spec.type == '%';
  const double magnitude = std::fabs(value) * (percent ? 100 : 1);
  std::string digits;
  if (spec.type == '\0' && spec.precision < 0) {
    digits = float_text(magnitude);
  } else {
    const char type = percent ? 'f' : (spec.type == '\0' ? 'g' : spec.type);
    const char format[] = {'%', '.', '*', type, '\0'};
    const int precision = spec.precision < 0 ? 6 : spec.precision;
    char buffer[kPrecisionMax + 400];  // a double has at most 309 digits before the point
    const int length = std::snprintf(buffer, sizeof(buffer), format, precision, magnitude);
    digits.assign(buffer, static_cast<size_t>(std::clamp(length, 0, static_cast<int>(sizeof(buffer)) - 1)));
    if (spec.type == '\0' && digits.find_first_of(".en") == std::string::npos) {
      digits += ".0";
    }
  }
  if (spec.group != '\0' && std::isfinite(value)) {
    const size_t point = std::min(digits.find_first_of(".e"), digits.size());
    digits = grouped(digits.substr(0, point), spec.group, 3) + digits.substr(point);
  }
  return laid_out(spec, std::signbit(value) && !std::isnan(value), "", digits + (percent ? "%" : ""));
}

std::string format_text(Spec spec, std::string_view text) {
  if (spec.precision >= 0) {
    text = text.substr(0, byte_of_code(text, static_cast<size_t>(spec.precision)));
  }
  spec.sign = '-';
  spec.align = spec.align == '\0' ? '<' : spec.align;
  return laid_out(spec, false, "", std::string(text));
}

class PercentFormatter {
 public:
  PercentFormatter(Runtime& runtime, const std::string& format, const Value& values)
      : runtime_(runtime), format_(format), values_(values) {
    is_tuple_ = values.is_list_kind(ListKind::kTuple) || values.is_list_kind(ListKind::kGroup);
  }

  Result<Value> run() {
    for (size_t at = 0; at < format_.size();) {
      const size_t percent = format_.find('%', at);
      out_.append(format_, at, percent - at);
      if (percent == std::string::npos) {
        break;
      }
      at = percent + 1;
      WEIR_RETURN_IF_ERROR(conversion(at));
      WEIR_RETURN_IF_ERROR(runtime_.check_room(static_cast<int64_t>(out_.size())));
      WEIR_RETURN_IF_ERROR(runtime_.spend(1));
    }
    const bool all_used = is_tuple_ ? used_ == values_.list().items.size() : used_ == 1;
    // As in Python, whatever has subscripts counts as a mapping that need not be used up.
    const bool mapping = values_.is_dict() || values_.is_undefined() || (values_.is(Kind::kList) && !is_tuple_);
    if (!all_used && !mapping) {
      return failure("not all arguments converted during string formatting");
    }
    return runtime_.string(std::move(out_));
  }

 private:
  Result<Value> next_value() {
    if (is_tuple_ ? used_ >= values_.list().items.size() : used_ >= 1) {
      return failure("not enough arguments for format string");
    }
    ++used_;
    return is_tuple_ ? values_.list().items[used_ - 1] : values_;
  }

  Result<Value> named_value(size_t& at) {
    const size_t close = format_.find(')', at);
    if (close == std::string::npos) {
      return failure("incomplete format key");
    }
    const std::string key = format_.substr(at + 1, close - at - 1);
    at = close + 1;
    if (!values_.is_dict()) {
      return failure("format requires a mapping");
    }
    const Value* found = values_.dict().find(key);
    if (found == nullptr) {
      return failure("the format's key {} is missing", repr_text(key));
    }
    return *found;
  }

  Result<int64_t> number(size_t& at) {
    if (at < format_.size() && format_[at] == '*') {
      ++at;
      WEIR_ASSIGN_OR_RETURN(const Value value, next_value());
      return to_index(value);
    }
    int64_t result = 0;
    for (; at < format_.size() && format_[at] >= '0' && format_[at] <= '9'; ++at) {
      result = std::min(result * 10 + (format_[at] - '0'), kWidthMax + 1);
    }
    return result;
  }

  Status conversion(size_t& at) {
    std::optional<Value> value;
    if (at < format_.size() && format_[at] == '(') {
      WEIR_ASSIGN_OR_RETURN(value, named_value(at));
    }
    Spec spec;
    spec.align = '>';
    bool zero = false;
    for (; at < format_.size() && std::string_view("-+ #0").find(format_[at]) != std::string_view::npos; ++at) {
      const char flag = format_[at];
      zero |= flag == '0';
      spec.alternate |= flag == '#';
      spec.align = flag == '-' ? '<' : spec.align;
      spec.sign = flag == '+' || (flag == ' ' && spec.sign != '+') ? flag : spec.sign;
    }
    WEIR_ASSIGN_OR_RETURN(spec.width, number(at));
    if (at < format_.size() && format_[at] == '.') {
      ++at;
      WEIR_ASSIGN_OR_RETURN(const int64_t precision, number(at));
      spec.precision = static_cast<int>(std::clamp<int64_t>(precision, 0, kWidthMax));
    }
    if (spec.width < 0) {
      spec.align = '<';
      spec.width = -spec.width;
    }
    if (spec.width > kWidthMax) {
      return failure("width too large in a format string");
    }
    if (at >= format_.size()) {
      return failure("incomplete format");
    }
    spec.type = format_[at++];
    if (spec.type == '%') {
      out_ += '%';
      return Ok{};
    }
    if (!value) {
      WEIR_ASSIGN_OR_RETURN(value, next_value());
    }
    if (zero && spec.align != '<') {
      spec.fill = "0";
      spec.align = '=';
    }
    return convert(spec, *value);
  }

  Status convert(Spec spec, const Value& value) {
    const auto has = [&spec](std::string_view types) { return types.find(spec.type) != std::string_view::npos; };
    if (has("sra")) {
      auto text = spec.type == 's' ? to_text(runtime_, value) : to_repr(runtime_, value);
      WEIR_ASSIGN_OR_RETURN(const std::string shown, std::move(text));
      spec.fill = " ";
      spec.align = spec.align == '=' ? '>' : spec.align;
      out_ += format_text(spec, shown);
      return Ok{};
    }
    if (has("c")) {
      if (value.is_integral() && value.integer() >= 0 && value.integer() < 0x110000) {
        append_utf8(static_cast<char32_t>(value.integer()), &out_);
        return Ok{};
      }
      if (value.is_string() && code_count(value.string()) == 1) {
        out_ += value.string();
        return Ok{};
      }
      return failure("%c requires int or char");
    }
    if (has("diuxXo")) {
      if (value.is_integral() || (has("diu") && value.is(Kind::kFloat) && std::fabs(value.number()) < 1e37)) {
        spec.precision = std::min(spec.precision, kPrecisionMax);
        out_ += format_int(spec, value.is_integral() ? value.integer() : static_cast<Int>(value.number()));
        return Ok{};
      }
      return failure("%{} format: a real number is required, not {}", spec.type, type_name(value));
    }
    if (has("eEfFgG")) {
      if (!value.is_number()) {
        return value.is_undefined() ? failure("{}", value.undefined().message)
                                    : failure("must be real number, not {}", type_name(value));
      }
      if (spec.precision > kPrecisionMax) {
        return failure("precision too large in a format string");
      }
      out_ += format_float(spec, value.number());
      return Ok{};
    }
    return failure("unsupported format character '{}'", spec.type);
  }

  Runtime& runtime_;
  const std::string& format_;
  const Value& values_;
  bool is_tuple_ = false;
  size_t used_ = 0;
  std::string out_;
};

Result<Spec> parse_spec(std::string_view text) {
  Spec spec;
  static constexpr std::string_view kAligns = "<>=^";
  if (!text.empty()) {
    size_t first = 0;
    next_code(text, first);
    if (first < text.size() && kAligns.find(text[first]) != std::string_view::npos) {
      spec.fill = text.substr(0, first);
      spec.align = text[first];
      text.remove_prefix(first + 1);
    } else if (kAligns.find(text[0]) != std::string_view::npos) {
      spec.align = text[0];
      text.remove_prefix(1);
    }
  }
  const auto take = [&text](std::string_view set) {
    char found = '\0';
    if (!text.empty() && set.find(text[0]) != std::string_view::npos) {
      found = text[0];
      text.remove_prefix(1);
    }
    return found;
  };
  if (const char sign = take("+- ")) {
    spec.sign = sign;
  }
  spec.alternate = take("#") != '\0';
  if (take("0") != '\0' && spec.align == '\0') {
    spec.fill = "0";
    spec.align = '=';
  }
  while (const char digit = take("0123456789")) {
    spec.width = std::min(spec.width * 10 + (digit - '0'), kWidthMax + 1);
  }
  spec.group = take(",_");
  if (take(".") != '\0') {
    spec.precision = 0;
    while (const char digit = take("0123456789")) {
      spec.precision = std::min(spec.precision * 10 + (digit - '0'), static_cast<int>(kWidthMax));
    }
  }
  spec.type = take("bcdeEfFgGnosxX%");
  if (!text.empty()) {
    return failure("invalid format specifier");
  }
  if (spec.width > kWidthMax) {
    return failure("width too large in a format specifier");
  }
  return spec;
}

Result<std::string> format_value(Runtime& runtime, const Value& value, std::string_view spec_text) {
  if (spec_text.empty()) {
    return to_text(runtime, value);
  }
  WEIR_ASSIGN_OR_RETURN(const Spec spec, parse_spec(spec_text));
  const bool float_type = spec.type != '\0' && std::string_view("eEfFgG%").find(spec.type) != std::string_view::npos;
  if (value.is_string() && (spec.type == '\0' || spec.type == 's') && spec.align != '=') {
    return format_text(spec, value.string());
  }
  if (value.is_integral() && !float_type &&
      (spec.type == '\0' || std::string_view("bdoxXn").find(spec.type) != std::string_view::npos)) {
    return spec.precision >= 0 ? Result<std::string>(failure("precision not allowed in integer format specifier"))
                               : Result<std::string>(format_int(spec, value.integer()));
  }
  if (value.is_number() && (float_type || (value.is(Kind::kFloat) && spec.type == '\0')) &&
      spec.precision <= kPrecisionMax) {
    return format_float(spec, value.number());
  }
  return failure("unsupported format specifier '{}' for object of type '{}'", spec_text, type_name(value));
}

class BraceFormatter {
 public:
  BraceFormatter(Runtime& runtime, const std::string& format, const Arguments& arguments)
      : runtime_(runtime), format_(format), arguments_(arguments) {}

  Result<Value> run(bool markup) {
    for (size_t at = 0; at < format_.size();) {
      const char c = format_[at];
      if (c != '{' && c != '}') {
        out_ += c;
        ++at;
      } else if (at + 1 < format_.size() && format_[at + 1] == c) {
        out_ += c;
        at += 2;
      } else if (c == '}') {
        return failure("Single '}}' encountered in format string");
      } else {
        WEIR_RETURN_IF_ERROR(field(at));
      }
    }
    return runtime_.string(std::move(out_), markup);
  }

 private:
  Status field(size_t& at) {
    const size_t close = format_.find_first_of("{}", at + 1);
    if (close == std::string::npos || format_[close] == '{') {
      return failure("expected '}}' before end of string");
    }
    std::string_view text = std::string_view(format_).substr(at + 1, close - at - 1);
    at = close + 1;
    std::string_view spec;
    const size_t colon = text.find(':');
    if (colon != std::string_view::npos) {
      spec = text.substr(colon + 1);
      text = text.substr(0, colon);
    }
    char conversion = '\0';
    if (text.size() >= 2 && text[text.size() - 2] == '!') {
      conversion = text.back();
      text.remove_suffix(2);
    }
    WEIR_ASSIGN_OR_RETURN(Value value, lookup(text));
    if (conversion == 'r' || conversion == 's') {
      auto shown = conversion == 'r' ? to_repr(runtime_, value) : to_text(runtime_, value);
      WEIR_ASSIGN_OR_RETURN(std::string shown_text, std::move(shown));
      WEIR_ASSIGN_OR_RETURN(value, runtime_.string(std::move(shown_text)));
    } else if (conversion != '\0') {
      return failure("Unknown conversion specifier {}", conversion);
    }
    WEIR_ASSIGN_OR_RETURN(const std::string shown, format_value(runtime_, value, spec));
    out_ += shown;
    return runtime_.work(static_cast<int64_t>(shown.size()));
  }

  // name, number or nothing, then .attribute and [key] parts.
  Result<Value> lookup(std::string_view path) {
    const size_t end = std::min(path.find_first_of(".["), path.size());
    const std::string_view first = path.substr(0, end);
    WEIR_ASSIGN_OR_RETURN(Value value, argument(first));
    path.remove_prefix(end);
    while (!path.empty()) {
      if (path[0] == '.') {
        const size_t stop = std::min(path.find_first_of(".[", 1), path.size());
        WEIR_ASSIGN_OR_RETURN(value, get_attribute(runtime_, value, std::string(path.substr(1, stop - 1))));
        path.remove_prefix(stop);
      } else {
        const size_t stop = path.find(']');
        if (path[0] != '[' || stop == std::string_view::npos) {
          return failure("Missing ']' in format string");
        }
        const std::string key(path.substr(1, stop - 1));
        const bool digits = !key.empty() && key.size() < 18 && key.find_first_not_of("0123456789") == std::string::npos;
        WEIR_ASSIGN_OR_RETURN(value,
                              get_item(runtime_, value, digits ? Value(int64_t{std::stoll(key)}) : Value::text(key)));
        path.remove_prefix(stop + 1);
      }
    }
    return value;
  }

  Result<Value> argument(std::string_view name) {
    const bool digits = name.size() < 9 && name.find_first_not_of("0123456789") == std::string_view::npos;
    if (digits) {
      if (name.empty() ? manual_ : automatic_ > 0) {
        return failure("cannot mix automatic and manual field numbering");
      }
      manual_ |= !name.empty();
      const size_t index = name.empty() ? automatic_++ : std::stoul(std::string(name));
      if (index >= arguments_.positional.size()) {
        return failure("Replacement index {} out of range for positional args tuple", index);
      }
      return arguments_.positional[index];
    }
    for (const auto& [key, value] : arguments_.named) {
      if (key == name) {
        return value;
      }
    }
    return failure("the format's key {} is missing", repr_text(name));
  }

  Runtime& runtime_;
  const std::string& format_;
  const Arguments& arguments_;
  bool manual_ = false;
  size_t automatic_ = 0;
  std::string out_;
};

}  // namespace

Result<Value> percent_format(Runtime& runtime, const Value& format, const Value& values) {
  return PercentFormatter(runtime, format.string(), values).run();
}

Result<Value> brace_format(Runtime& runtime, const Value& format, const Arguments& arguments) {
  return BraceFormatter(runtime, format.string(), arguments).run(format.str().markup);
}

}  // namespace weir::jinja
