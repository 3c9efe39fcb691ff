#include "text/jinja/value.h"

#include <algorithm>
#include <cmath>

namespace weir::jinja {

Value Value::text(std::string text, bool markup) {
  return Value(std::make_shared<const Str>(Str{std::move(text), markup}));
}

Value Value::undefined(std::string message) {
  return Value(std::make_shared<const Undefined>(Undefined{std::move(message)}));
}

bool Value::same_as(const Value& other) const {
  if (kind() != other.kind()) {
    return false;
  }
  switch (kind()) {
    case Kind::kFloat:
      return number() == other.number();
    case Kind::kUndefined:
    case Kind::kString:
    case Kind::kInt:
      return equal(*this, other);
    default:
      return data_ == other.data_;
  }
}

const Value* Dict::find(const Value& key) const {
  const std::ptrdiff_t at = position(key);
  return at < 0 ? nullptr : &entries_[static_cast<size_t>(at)].second;
}

const Value* Dict::find(std::string_view key) const {
  if (index_.empty()) {
    for (const auto& [entry_key, value] : entries_) {
      if (entry_key.is_string() && entry_key.string() == key) {
        return &value;
      }
    }
    return nullptr;
  }
  return find(Value::text(std::string(key)));
}

std::ptrdiff_t Dict::position(const Value& key) const {
  if (index_.empty()) {
    for (size_t i = 0; i < entries_.size(); ++i) {
      if (equal(entries_[i].first, key)) {
        return static_cast<std::ptrdiff_t>(i);
      }
    }
    return -1;
  }
  const auto [first, last] = index_.equal_range(hash_of(key));
  for (auto it = first; it != last; ++it) {
    if (equal(entries_[it->second].first, key)) {
      return static_cast<std::ptrdiff_t>(it->second);
    }
  }
  return -1;
}

void Dict::set(Value key, Value value) {
  const Extent added = extent_of(value);
  extent_.depth = std::max(extent_.depth, 1 + std::max(extent_of(key).depth, added.depth));
  extent_.weight += 1 + added.weight;
  const std::ptrdiff_t at = position(key);
  if (at >= 0) {
    entries_[static_cast<size_t>(at)].second = std::move(value);
    return;
  }
  entries_.emplace_back(std::move(key), std::move(value));
  if (!index_.empty()) {
    index_.emplace(hash_of(entries_.back().first), entries_.size() - 1);
  } else if (entries_.size() >= kIndexMin) {
    for (size_t i = 0; i < entries_.size(); ++i) {
      index_.emplace(hash_of(entries_[i].first), i);
    }
  }
}

bool truthy(const Value& value) {
  switch (value.kind()) {
    case Kind::kNone:
    case Kind::kUndefined:
      return false;
    case Kind::kBool:
      return value.boolean();
    case Kind::kInt:
      return value.integer() != 0;
    case Kind::kFloat:
      return value.number() != 0.0;
    case Kind::kString:
      return !value.string().empty();
    case Kind::kList:
      return !value.list().items.empty();
    case Kind::kDict:
      return value.dict().size() != 0;
    default:
      return true;
  }
}

namespace {

// -1, 0, 1, or 2 when a NaN makes them unordered. Exact, as in Python: the integer is not rounded first.
int compare_numbers(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) {
    return a.integer() < b.integer() ? -1 : (a.integer() > b.integer() ? 1 : 0);
  }
  if (!a.is_integral() && !b.is_integral()) {
    const double x = a.number();
    const double y = b.number();
    return x < y ? -1 : (x > y ? 1 : (x == y ? 0 : 2));
  }
  if (!a.is_integral()) {
    const int reversed = compare_numbers(b, a);
    return reversed == 2 ? 2 : -reversed;
  }
  const double y = b.number();
  if (std::isnan(y)) {
    return 2;
  }
  // 2^126 fits Int with room to spare; every Int made from JSON or arithmetic is compared by magnitude past it.
  constexpr double kExact = 8.5e37;
  if (y >= kExact || y <= -kExact) {
    return y > 0 ? -1 : 1;
  }
  const double whole = std::floor(y);
  const Int i = static_cast<Int>(whole);
  if (a.integer() != i) {
    return a.integer() < i ? -1 : 1;
  }
  return y > whole ? -1 : 0;
}

bool is_set_view(const Value& value) {
  return value.is_list_kind(ListKind::kKeys) || value.is_list_kind(ListKind::kItems);
}

bool same_list_type(const List& a, const List& b) {
  const auto tuple_like = [](ListKind kind) { return kind == ListKind::kTuple || kind == ListKind::kGroup; };
  return a.kind == b.kind || (tuple_like(a.kind) && tuple_like(b.kind));
}

bool equal_lists(const List& a, const List& b) {
  if (!same_list_type(a, b) || a.items.size() != b.items.size()) {
    return false;
  }
  return std::equal(a.items.begin(), a.items.end(), b.items.begin(), equal);
}

bool equal_dicts(const Dict& a, const Dict& b) {
  if (a.size() != b.size()) {
    return false;
  }
  return std::all_of(a.entries().begin(), a.entries().end(), [&b](const auto& entry) {
    const Value* other = b.find(entry.first);
    return other != nullptr && equal(entry.second, *other);
  });
}

}  // namespace

