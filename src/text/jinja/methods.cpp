// The methods of strings, dicts, lists and tuples that Python gives a template, less those that change the object.
#include <algorithm>
#include <array>

#include "text/jinja/operators.h"
#include "text/jinja/show.h"
#include "text/jinja/unicode.h"
#include "text/unicode.h"

namespace weir::jinja {
namespace {

using Method = Result<Value> (*)(Runtime& runtime, const Value& self, const Arguments& arguments);

struct MethodEntry {
  std::string_view name;
  Method method;
};

using Bound = std::vector<std::optional<Value>>;

Status need_string(const std::optional<Value>& value, std::string_view method) {
  if (value && !value->is_string()) {
    return failure("{}() argument must be str, not {}", method, type_name(*value));
  }
  return Ok{};
}

template <std::string (*kMap)(std::string_view)>
Result<Value> map_case(Runtime& runtime, const Value& self, const Arguments& arguments) {
  WEIR_RETURN_IF_ERROR(bind_arguments("str method", arguments, {}, 0));
  // A mapping makes a character at most three times as long.
  WEIR_RETURN_IF_ERROR(runtime.check_room(static_cast<int64_t>(self.string().size() * 3)));
  return runtime.string(kMap(self.string()), self.str().markup);
}

template <bool kLeft, bool kRight>
Result<Value> strip_method(Runtime& runtime, const Value& self, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("strip", arguments, {"chars"}, 0));
  const bool has_chars = bound[0] && !bound[0]->is_none();
  if (has_chars) {
    WEIR_RETURN_IF_ERROR(need_string(bound[0], "strip"));
    WEIR_RETURN_IF_ERROR(runtime.scan(self.string().size() * (1 + bound[0]->string().size() / 8)));
  }
  const std::string* chars = has_chars ? &bound[0]->string() : nullptr;
  return runtime.string(std::string(strip(self.string(), chars, kLeft, kRight)), self.str().markup);
}

// Pieces of text between white space, at most `count_max` cuts (negative: all), from the left or the right.
std::vector<std::string_view> split_space(std::string_view text, int64_t count_max, bool from_right) {
  std::vector<std::string_view> parts;
  text = strip(text, nullptr, !from_right, from_right);
  while (!text.empty()) {
    if (count_max == 0) {
      parts.push_back(text);
      break;
    }
    --count_max;
    if (!from_right) {
      size_t end = 0;
      for (size_t at = 0; at < text.size() && !is_space(next_code(text, at));) {
        end = at;
      }
      parts.push_back(text.substr(0, end));
      text = strip(text.substr(end), nullptr, true, false);
    } else {
      size_t start = text.size();
      while (start > 0) {
        const CodePoint before = code_point_before(text, start);
        if (is_space(before.value)) {
          break;
        }
        start -= before.length;
      }
      parts.push_back(text.substr(start));
      text = strip(text.substr(0, start), nullptr, false, true);
    }
  }
  if (from_right) {
    std::reverse(parts.begin(), parts.end());
  }
  return parts;
}

std::vector<std::string_view> split_by(std::string_view text, std::string_view separator, int64_t count_max,
                                       bool from_right) {
  std::vector<std::string_view> parts;
  while (count_max != 0) {
    const size_t at = from_right ? text.rfind(separator) : text.find(separator);
    if (at == std::string_view::npos) {
      break;
    }
    --count_max;
    parts.push_back(from_right ? text.substr(at + separator.size()) : text.substr(0, at));
    text = from_right ? text.substr(0, at) : text.substr(at + separator.size());
  }
  parts.push_back(text);
  if (from_right) {
    std::reverse(parts.begin(), parts.end());
  }
  return parts;
}

Result<Value> list_of(Runtime& runtime, const std::vector<std::string_view>& parts, bool markup,
                      ListKind kind = ListKind::kList) {
  std::vector<Value> items;
  items.reserve(parts.size());
  for (const std::string_view part : parts) {
    WEIR_ASSIGN_OR_RETURN(Value item, runtime.string(std::string(part), markup));
    items.push_back(std::move(item));
  }
  return runtime.list(std::move(items), kind);
}

template <bool kFromRight>
Result<Value> split_method(Runtime& runtime, const Value& self, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("split", arguments, {"sep", "maxsplit"}, 0));
  int64_t count_max = -1;
  if (bound[1]) {
    WEIR_ASSIGN_OR_RETURN(count_max, to_index(*bound[1]));
  }
  // Each part costs a place in the list while it is made.
  WEIR_RETURN_IF_ERROR(runtime.work(static_cast<int64_t>(self.string().size())));
  if (!bound[0] || bound[0]->is_none()) {
    return list_of(runtime, split_space(self.string(), count_max, kFromRight), self.str().markup);
  }
  WEIR_RETURN_IF_ERROR(need_string(bound[0], "split"));
  if (bound[0]->string().empty()) {
    return failure("empty separator");
  }
  return list_of(runtime, split_by(self.string(), bound[0]->string(), count_max, kFromRight), self.str().markup);
}

