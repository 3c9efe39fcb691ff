// The values that templates compute with: Python's data types as far as a chat template can see them.
//
// A value is small and copied freely; strings, lists and dicts are shared and never change after they are made, as in
// the immutable sandbox. Nothing here names a file, a clock or a socket: data is all that a template can reach.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"

namespace weir::jinja {

// Python's integers have no bounds; 128 bits hold every integer of JSON, and past them is a clear error.
using Int = __int128;

class Dict;
class Value;
struct MacroNode;
struct Scope;
struct LoopState;
struct Namespace;

// What jinja2 calls Undefined: prints as nothing, is false, is empty; any other use fails with `message`.
struct Undefined {
  std::string message;
};

// `markup` marks text from `safe` and `escape`: what is added to it with + is escaped.
struct Str {
  std::string text;
  bool markup = false;
};

// The sequence types differ in what they print and which operations they allow.
enum class ListKind : uint8_t { kList, kTuple, kRange, kGroup, kItems, kKeys, kValues };

// How large a value is when walked: nesting, and items met on the way. Limits on both, checked where values are made,
// keep every later walk (printing, comparing, destroying) within bounds, shared parts included.
struct Extent {
  int32_t depth = 1;
  int64_t weight = 1;
};

struct List {
  std::vector<Value> items;
  ListKind kind = ListKind::kList;
  Extent extent;
  std::string range_text;  // what a range prints as
};

// A generator: can be walked once, has no length, is always true. `failure` is met when the walk reaches it.
struct Iterator {
  std::vector<Value> items;
  size_t next = 0;
  Extent extent;
  std::optional<Error> failure;
  std::string_view type_name = "generator";
};

enum class FunctionKind : uint8_t { kGlobal, kMethod, kMacro, kLoopCycle, kLoopChanged, kCycler, kJoiner };

struct Function;

enum class Kind : uint8_t {
  kNone,
  kUndefined,
  kBool,
  kInt,
  kFloat,
  kString,
  kList,
  kDict,
  kIterator,
  kFunction,
  kNamespace,
  kLoop
};

class Value {
 public:
  Value() = default;
  Value(bool b) : data_(b) {}
  Value(Int i) : data_(i) {}
  Value(int i) : data_(static_cast<Int>(i)) {}
  Value(int64_t i) : data_(static_cast<Int>(i)) {}
  Value(size_t i) : data_(static_cast<Int>(i)) {}
  Value(double d) : data_(d) {}
  Value(std::shared_ptr<const Str> s) : data_(std::move(s)) {}
  Value(std::shared_ptr<const List> l) : data_(std::move(l)) {}
  Value(std::shared_ptr<const Dict> d) : data_(std::move(d)) {}
  Value(std::shared_ptr<const Undefined> u) : data_(std::move(u)) {}
  Value(std::shared_ptr<Iterator> i) : data_(std::move(i)) {}
  Value(std::shared_ptr<const Function> f) : data_(std::move(f)) {}
  Value(Namespace* n) : data_(n) {}
  Value(LoopState* l) : data_(l) {}
  Value(const char*) = delete;

  // For constants of the source and of the engine, which no budget counts.
  static Value text(std::string text, bool markup = false);
  static Value undefined(std::string message);

  Kind kind() const { return static_cast<Kind>(data_.index()); }
  bool is(Kind kind) const { return this->kind() == kind; }
  bool is_none() const { return is(Kind::kNone); }
  bool is_undefined() const { return is(Kind::kUndefined); }
  bool is_string() const { return is(Kind::kString); }
  bool is_dict() const { return is(Kind::kDict); }
  bool is_list_kind(ListKind k) const { return is(Kind::kList) && list().kind == k; }
  // True for bool, int: what Python's index and arithmetic take as an integer.
  bool is_integral() const { return is(Kind::kInt) || is(Kind::kBool); }
  bool is_number() const { return is_integral() || is(Kind::kFloat); }

