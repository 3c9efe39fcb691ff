// Attributes, subscripts and slices: the whole of what a template can reach from a value.
#include <algorithm>

#include "text/jinja/operators.h"
#include "text/jinja/show.h"
#include "text/jinja/unicode.h"

namespace weir::jinja {
namespace {

// As jinja2 names objects in its messages: with the module, unless the type is Python's own.
std::string object_name(const Value& object) {
  if (object.is_none()) {
    return "None";
  }
  const bool macro = object.is(Kind::kFunction) && object.function().kind == FunctionKind::kMacro;
  const std::string_view module = object.is_string() && object.str().markup ? "markupsafe."
                                  : object.is(Kind::kNamespace)             ? "jinja2.utils."
                                  : macro                                   ? "jinja2.runtime."
                                                                            : "";
  return fmt::format("{}{} object", module, type_name(object));
}

Value no_attribute(const Value& object, std::string_view name) {
  return Value::undefined(fmt::format("{} has no attribute {}", repr_text(object_name(object)), repr_text(name)));
}

Result<Value> no_item(Runtime& runtime, const Value& object, const Value& key) {
  if (key.is_string()) {
    return no_attribute(object, key.string());
  }
  WEIR_ASSIGN_OR_RETURN(const std::string text, to_repr(runtime, key));
  return Value::undefined(fmt::format("{} has no element {}", object_name(object), text));
}

// What Python's getattr finds: a method, or an attribute of a namespace or group. Empty if there is none.
std::optional<Value> native_attribute(const Value& object, std::string_view name) {
  if (object.is(Kind::kNamespace)) {
    const Value* value = object.name_space().attributes.find(name);
    return value == nullptr ? std::nullopt : std::optional<Value>(*value);
  }
  if (object.is_list_kind(ListKind::kGroup) && (name == "grouper" || name == "list")) {
    return object.list().items[name == "list" ? 1 : 0];
  }
  if (object.is(Kind::kFunction) && name == "name" && object.function().kind == FunctionKind::kMacro) {
    return Value::text(object.function().name);
  }
  if (has_method(object, name)) {
    auto method = std::make_shared<Function>();
    method->kind = FunctionKind::kMethod;
    method->name = name;
    method->self = object;
    return Value(std::shared_ptr<const Function>(std::move(method)));
  }
  if (is_mutating_method(object, name)) {
    return Value::undefined(
        fmt::format("access to attribute {} of '{}' object is unsafe.", repr_text(name), type_name(object)));
  }
  return std::nullopt;
}

// What Python's object[key] finds. Empty if there is none, or if the type has no subscripts.
std::optional<Value> native_item(Runtime& runtime, const Value& object, const Value& key) {
  if (object.is_dict()) {
    const Value* value = hashable(key) ? object.dict().find(key) : nullptr;
    return value == nullptr ? std::nullopt : std::optional<Value>(*value);
  }
  if (!key.is_integral()) {
    return std::nullopt;
  }
  const bool is_list = object.is(Kind::kList) && object.list().kind <= ListKind::kGroup;
  if (!is_list && !object.is_string()) {
    return std::nullopt;
  }
  const auto size = static_cast<Int>(is_list ? object.list().items.size() : code_count(object.string()));
  const Int index = key.integer() < 0 ? key.integer() + size : key.integer();
  if (index < 0 || index >= size) {
    return std::nullopt;
  }
  if (is_list) {
    return object.list().items[static_cast<size_t>(index)];
  }
  const std::string& text = object.string();
  const size_t start = byte_of_code(text, static_cast<size_t>(index));
  size_t end = start;
  next_code(text, end);
  auto found = runtime.string(text.substr(start, end - start), object.str().markup);
  return found.ok() ? std::optional<Value>(*found) : std::nullopt;
}

}  // namespace

Result<Value> get_attribute(Runtime& runtime, const Value& object, const std::string& name) {
  if (object.is_undefined()) {
    return failure("{}", object.undefined().message);
  }
  if (auto found = native_attribute(object, name)) {
    return std::move(*found);
  }
  if (object.is_dict()) {
    WEIR_RETURN_IF_ERROR(runtime.spend(1));
    if (const Value* value = object.dict().find(name)) {
      return *value;
    }
  }
  return no_attribute(object, name);
}

Result<Value> get_item(Runtime& runtime, const Value& object, const Value& key) {
  if (object.is_undefined()) {
    return failure("{}", object.undefined().message);
  }
  if (object.is_string()) {
    WEIR_RETURN_IF_ERROR(runtime.scan(object.string().size()));
  }
  if (auto found = native_item(runtime, object, key)) {
    return std::move(*found);
  }
  if (key.is_string()) {
    if (auto found = native_attribute(object, key.string())) {
      return std::move(*found);
    }
  }
  return no_item(runtime, object, key);
}

namespace {

struct SliceRange {
  int64_t from = 0;
  int64_t step = 1;
  int64_t count = 0;
};

Result<int64_t> slice_bound(const Value& value, int64_t absent) {
  if (value.is_none()) {
    return absent;
  }
  if (!value.is_integral()) {
    return failure("slice indices must be integers or None or have an __index__ method");
  }
  return to_index(value);
}

// Python's slice.indices: which items of `size` a slice takes.
Result<SliceRange> resolve_slice(int64_t size, const Value& from, const Value& to, const Value& step) {
  SliceRange range;
  WEIR_ASSIGN_OR_RETURN(range.step, slice_bound(step, 1));
  if (range.step == 0) {
    return failure("slice step cannot be zero");
  }
  const bool forward = range.step > 0;
  const int64_t low = forward ? 0 : -1;
  const int64_t high = forward ? size : size - 1;
  const auto place = [&](const Value& bound, int64_t absent) -> Result<int64_t> {
    if (bound.is_none()) {
      return absent;
    }
    WEIR_ASSIGN_OR_RETURN(const int64_t index, slice_bound(bound, 0));
    return std::clamp(index < 0 ? index + size : index, low, high);
  };
  WEIR_ASSIGN_OR_RETURN(range.from, place(from, forward ? low : high));
  WEIR_ASSIGN_OR_RETURN(const int64_t end, place(to, forward ? high : low));
  const int64_t span = forward ? end - range.from : range.from - end;
  const int64_t stride = forward ? range.step : -range.step;
  range.count = span <= 0 ? 0 : (span - 1) / stride + 1;
  return range;
}

Result<Value> slice_text(Runtime& runtime, const Str& str, const SliceRange& range) {
  const std::string& text = str.text;
  if (range.step == 1) {
    const size_t start = byte_of_code(text, static_cast<size_t>(range.from));
    const std::string_view rest = std::string_view(text).substr(start);
    return runtime.string(std::string(rest.substr(0, byte_of_code(rest, static_cast<size_t>(range.count)))),
                          str.markup);
  }
  std::vector<size_t> starts;
  WEIR_RETURN_IF_ERROR(runtime.work(static_cast<int64_t>(text.size() * sizeof(size_t))));
  for (size_t at = 0; at < text.size();) {
    starts.push_back(at);
    next_code(text, at);
  }
  starts.push_back(text.size());
  std::string out;
  for (int64_t i = 0; i < range.count; ++i) {
    const auto at = static_cast<size_t>(range.from + i * range.step);
    out.append(text, starts[at], starts[at + 1] - starts[at]);
  }
  return runtime.string(std::move(out), str.markup);
}

}  // namespace

Result<Value> get_slice(Runtime& runtime, const Value& object, const Value& from, const Value& to, const Value& step) {
  if (object.is_undefined()) {
    return failure("{}", object.undefined().message);
  }
  if (object.is_string()) {
    WEIR_RETURN_IF_ERROR(runtime.scan(object.string().size()));
    const auto size = static_cast<int64_t>(code_count(object.string()));
    WEIR_ASSIGN_OR_RETURN(const SliceRange range, resolve_slice(size, from, to, step));
    return slice_text(runtime, object.str(), range);
  }
  if (object.is(Kind::kList) && object.list().kind <= ListKind::kGroup) {
    const List& list = object.list();
    WEIR_ASSIGN_OR_RETURN(const SliceRange range,
                          resolve_slice(static_cast<int64_t>(list.items.size()), from, to, step));
    WEIR_RETURN_IF_ERROR(runtime.check_room(range.count * static_cast<int64_t>(sizeof(Value))));
    std::vector<Value> items;
    for (int64_t i = 0; i < range.count; ++i) {
      items.push_back(list.items[static_cast<size_t>(range.from + i * range.step)]);
    }
    return runtime.list(std::move(items), list.kind == ListKind::kGroup   ? ListKind::kTuple
                                          : list.kind == ListKind::kRange ? ListKind::kList
                                                                          : list.kind);
  }
  if (object.is_dict()) {
    return failure("unhashable type: 'slice'");
  }
  return failure("'{}' object is not subscriptable", type_name(object));
}

Result<Value> get_path(Runtime& runtime, const Value& object, const Value& path) {
  if (!path.is_string()) {
    return path.is_none() ? Result<Value>(object) : get_item(runtime, object, path);
  }
  Value value = object;
  std::string_view rest = path.string();
  while (true) {
    const size_t dot = rest.find('.');
    const std::string part(rest.substr(0, dot));
    // A part of digits is an index; more digits than an index can have is a name that nothing has.
    const bool digits = !part.empty() && part.size() <= 18 && part.find_first_not_of("0123456789") == std::string::npos;
    WEIR_ASSIGN_OR_RETURN(value,
                          get_item(runtime, value, digits ? Value(int64_t{std::stoll(part)}) : Value::text(part)));
    if (dot == std::string_view::npos) {
      return value;
    }
    rest.remove_prefix(dot + 1);
  }
}

Result<std::string> replaced(Runtime& runtime, std::string_view text, std::string_view from, std::string_view to,
                             int64_t count) {
  WEIR_RETURN_IF_ERROR(runtime.scan(text.size()));
  std::string out;
  size_t start = 0;
  // An empty `from` stands before every character and at the end.
  for (size_t search = 0; count != 0;) {
    const size_t at = from.empty() ? search : text.find(from, search);
    if (at == std::string_view::npos || at > text.size()) {
      break;
    }
    --count;
    out.append(text, start, at - start);
    out += to;
    WEIR_RETURN_IF_ERROR(runtime.check_room(static_cast<int64_t>(out.size())));
    WEIR_RETURN_IF_ERROR(runtime.spend(1));
    start = at + from.size();
    search = start;
    if (from.empty()) {
      if (at == text.size()) {
        break;
      }
      next_code(text, search);
    }
  }
  out.append(text, start, text.size() - start);
  return out;
}

Result<int64_t> length_of(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return 0;
    case Kind::kString:
      return static_cast<int64_t>(code_count(value.string()));
    case Kind::kList:
      return static_cast<int64_t>(value.list().items.size());
    case Kind::kDict:
      return static_cast<int64_t>(value.dict().size());
    default:
      return failure("object of type '{}' has no len()", type_name(value));
  }
}

}  // namespace weir::jinja
