#include "text/jinja/show.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <list>

#include "text/jinja/unicode.h"

namespace weir::jinja {

std::string int_text(Int value) {
  if (value == 0) {
    return "0";
  }
  std::string out;
  auto rest = static_cast<unsigned __int128>(value);
  if (value < 0) {
    rest = -rest;
  }
  for (; rest != 0; rest /= 10) {
    out += static_cast<char>('0' + static_cast<int>(rest % 10));
  }
  if (value < 0) {
    out += '-';
  }
  std::reverse(out.begin(), out.end());
  return out;
}

std::string float_text(double value) {
  if (std::isnan(value)) {
    return "nan";
  }
  if (std::isinf(value)) {
    return value > 0 ? "inf" : "-inf";
  }
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific).ptr;
  const std::string_view shortest(buffer, static_cast<size_t>(end - buffer));
  const size_t mark = shortest.find('e');
  int exponent = 0;
  const char* digits = shortest.data() + mark + 1 + (shortest[mark + 1] == '+' ? 1 : 0);
  std::from_chars(digits, end, exponent);
  // Python's repr switches to an exponent at these two.
  if (exponent < -4 || exponent >= 16) {
    return std::string(shortest);
  }
  char fixed[64];
  const auto fixed_end = std::to_chars(fixed, fixed + sizeof(fixed), value, std::chars_format::fixed).ptr;
  std::string out(fixed, fixed_end);
  return out.find('.') == std::string::npos ? out + ".0" : out;
}

std::string repr_text(std::string_view text) {
  const bool double_quotes = text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos;
  const char quote = double_quotes ? '"' : '\'';
  std::string out(1, quote);
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    const uint32_t code = next_code(text, at);
    if (code == static_cast<unsigned char>(quote) || code == '\\') {
      out += '\\';
      out += static_cast<char>(code);
    } else if (code == '\n' || code == '\r' || code == '\t') {
      out += code == '\n' ? "\\n" : (code == '\r' ? "\\r" : "\\t");
    } else if (is_printable(code)) {
      out.append(text, start, at - start);
    } else {
      out += code < 0x100 ? fmt::format("\\x{:02x}", code)
                          : (code < 0x10000 ? fmt::format("\\u{:04x}", code) : fmt::format("\\U{:08x}", code));
    }
  }
  return out + quote;
}