template <bool kFromRight>
Result<Value> partition(Runtime& runtime, const Value& self, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("partition", arguments, {"sep"}, 1));
  WEIR_RETURN_IF_ERROR(need_string(bound[0], "partition"));
  const std::string& separator = bound[0]->string();
  if (separator.empty()) {
    return failure("empty separator");
  }
  std::vector<std::string_view> parts = split_by(self.string(), separator, 1, kFromRight);
  if (parts.size() == 2) {
    parts.insert(parts.begin() + 1, separator);
  } else {
    parts.insert(kFromRight ? parts.begin() : parts.end(), 2, std::string_view());
  }
  return list_of(runtime, parts, self.str().markup, ListKind::kTuple);
}

Result<Value> splitlines(Runtime& runtime, const Value& self, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("splitlines", arguments, {"keepends"}, 0));
  WEIR_RETURN_IF_ERROR(runtime.work(static_cast<int64_t>(self.string().size())));
  return list_of(runtime, split_lines(self.string(), bound[0] && truthy(*bound[0])), self.str().markup);
}

// The part of self that the optional start and end of find, count, startswith and endswith select; empty if start is
// past the end. `offset` is how many code points precede it.
Result<std::optional<std::string_view>> window(const Value& self, const std::optional<Value>& from,
                                               const std::optional<Value>& to, int64_t& offset) {
  const std::string_view text = self.string();
  offset = 0;
  const bool has_from = from && !from->is_none();
  const bool has_to = to && !to->is_none();
  if (!has_from && !has_to) {
    return std::optional<std::string_view>(text);
  }
  const auto size = static_cast<int64_t>(code_count(text));
  int64_t start = 0;
  int64_t end = size;
  if (has_from) {
    WEIR_ASSIGN_OR_RETURN(start, to_index(*from));
    start = start < 0 ? std::max<int64_t>(start + size, 0) : start;
  }
  if (has_to) {
    WEIR_ASSIGN_OR_RETURN(end, to_index(*to));
    end = std::min(end < 0 ? std::max<int64_t>(end + size, 0) : end, size);
  }
  if (start > end) {
    return std::optional<std::string_view>();
  }
  offset = start;
  const size_t first = byte_of_code(text, static_cast<size_t>(start));
  const std::string_view rest = text.substr(first);
  return std::optional<std::string_view>(rest.substr(0, byte_of_code(rest, static_cast<size_t>(end - start))));
}

template <bool kEnd>
Result<Value> has_affix(Runtime& runtime, const Value& self, const Arguments& arguments) {
  constexpr std::string_view kName = kEnd ? "endswith" : "startswith";
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments(kName, arguments, {"prefix", "start", "end"}, 1));
  int64_t offset = 0;
  WEIR_ASSIGN_OR_RETURN(const auto text, window(self, bound[1], bound[2], offset));
  std::vector<Value> affixes = {*bound[0]};
  if (bound[0]->is_list_kind(ListKind::kTuple)) {
    affixes = bound[0]->list().items;
  }
  bool found = false;
  for (const Value& affix : affixes) {
    if (!affix.is_string()) {
      return failure("{} first arg must be str or a tuple of str, not {}", kName, type_name(affix));
    }
    WEIR_RETURN_IF_ERROR(runtime.scan(affix.string().size()));
    found = found || (text && (kEnd ? text->ends_with(affix.string()) : text->starts_with(affix.string())));
  }
  return Value(found);
}

enum class Missing { kMinusOne, kError };