bool equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    return compare_numbers(a, b) == 0;
  }
  if (a.kind() != b.kind()) {
    return false;
  }
  switch (a.kind()) {
    case Kind::kNone:
    case Kind::kUndefined:
      return true;
    case Kind::kString:
      return a.string() == b.string();
    case Kind::kList:
      if (a.list_pointer() == b.list_pointer()) {
        return true;
      }
      if (is_set_view(a) && is_set_view(b) && a.list().items.size() == b.list().items.size()) {
        return std::is_permutation(a.list().items.begin(), a.list().items.end(), b.list().items.begin(), equal);
      }
      return !a.is_list_kind(ListKind::kValues) && equal_lists(a.list(), b.list());
    case Kind::kDict:
      return a.dict_pointer() == b.dict_pointer() || equal_dicts(a.dict(), b.dict());
    case Kind::kIterator:
      return &a.iterator() == &b.iterator();
    case Kind::kFunction:
      return &a.function() == &b.function();
    case Kind::kNamespace:
      return &a.name_space() == &b.name_space();
    case Kind::kLoop:
      return &a.loop() == &b.loop();
    default:
      return false;
  }
}

Result<bool> less(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    return compare_numbers(a, b) == -1;
  }
  if (a.is_undefined() || b.is_undefined()) {
    return failure("{}", (a.is_undefined() ? a : b).undefined().message);
  }
  if (a.is_string() && b.is_string()) {
    // UTF-8 orders as its code points do.
    return a.string() < b.string();
  }
  if (a.is(Kind::kList) && b.is(Kind::kList) && same_list_type(a.list(), b.list()) &&
      a.list().kind != ListKind::kRange && !is_set_view(a) && !a.is_list_kind(ListKind::kValues)) {
    const auto& x = a.list().items;
    const auto& y = b.list().items;
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      if (!equal(x[i], y[i])) {
        return less(x[i], y[i]);
      }
    }
    return x.size() < y.size();
  }
  return failure("'<' not supported between instances of '{}' and '{}'", type_name(a), type_name(b));
}

bool hashable(const Value& value) {
  if (value.is_dict()) {
    return false;
  }
  if (value.is(Kind::kList)) {
    const ListKind kind = value.list().kind;
    if (kind == ListKind::kTuple || kind == ListKind::kGroup) {
      return std::all_of(value.list().items.begin(), value.list().items.end(), hashable);
    }
    return kind == ListKind::kRange;
  }
  return true;
}

size_t hash_of(const Value& value) {
  switch (value.kind()) {
    case Kind::kBool:
    case Kind::kInt:
    case Kind::kFloat: {
      // Equal numbers hash alike whatever their type, as 1 == 1.0 == True.
      return std::hash<double>()(value.number());
    }
    case Kind::kString:
      return std::hash<std::string>()(value.string());
    case Kind::kList: {
      size_t seed = value.list().items.size();
      for (const Value& item : value.list().items) {
        seed = seed * 31 + hash_of(item);
      }
      return seed;
    }
    default:
      return static_cast<size_t>(value.kind());
  }
}

Extent extent_of(const std::vector<Value>& items) {
  Extent extent;
  for (const Value& item : items) {
    const Extent part = extent_of(item);
    extent.depth = std::max(extent.depth, part.depth + 1);
    extent.weight += part.weight;
  }
  return extent;
}

Extent extent_of(const Value& value) {
  switch (value.kind()) {
    case Kind::kString:
      // Strings are walked many bytes at a time.
      return {1, 1 + static_cast<int64_t>(value.string().size() / 64)};
    case Kind::kList:
      return value.list().extent;
    case Kind::kDict:
      return value.dict().extent();
    case Kind::kIterator:
      return value.iterator().extent;
    case Kind::kFunction: {
      const Extent self = extent_of(value.function().self);
      return {self.depth + 1, self.weight + 1};
    }
    default:
      return {};
  }
}

std::string_view type_name(const Value& value) {
  switch (value.kind()) {
    case Kind::kNone:
      return "NoneType";
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return value.str().markup ? "Markup" : "str";
    case Kind::kDict:
      return "dict";
    case Kind::kIterator:
      return value.iterator().type_name;
    case Kind::kNamespace:
      return "Namespace";
    case Kind::kLoop:
      return "LoopContext";
    case Kind::kFunction:
      return value.function().kind == FunctionKind::kMacro ? "Macro" : "function";
    case Kind::kList:
      break;
  }
  switch (value.list().kind) {
    case ListKind::kList:
      return "list";
    case ListKind::kTuple:
    case ListKind::kGroup:
      return "tuple";
    case ListKind::kRange:
      return "range";
    case ListKind::kItems:
      return "dict_items";
    case ListKind::kKeys:
      return "dict_keys";
    case ListKind::kValues:
      return "dict_values";
  }
  return "object";
}

}  // namespace weir::jinja