std::string html_escaped(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

namespace {

// Writes reprs. Recursion is bounded by the depth of values, and by kNamespaceDepth where a namespace holds itself.
class ReprWriter {
 public:
  explicit ReprWriter(Runtime& runtime) : runtime_(runtime) {}

  Status write(const Value& value) {
    WEIR_RETURN_IF_ERROR(runtime_.work(static_cast<int64_t>(out_.size() - counted_)));
    counted_ = out_.size();
    switch (value.kind()) {
      case Kind::kNone:
        out_ += "None";
        return Ok{};
      case Kind::kUndefined:
        out_ += "Undefined";
        return Ok{};
      case Kind::kBool:
        out_ += value.boolean() ? "True" : "False";
        return Ok{};
      case Kind::kInt:
        out_ += int_text(value.integer());
        return Ok{};
      case Kind::kFloat:
        out_ += float_text(value.number());
        return Ok{};
      case Kind::kString:
        out_ += value.str().markup ? "Markup(" + repr_text(value.string()) + ")" : repr_text(value.string());
        return Ok{};
      case Kind::kList:
        return write_list(value.list());
      case Kind::kDict:
        return write_dict(value.dict());
      case Kind::kNamespace:
        return write_namespace(value.name_space());
      case Kind::kFunction:
        out_ += value.function().kind == FunctionKind::kMacro && !value.function().name.empty()
                    ? fmt::format("<Macro {}>", repr_text(value.function().name))
                    : fmt::format("<{}>", type_name(value));
        return Ok{};
      case Kind::kIterator:
      case Kind::kLoop:
        out_ += fmt::format("<{} object>", type_name(value));
        return Ok{};
    }
    return Ok{};
  }

  std::string take() { return std::move(out_); }

 private:
  static constexpr int kNamespaceDepth = 8;

  Status write_list(const List& list) {
    if (list.kind == ListKind::kRange) {
      out_ += list.range_text;
      return Ok{};
    }
    const bool tuple = list.kind == ListKind::kTuple || list.kind == ListKind::kGroup;
    std::string_view view;
    if (list.kind == ListKind::kItems || list.kind == ListKind::kKeys || list.kind == ListKind::kValues) {
      view =
          list.kind == ListKind::kItems ? "dict_items" : (list.kind == ListKind::kKeys ? "dict_keys" : "dict_values");
      out_ += view;
      out_ += '(';
    }
    out_ += tuple ? '(' : '[';
    for (size_t i = 0; i < list.items.size(); ++i) {
      out_ += i == 0 ? "" : ", ";
      WEIR_RETURN_IF_ERROR(write(list.items[i]));
    }
    out_ += tuple && list.items.size() == 1 ? "," : "";
    out_ += tuple ? ')' : ']';
    out_ += view.empty() ? "" : ")";
    return Ok{};
  }

  Status write_dict(const Dict& dict) {
    out_ += '{';
    bool first = true;
    for (const auto& [key, value] : dict.entries()) {
      out_ += first ? "" : ", ";
      first = false;
      WEIR_RETURN_IF_ERROR(write(key));
      out_ += ": ";
      WEIR_RETURN_IF_ERROR(write(value));
    }
    out_ += '}';
    return Ok{};
  }

  Status write_namespace(const Namespace& name_space) {
    if (namespaces_ >= kNamespaceDepth) {
      return failure("a namespace that holds itself cannot be printed");
    }
    ++namespaces_;
    out_ += "<Namespace ";
    WEIR_RETURN_IF_ERROR(write_dict(name_space.attributes));
    out_ += '>';
    --namespaces_;
    return Ok{};
  }

  Runtime& runtime_;
  std::string out_;
  size_t counted_ = 0;
  int namespaces_ = 0;
};

class JsonWriter {
 public:
  JsonWriter(Runtime& runtime, const JsonStyle& style) : runtime_(runtime), style_(style) {}

  Status write(const Value& value) {
    WEIR_RETURN_IF_ERROR(runtime_.work(static_cast<int64_t>(out_.size() - counted_)));
    counted_ = out_.size();
    switch (value.kind()) {
      case Kind::kString:
        write_string(value.string());
        return Ok{};
      case Kind::kDict:
        return write_dict(value.dict());
      case Kind::kList:
        if (value.list().kind == ListKind::kList || value.list().kind == ListKind::kTuple ||
            value.list().kind == ListKind::kGroup) {
          return write_list(value.list());
        }
        break;
      default:
        if (const auto scalar = scalar_text(value)) {
          out_ += *scalar;
          return Ok{};
        }
    }
    return failure("Object of type {} is not JSON serializable", type_name(value));
  }

  std::string take() { return std::move(out_); }

 private:
  static std::optional<std::string> scalar_text(const Value& value) {
    switch (value.kind()) {
      case Kind::kNone:
        return "null";
      case Kind::kBool:
        return value.boolean() ? "true" : "false";
      case Kind::kInt:
        return int_text(value.integer());
      case Kind::kFloat:
        if (std::isnan(value.number())) {
          return "NaN";
        }
        if (std::isinf(value.number())) {
          return value.number() > 0 ? "Infinity" : "-Infinity";
        }
        return float_text(value.number());
      default:
        return std::nullopt;
    }
  }

  void write_string(std::string_view text) {
    out_ += '"';
    for (size_t at = 0; at < text.size();) {
      const size_t start = at;
      const uint32_t code = next_code(text, at);
      static constexpr std::string_view kShort = "\"\\\n\r\t\f\b";
      static constexpr std::string_view kLetters = "\"\\nrtfb";
      const size_t found = code < 0x80 ? kShort.find(static_cast<char>(code)) : std::string_view::npos;
      if (found != std::string_view::npos) {
        out_ += '\\';
        out_ += kLetters[found];
      } else if (code < 0x20 || (style_.ensure_ascii && code > 0x7E && code < 0x10000)) {
        out_ += fmt::format("\\u{:04x}", code);
      } else if (style_.ensure_ascii && code >= 0x10000) {
        out_ += fmt::format("\\u{:04x}\\u{:04x}", 0xD7C0 + (code >> 10), 0xDC00 + (code & 0x3FF));
      } else {
        out_.append(text, start, at - start);
      }
    }
    out_ += '"';
  }

  void new_line() {
    if (style_.indent) {
      out_ += '\n';
      for (int i = 0; i < level_; ++i) {
        out_ += *style_.indent;
      }
    }
  }

  Status write_list(const List& list) {
    if (list.items.empty()) {
      out_ += "[]";
      return Ok{};
    }
    out_ += '[';
    ++level_;
    for (size_t i = 0; i < list.items.size(); ++i) {
      out_ += i == 0 ? "" : style_.item_separator;
      new_line();
      WEIR_RETURN_IF_ERROR(write(list.items[i]));
    }
    --level_;
    new_line();
    out_ += ']';
    return Ok{};
  }

  Result<std::vector<const std::pair<Value, Value>*>> ordered(const Dict& dict) {
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : dict.entries()) {
      entries.push_back(&entry);
    }
    if (style_.sort_keys) {
      for (const auto* entry : entries) {
        WEIR_RETURN_IF_ERROR(less(entry->first, entries[0]->first));
      }
      // A list's own sort merges: unlike std::sort it is safe with keys that have no order, as NaN.
      std::list<const std::pair<Value, Value>*> sorted(entries.begin(), entries.end());
      sorted.sort([](const auto* a, const auto* b) {
        const auto result = less(a->first, b->first);
        return result.ok() && *result;
      });
      entries.assign(sorted.begin(), sorted.end());
    }
    return entries;
  }

  Status write_dict(const Dict& dict) {
    if (dict.size() == 0) {
      out_ += "{}";
      return Ok{};
    }
    WEIR_ASSIGN_OR_RETURN(const auto entries, ordered(dict));
    out_ += '{';
    ++level_;
    bool first = true;
    for (const auto* entry : entries) {
      out_ += first ? "" : style_.item_separator;
      first = false;
      new_line();
      if (entry->first.is_string()) {
        write_string(entry->first.string());
      } else if (const auto scalar = scalar_text(entry->first)) {
        write_string(*scalar);
      } else {
        return failure("keys must be str, int, float, bool or None, not {}", type_name(entry->first));
      }
      out_ += style_.key_separator;
      WEIR_RETURN_IF_ERROR(write(entry->second));
    }
    --level_;
    new_line();
    out_ += '}';
    return Ok{};
  }

  Runtime& runtime_;
  const JsonStyle& style_;
  std::string out_;
  size_t counted_ = 0;
  int level_ = 0;
};

}  // namespace

Result<std::string> to_repr(Runtime& runtime, const Value& value) {
  ReprWriter writer(runtime);
  WEIR_RETURN_IF_ERROR(writer.write(value));
  return writer.take();
}

Result<std::string> to_text(Runtime& runtime, const Value& value) {
  if (value.is_string()) {
    return value.string();
  }
  if (value.is_undefined()) {
    return std::string();
  }
  return to_repr(runtime, value);
}

Result<std::string> to_json(Runtime& runtime, const Value& value, const JsonStyle& style) {
  JsonWriter writer(runtime, style);
  WEIR_RETURN_IF_ERROR(writer.write(value));
  return writer.take();
}

}  // namespace weir::jinja