template <bool kFromRight, Missing kMissing>
Result<Value> find_method(Runtime& runtime, const Value& self, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("find", arguments, {"sub", "start", "end"}, 1));
  WEIR_RETURN_IF_ERROR(need_string(bound[0], "find"));
  WEIR_RETURN_IF_ERROR(runtime.scan(self.string().size()));
  int64_t offset = 0;
  WEIR_ASSIGN_OR_RETURN(const auto text, window(self, bound[1], bound[2], offset));
  const size_t at =
      !text ? std::string_view::npos : (kFromRight ? text->rfind(bound[0]->string()) : text->find(bound[0]->string()));
  if (at != std::string_view::npos) {
    return Value(offset + static_cast<int64_t>(code_count(text->substr(0, at))));
  }
  return kMissing == Missing::kError ? Result<Value>(failure("substring not found")) : Result<Value>(Value(-1));
}

Result<Value> count_text(Runtime& runtime, const Value& self, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("count", arguments, {"sub", "start", "end"}, 1));
  WEIR_RETURN_IF_ERROR(need_string(bound[0], "count"));
  WEIR_RETURN_IF_ERROR(runtime.scan(self.string().size()));
  int64_t offset = 0;
  WEIR_ASSIGN_OR_RETURN(const auto text, window(self, bound[1], bound[2], offset));
  if (!text) {
    return Value(0);
  }
  const std::string& wanted = bound[0]->string();
  if (wanted.empty()) {
    return Value(code_count(*text) + 1);
  }
  int64_t count = 0;
  for (size_t at = text->find(wanted); at != std::string_view::npos; at = text->find(wanted, at + wanted.size())) {
    ++count;
  }
  return Value(count);
}

Result<Value> replace_method(Runtime& runtime, const Value& self, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("replace", arguments, {"old", "new", "count"}, 2));
  WEIR_RETURN_IF_ERROR(need_string(bound[0], "replace"));
  WEIR_RETURN_IF_ERROR(need_string(bound[1], "replace"));
  int64_t count = -1;
  if (bound[2]) {
    WEIR_ASSIGN_OR_RETURN(count, to_index(*bound[2]));
  }
  const Str& with = bound[1]->str();
  const bool markup = self.str().markup;
  const std::string with_text = markup && !with.markup ? html_escaped(with.text) : with.text;
  WEIR_ASSIGN_OR_RETURN(std::string text, replaced(runtime, self.string(), bound[0]->string(), with_text, count));
  return runtime.string(std::move(text), markup);
}

Result<Value> join_method(Runtime& runtime, const Value& self, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("join", arguments, {"iterable"}, 1));
  WEIR_ASSIGN_OR_RETURN(const std::vector<Value> items, runtime.items_of(*bound[0]));
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!items[i].is_string()) {
      return failure("sequence item {}: expected str instance, {} found", i, type_name(items[i]));
    }
    const std::string& separator = i == 0 ? std::string() : self.string();
    WEIR_RETURN_IF_ERROR(
        runtime.check_room(static_cast<int64_t>(out.size() + separator.size() + items[i].string().size())));
    WEIR_RETURN_IF_ERROR(runtime.spend(1));
    out += separator;
    const bool escapes = self.str().markup && !items[i].str().markup;
    out += escapes ? html_escaped(items[i].string()) : items[i].string();
  }
  return runtime.string(std::move(out), self.str().markup);
}

template <bool kEnd>
Result<Value> remove_affix(Runtime& runtime, const Value& self, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("removeprefix", arguments, {"prefix"}, 1));
  WEIR_RETURN_IF_ERROR(need_string(bound[0], kEnd ? "removesuffix" : "removeprefix"));
  std::string_view text = self.string();
  const std::string& affix = bound[0]->string();
  if (kEnd ? text.ends_with(affix) : text.starts_with(affix)) {
    text = kEnd ? text.substr(0, text.size() - affix.size()) : text.substr(affix.size());
  }
  return runtime.string(std::string(text), self.str().markup);
}

template <bool (*kTest)(uint32_t)>
Result<Value> all_are(Runtime& runtime, const Value& self, const Arguments& arguments) {
  WEIR_RETURN_IF_ERROR(bind_arguments("str method", arguments, {}, 0));
  WEIR_RETURN_IF_ERROR(runtime.scan(self.string().size()));
  const std::string& text = self.string();
  for (size_t at = 0; at < text.size();) {
    if (!kTest(next_code(text, at))) {
      return Value(false);
    }
  }
  return Value(!text.empty());
}

template <bool kUpper>
Result<Value> cased(Runtime& runtime, const Value& self, const Arguments& arguments) {
  WEIR_RETURN_IF_ERROR(bind_arguments("str method", arguments, {}, 0));
  WEIR_RETURN_IF_ERROR(runtime.scan(self.string().size()));
  return Value(is_all_cased(self.string(), kUpper));
}