  bool boolean() const { return std::get<bool>(data_); }
  Int integer() const { return is(Kind::kBool) ? Int{std::get<bool>(data_)} : std::get<Int>(data_); }
  double number() const { return is(Kind::kFloat) ? std::get<double>(data_) : static_cast<double>(integer()); }
  const std::string& string() const { return str().text; }
  const Str& str() const { return *std::get<std::shared_ptr<const Str>>(data_); }
  const List& list() const { return *std::get<std::shared_ptr<const List>>(data_); }
  const std::shared_ptr<const List>& list_pointer() const { return std::get<std::shared_ptr<const List>>(data_); }
  const Dict& dict() const { return *std::get<std::shared_ptr<const Dict>>(data_); }
  const std::shared_ptr<const Dict>& dict_pointer() const { return std::get<std::shared_ptr<const Dict>>(data_); }
  const Undefined& undefined() const { return *std::get<std::shared_ptr<const Undefined>>(data_); }
  Iterator& iterator() const { return *std::get<std::shared_ptr<Iterator>>(data_); }
  const Function& function() const { return *std::get<std::shared_ptr<const Function>>(data_); }
  Namespace& name_space() const { return *std::get<Namespace*>(data_); }
  LoopState& loop() const { return *std::get<LoopState*>(data_); }

  // True where Python's `is` would be, for the values whose identity a template can see.
  bool same_as(const Value& other) const;

 private:
  // Shared because assignment in a template shares; the order is that of Kind.
  std::variant<std::monostate, std::shared_ptr<const Undefined>, bool, Int, double, std::shared_ptr<const Str>,
               std::shared_ptr<const List>, std::shared_ptr<const Dict>, std::shared_ptr<Iterator>,
               std::shared_ptr<const Function>, Namespace*, LoopState*>
      data_;
};

// An ordered dict. Past kIndexMin entries a hash index answers `find`.
class Dict {
 public:
  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;
  // Adds, or replaces the value of an equal key. `key` must be hashable.
  void set(Value key, Value value);
  const std::vector<std::pair<Value, Value>>& entries() const { return entries_; }
  size_t size() const { return entries_.size(); }
  Extent extent() const { return extent_; }

 private:
  // Below this a scan of the entries is faster than hashing.
  static constexpr size_t kIndexMin = 16;
  std::ptrdiff_t position(const Value& key) const;
  std::vector<std::pair<Value, Value>> entries_;
  std::unordered_multimap<size_t, size_t> index_;
  Extent extent_;
};

// Something that can be called. Which fields count follows from `kind`.
struct Function {
  FunctionKind kind = FunctionKind::kGlobal;
  std::string name;
  Value self;                        // the object of a method; the items of a cycler
  const MacroNode* macro = nullptr;  // owned by the template
  Scope* closure = nullptr;          // owned by the evaluator
  LoopState* loop = nullptr;         // owned by the evaluator
  std::shared_ptr<int64_t> count;    // calls so far of a cycler or joiner
};

// The one mutable thing. Owned by the evaluator, so that cycles through it cannot leak.
struct Namespace {
  Dict attributes;
};

// Python's truth of a value.
bool truthy(const Value& value);
// Python's ==; never fails.
bool equal(const Value& a, const Value& b);
// Python's a < b; an error for types without an order between them.
Result<bool> less(const Value& a, const Value& b);
// Whether a dict takes it as a key.
bool hashable(const Value& value);
size_t hash_of(const Value& value);
Extent extent_of(const Value& value);
// The extent of a list of `items`.
Extent extent_of(const std::vector<Value>& items);
// Python's name of the type: "str", "int", "NoneType", "dict", "list", ...
std::string_view type_name(const Value& value);

// The caller's fault: the conversation does not fit the template.
template <class... Args>
Error failure(fmt::format_string<Args...> format, Args&&... args) {
  return make_error(ErrorCode::kInvalidArgument, format, std::forward<Args>(args)...);
}

}  // namespace weir::jinja