enum class Pad { kLeft, kRight, kBoth };

template <Pad kPad>
Result<Value> pad_method(Runtime& runtime, const Value& self, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("just", arguments, {"width", "fillchar"}, 1));
  WEIR_RETURN_IF_ERROR(need_string(bound[1], "just"));
  const std::string fill = bound[1] ? bound[1]->string() : " ";
  if (code_count(fill) != 1) {
    return failure("The fill character must be exactly one character long");
  }
  WEIR_ASSIGN_OR_RETURN(const int64_t width, to_index(*bound[0]));
  const int64_t missing = std::max<int64_t>(0, width - static_cast<int64_t>(code_count(self.string())));
  // Clamped, so that the product stays within range; past any limit all the same.
  WEIR_RETURN_IF_ERROR(runtime.check_room(std::min(missing, int64_t{1} << 50) * static_cast<int64_t>(fill.size())));
  // Python's center puts the odd one left only if the width is odd.
  int64_t left = kPad == Pad::kLeft ? missing : 0;
  if (kPad == Pad::kBoth) {
    left = missing / 2 + (missing & width & 1);
  }
  std::string out;
  for (int64_t i = 0; i < left; ++i) {
    out += fill;
  }
  out += self.string();
  for (int64_t i = left; i < missing; ++i) {
    out += fill;
  }
  return runtime.string(std::move(out), self.str().markup);
}

Result<Value> zfill(Runtime& runtime, const Value& self, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("zfill", arguments, {"width"}, 1));
  WEIR_ASSIGN_OR_RETURN(const int64_t width, to_index(*bound[0]));
  const std::string& text = self.string();
  const int64_t missing = std::max<int64_t>(0, width - static_cast<int64_t>(code_count(text)));
  WEIR_RETURN_IF_ERROR(runtime.check_room(missing));
  const size_t sign = !text.empty() && (text[0] == '-' || text[0] == '+') ? 1 : 0;
  return runtime.string(text.substr(0, sign) + std::string(static_cast<size_t>(missing), '0') + text.substr(sign));
}

Result<Value> format_method(Runtime& runtime, const Value& self, const Arguments& arguments) {
  return brace_format(runtime, self, arguments);
}

constexpr MethodEntry kStringMethods[] = {
    {"capitalize", map_case<to_capitalized>},
    {"casefold", map_case<to_lower>},
    {"center", pad_method<Pad::kBoth>},
    {"count", count_text},
    {"endswith", has_affix<true>},
    {"find", find_method<false, Missing::kMinusOne>},
    {"format", format_method},
    {"index", find_method<false, Missing::kError>},
    {"isalnum", all_are<is_alnum>},
    {"isalpha", all_are<is_alpha>},
    {"isdecimal", all_are<is_digit>},
    {"isdigit", all_are<is_digit>},
    {"islower", cased<false>},
    {"isnumeric", all_are<is_digit>},
    {"isspace", all_are<is_space>},
    {"isupper", cased<true>},
    {"join", join_method},
    {"ljust", pad_method<Pad::kRight>},
    {"lower", map_case<to_lower>},
    {"lstrip", strip_method<true, false>},
    {"partition", partition<false>},
    {"removeprefix", remove_affix<false>},
    {"removesuffix", remove_affix<true>},
    {"replace", replace_method},
    {"rfind", find_method<true, Missing::kMinusOne>},
    {"rindex", find_method<true, Missing::kError>},
    {"rjust", pad_method<Pad::kLeft>},
    {"rpartition", partition<true>},
    {"rsplit", split_method<true>},
    {"rstrip", strip_method<false, true>},
    {"split", split_method<false>},
    {"splitlines", splitlines},
    {"startswith", has_affix<false>},
    {"strip", strip_method<true, true>},
    {"swapcase", map_case<to_swapped_case>},
    {"title", map_case<to_title>},
    {"upper", map_case<to_upper>},
    {"zfill", zfill},
};

enum class View { kItems, kKeys, kValues };

template <View kView>
Result<Value> dict_view(Runtime& runtime, const Value& self, const Arguments& arguments) {
  WEIR_RETURN_IF_ERROR(bind_arguments("dict method", arguments, {}, 0));
  std::vector<Value> items;
  items.reserve(self.dict().size());
  for (const auto& [key, value] : self.dict().entries()) {
    if (kView == View::kItems) {
      WEIR_ASSIGN_OR_RETURN(Value pair, runtime.tuple({key, value}));
      items.push_back(std::move(pair));
    } else {
      items.push_back(kView == View::kKeys ? key : value);
    }
  }
  return runtime.list(std::move(items), kView == View::kItems  ? ListKind::kItems
                                        : kView == View::kKeys ? ListKind::kKeys
                                                               : ListKind::kValues);
}

Result<Value> dict_get(Runtime&, const Value& self, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("get", arguments, {"key", "default"}, 1));
  if (!hashable(*bound[0])) {
    return failure("unhashable type: '{}'", type_name(*bound[0]));
  }
  const Value* found = self.dict().find(*bound[0]);
  return found != nullptr ? *found : bound[1].value_or(Value());
}

Result<Value> copy(Runtime&, const Value& self, const Arguments& arguments) {
  WEIR_RETURN_IF_ERROR(bind_arguments("copy", arguments, {}, 0));
  return self;
}

Result<Value> count_items(Runtime& runtime, const Value& self, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("count", arguments, {"value"}, 1));
  WEIR_RETURN_IF_ERROR(runtime.spend(extent_of(self).weight));
  const auto& items = self.list().items;
  return Value(static_cast<int64_t>(
      std::count_if(items.begin(), items.end(), [&](const Value& item) { return equal(item, *bound[0]); })));
}

Result<Value> index_item(Runtime& runtime, const Value& self, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("index", arguments, {"value"}, 1));
  WEIR_RETURN_IF_ERROR(runtime.spend(extent_of(self).weight));
  const auto& items = self.list().items;
  const auto it = std::find_if(items.begin(), items.end(), [&](const Value& item) { return equal(item, *bound[0]); });
  if (it == items.end()) {
    return failure("the value is not in the {}", type_name(self));
  }
  return Value(static_cast<int64_t>(it - items.begin()));
}

constexpr MethodEntry kDictMethods[] = {
    {"copy", copy},
    {"get", dict_get},
    {"items", dict_view<View::kItems>},
    {"keys", dict_view<View::kKeys>},
    {"values", dict_view<View::kValues>},
};
constexpr MethodEntry kListMethods[] = {{"copy", copy}, {"count", count_items}, {"index", index_item}};
constexpr MethodEntry kTupleMethods[] = {{"count", count_items}, {"index", index_item}};

Method find_in(const MethodEntry* begin, const MethodEntry* end, std::string_view name) {
  const MethodEntry* it = std::find_if(begin, end, [name](const MethodEntry& entry) { return entry.name == name; });
  return it == end ? nullptr : it->method;
}

Method find_method_of(const Value& object, std::string_view name) {
  if (object.is_string()) {
    return find_in(std::begin(kStringMethods), std::end(kStringMethods), name);
  }
  if (object.is_dict()) {
    return find_in(std::begin(kDictMethods), std::end(kDictMethods), name);
  }
  if (object.is_list_kind(ListKind::kList)) {
    return find_in(std::begin(kListMethods), std::end(kListMethods), name);
  }
  if (object.is(Kind::kList) && object.list().kind <= ListKind::kGroup) {
    return find_in(std::begin(kTupleMethods), std::end(kTupleMethods), name);
  }
  return nullptr;
}

}  // namespace

bool has_method(const Value& object, std::string_view name) {
  return find_method_of(object, name) != nullptr;
}

bool is_mutating_method(const Value& object, std::string_view name) {
  static constexpr std::array<std::string_view, 5> kDict = {"clear", "pop", "popitem", "setdefault", "update"};
  static constexpr std::array<std::string_view, 8> kList = {"append", "clear",   "extend", "insert",
                                                            "pop",    "reverse", "remove", "sort"};
  if (object.is_dict()) {
    return std::find(kDict.begin(), kDict.end(), name) != kDict.end();
  }
  return object.is_list_kind(ListKind::kList) && std::find(kList.begin(), kList.end(), name) != kList.end();
}

Result<Value> call_method(Runtime& runtime, const Value& object, std::string_view name, const Arguments& arguments) {
  const Method method = find_method_of(object, name);
  WEIR_CHECK(method != nullptr, "method {} of {}", name, type_name(object));
  return method(runtime, object, arguments);
}

}  // namespace weir::jinja
