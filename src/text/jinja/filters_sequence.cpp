// Filters that take sequences apart and put them together.
#include <algorithm>

#include "text/jinja/filters.h"
#include "text/jinja/operators.h"
#include "text/jinja/show.h"
#include "text/jinja/unicode.h"

namespace weir::jinja {
namespace {

using Bound = std::vector<std::optional<Value>>;

// The key that sorting and grouping compare: the item's attribute, in lower case unless case matters.
Result<Value> folded(Runtime& runtime, const Value& value, bool case_sensitive) {
  if (case_sensitive || !value.is_string()) {
    return value;
  }
  WEIR_RETURN_IF_ERROR(runtime.check_room(static_cast<int64_t>(value.string().size() * 3)));
  return runtime.string(to_lower(value.string()));
}

Result<Value> key_of(Runtime& runtime, const Value& item, const Value& path, bool case_sensitive) {
  WEIR_ASSIGN_OR_RETURN(const Value value, get_path(runtime, item, path));
  return folded(runtime, value, case_sensitive);
}

// The keys of the comma separated paths of `paths`, as a list.
Result<Value> keys_of(Runtime& runtime, const Value& item, const Value& paths, bool case_sensitive) {
  std::vector<Value> keys;
  if (!paths.is_string()) {
    WEIR_ASSIGN_OR_RETURN(Value key, key_of(runtime, item, paths, case_sensitive));
    keys.push_back(std::move(key));
    return runtime.list(std::move(keys));
  }
  std::string_view rest = paths.string();
  while (true) {
    const size_t comma = rest.find(',');
    const Value path = Value::text(std::string(rest.substr(0, comma)));
    WEIR_ASSIGN_OR_RETURN(Value key, key_of(runtime, item, path, case_sensitive));
    keys.push_back(std::move(key));
    if (comma == std::string_view::npos) {
      return runtime.list(std::move(keys));
    }
    rest.remove_prefix(comma + 1);
  }
}

struct Keyed {
  Value key;
  Value item;
};

// A stable merge sort that stops at the first comparison that fails.
Status sort_keyed(Runtime& runtime, std::vector<Keyed>& items, bool reverse) {
  std::vector<Keyed> merged(items.size());
  for (size_t width = 1; width < items.size(); width *= 2) {
    for (size_t low = 0; low < items.size(); low += 2 * width) {
      const size_t middle = std::min(low + width, items.size());
      const size_t high = std::min(low + 2 * width, items.size());
      size_t left = low;
      size_t right = middle;
      for (size_t out = low; out < high; ++out) {
        bool take_right = left == middle;
        if (!take_right && right < high) {
          const Value& a = items[left].key;
          const Value& b = items[right].key;
          WEIR_RETURN_IF_ERROR(runtime.spend(std::min(extent_of(a).weight, extent_of(b).weight)));
          auto moves = reverse ? less(a, b) : less(b, a);
          WEIR_ASSIGN_OR_RETURN(take_right, std::move(moves));
        }
        merged[out] = std::move(items[take_right ? right++ : left++]);
      }
    }
    items.swap(merged);
  }
  return Ok{};
}

std::vector<Value> items_in(std::vector<Keyed> keyed) {
  std::vector<Value> items;
  items.reserve(keyed.size());
  for (Keyed& entry : keyed) {
    items.push_back(std::move(entry.item));
  }
  return items;
}

bool flag(const std::optional<Value>& value) {
  return value && truthy(*value);
}

Result<Value> filter_sort(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound,
                        bind_arguments("sort", arguments, {"reverse", "case_sensitive", "attribute"}, 0));
  WEIR_ASSIGN_OR_RETURN(const std::vector<Value> items, runtime.items_of(value));
  std::vector<Keyed> keyed;
  for (const Value& item : items) {
    WEIR_ASSIGN_OR_RETURN(Value key, keys_of(runtime, item, bound[2].value_or(Value()), flag(bound[1])));
    keyed.push_back({std::move(key), item});
  }
  WEIR_RETURN_IF_ERROR(sort_keyed(runtime, keyed, flag(bound[0])));
  return runtime.list(items_in(std::move(keyed)));
}

Result<Value> filter_dictsort(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound,
                        bind_arguments("dictsort", arguments, {"case_sensitive", "by", "reverse"}, 0));
  const std::string by = bound[1] && bound[1]->is_string() ? bound[1]->string() : (bound[1] ? "" : "key");
  if (by != "key" && by != "value") {
    return failure("You can only sort by either \"key\" or \"value\"");
  }
  if (!value.is_dict()) {
    return value.is_undefined() ? failure("{}", value.undefined().message)
                                : failure("'{}' object has no attribute 'items'", type_name(value));
  }
  std::vector<Keyed> keyed;
  for (const auto& [key, entry] : value.dict().entries()) {
    WEIR_ASSIGN_OR_RETURN(Value sort_key, folded(runtime, by == "key" ? key : entry, flag(bound[0])));
    WEIR_ASSIGN_OR_RETURN(Value pair, runtime.tuple({key, entry}));
    keyed.push_back({std::move(sort_key), std::move(pair)});
  }
  WEIR_RETURN_IF_ERROR(sort_keyed(runtime, keyed, flag(bound[2])));
  return runtime.list(items_in(std::move(keyed)));
}

Result<Value> filter_groupby(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound,
                        bind_arguments("groupby", arguments, {"attribute", "default", "case_sensitive"}, 1));
  WEIR_ASSIGN_OR_RETURN(const std::vector<Value> items, runtime.items_of(value));
  const auto plain_key = [&](const Value& item) -> Result<Value> {
    WEIR_ASSIGN_OR_RETURN(Value key, get_path(runtime, item, *bound[0]));
    const bool absent = key.is_undefined() && bound[1] && !bound[1]->is_none();
    return absent ? *bound[1] : key;
  };
  std::vector<Keyed> keyed;
  for (const Value& item : items) {
    WEIR_ASSIGN_OR_RETURN(const Value plain, plain_key(item));
    WEIR_ASSIGN_OR_RETURN(Value key, folded(runtime, plain, flag(bound[2])));
    keyed.push_back({std::move(key), item});
  }
  WEIR_RETURN_IF_ERROR(sort_keyed(runtime, keyed, false));
  std::vector<Value> groups;
  for (size_t first = 0; first < keyed.size();) {
    size_t last = first;
    std::vector<Value> members;
    for (; last < keyed.size() && equal(keyed[first].key, keyed[last].key); ++last) {
      members.push_back(keyed[last].item);
    }
    WEIR_ASSIGN_OR_RETURN(Value key, plain_key(members[0]));
    WEIR_ASSIGN_OR_RETURN(Value list, runtime.list(std::move(members)));
    WEIR_ASSIGN_OR_RETURN(Value group, runtime.list({std::move(key), std::move(list)}, ListKind::kGroup));
    groups.push_back(std::move(group));
    first = std::max(last, first + 1);
  }
  return runtime.list(std::move(groups));
}

Result<Value> filter_unique(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("unique", arguments, {"case_sensitive", "attribute"}, 0));
  WEIR_ASSIGN_OR_RETURN(const std::vector<Value> items, runtime.items_of(value));
  Dict seen;
  std::vector<Value> unique;
  for (const Value& item : items) {
    WEIR_ASSIGN_OR_RETURN(Value key, key_of(runtime, item, bound[1].value_or(Value()), flag(bound[0])));
    if (!hashable(key)) {
      return runtime.iterator(std::move(unique), failure("unhashable type: '{}'", type_name(key)));
    }
    if (seen.find(key) == nullptr) {
      seen.set(std::move(key), Value());
      unique.push_back(item);
    }
  }
  return runtime.iterator(std::move(unique));
}

template <bool kMax>
Result<Value> filter_extreme(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("min", arguments, {"case_sensitive", "attribute"}, 0));
  WEIR_ASSIGN_OR_RETURN(const std::vector<Value> items, runtime.items_of(value));
  if (items.empty()) {
    return Value::undefined("No aggregated item, sequence was empty.");
  }
  std::optional<Keyed> best;
  for (const Value& item : items) {
    WEIR_ASSIGN_OR_RETURN(Value key, key_of(runtime, item, bound[1].value_or(Value()), flag(bound[0])));
    if (best) {
      auto beats = kMax ? less(best->key, key) : less(key, best->key);
      WEIR_ASSIGN_OR_RETURN(const bool better, std::move(beats));
      if (!better) {
        continue;
      }
    }
    best = Keyed{std::move(key), item};
  }
  return best->item;
}

Result<Value> filter_sum(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("sum", arguments, {"attribute", "start"}, 0));
  WEIR_ASSIGN_OR_RETURN(const std::vector<Value> items, runtime.items_of(value));
  Value total = bound[1].value_or(Value(0));
  if (total.is_string()) {
    return failure("sum() can't sum strings [use ''.join(seq) instead]");
  }
  for (const Value& item : items) {
    WEIR_ASSIGN_OR_RETURN(const Value part, get_path(runtime, item, bound[0].value_or(Value())));
    WEIR_RETURN_IF_ERROR(runtime.spend(1));
    WEIR_ASSIGN_OR_RETURN(total, add(runtime, total, part));
  }
  return total;
}

Result<Value> filter_join(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("join", arguments, {"d", "attribute"}, 0));
  WEIR_ASSIGN_OR_RETURN(const std::string separator, to_text(runtime, bound[0].value_or(Value::text(""))));
  WEIR_ASSIGN_OR_RETURN(const std::vector<Value> items, runtime.items_of(value));
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    WEIR_ASSIGN_OR_RETURN(const Value part, get_path(runtime, items[i], bound[1].value_or(Value())));
    WEIR_ASSIGN_OR_RETURN(const std::string text, to_text(runtime, part));
    WEIR_RETURN_IF_ERROR(runtime.spend(1));
    WEIR_RETURN_IF_ERROR(runtime.check_room(static_cast<int64_t>(out.size() + separator.size() + text.size())));
    out += i == 0 ? "" : separator;
    out += text;
  }
  return runtime.string(std::move(out));
}

Result<Value> filter_length(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_RETURN_IF_ERROR(bind_arguments("length", arguments, {}, 0));
  if (value.is_string()) {
    WEIR_RETURN_IF_ERROR(runtime.scan(value.string().size()));
  }
  WEIR_ASSIGN_OR_RETURN(const int64_t length, length_of(value));
  return Value(length);
}

Result<Value> filter_first(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_RETURN_IF_ERROR(bind_arguments("first", arguments, {}, 0));
  if (value.is(Kind::kIterator) && value.iterator().next < value.iterator().items.size()) {
    return value.iterator().items[value.iterator().next++];
  }
  if (value.is(Kind::kList) && !value.list().items.empty()) {
    return value.list().items[0];
  }
  WEIR_ASSIGN_OR_RETURN(const std::vector<Value> items, runtime.items_of(value));
  return items.empty() ? Value::undefined("No first item, sequence was empty.") : items[0];
}

bool reversible(const Value& value) {
  return value.is(Kind::kList) || value.is_dict() || value.is_string() || value.is_undefined();
}

Result<Value> filter_last(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_RETURN_IF_ERROR(bind_arguments("last", arguments, {}, 0));
  if (!reversible(value)) {
    return failure("'{}' object is not reversible", type_name(value));
  }
  if (value.is(Kind::kList) && !value.list().items.empty()) {
    return value.list().items.back();
  }
  WEIR_ASSIGN_OR_RETURN(const std::vector<Value> items, runtime.items_of(value));
  return items.empty() ? Value::undefined("No last item, sequence was empty.") : items.back();
}

Result<Value> filter_reverse(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_RETURN_IF_ERROR(bind_arguments("reverse", arguments, {}, 0));
  if (value.is_string()) {
    return get_slice(runtime, value, Value(), Value(), Value(-1));
  }
  WEIR_ASSIGN_OR_RETURN(std::vector<Value> items, runtime.items_of(value));
  std::reverse(items.begin(), items.end());
  if (!reversible(value)) {
    return runtime.list(std::move(items));
  }
  return runtime.iterator(std::move(items));
}

Result<Value> filter_list(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_RETURN_IF_ERROR(bind_arguments("list", arguments, {}, 0));
  WEIR_ASSIGN_OR_RETURN(std::vector<Value> items, runtime.items_of(value));
  return runtime.list(std::move(items));
}

Result<Value> filter_items(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_RETURN_IF_ERROR(bind_arguments("items", arguments, {}, 0));
  if (value.is_undefined()) {
    return runtime.iterator({});
  }
  if (!value.is_dict()) {
    // Raised when the generator is walked, not here.
    return runtime.iterator({}, failure("Can only get item pairs from a mapping."));
  }
  WEIR_ASSIGN_OR_RETURN(const Value view, call_method(runtime, value, "items", {}));
  return runtime.iterator(view.list().items);
}

Result<Value> filter_batch(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("batch", arguments, {"linecount", "fill_with"}, 1));
  WEIR_ASSIGN_OR_RETURN(const std::vector<Value> items, runtime.items_of(value));
  const bool fills = bound[1] && !bound[1]->is_none();
  // Any number compares with a length; only whole ones can be met.
  const int64_t count = bound[0]->is_integral() ? *to_index(*bound[0]) : -1;
  std::vector<Value> batches;
  std::vector<Value> batch;
  for (const Value& item : items) {
    if (static_cast<int64_t>(batch.size()) == count) {
      WEIR_ASSIGN_OR_RETURN(Value list, runtime.list(std::move(batch)));
      batches.push_back(std::move(list));
      batch.clear();
    }
    batch.push_back(item);
  }
  if (!batch.empty()) {
    if (fills && count > static_cast<int64_t>(batch.size())) {
      WEIR_RETURN_IF_ERROR(runtime.check_room(std::min(count, int64_t{1} << 40) * static_cast<int64_t>(sizeof(Value))));
      batch.resize(static_cast<size_t>(count), *bound[1]);
    }
    WEIR_ASSIGN_OR_RETURN(Value list, runtime.list(std::move(batch)));
    batches.push_back(std::move(list));
  }
  return runtime.iterator(std::move(batches));
}

Result<Value> filter_slice(Runtime& runtime, const Value& value, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("slice", arguments, {"slices", "fill_with"}, 1));
  WEIR_ASSIGN_OR_RETURN(const std::vector<Value> items, runtime.items_of(value));
  WEIR_ASSIGN_OR_RETURN(const int64_t slices, to_index(*bound[0]));
  if (slices == 0) {
    return runtime.iterator({}, failure("integer division or modulo by zero"));
  }
  const auto length = static_cast<int64_t>(items.size());
  WEIR_RETURN_IF_ERROR(runtime.spend(std::max<int64_t>(slices, 0)));
  std::vector<Value> result;
  int64_t start = 0;
  for (int64_t i = 0; i < slices; ++i) {
    const int64_t end = start + length / slices + (i < length % slices ? 1 : 0);
    std::vector<Value> part(items.begin() + start, items.begin() + end);
    if (bound[1] && !bound[1]->is_none() && i >= length % slices) {
      part.push_back(*bound[1]);
    }
    WEIR_ASSIGN_OR_RETURN(Value list, runtime.list(std::move(part)));
    result.push_back(std::move(list));
    start = end;
  }
  return runtime.iterator(std::move(result));
}

constexpr FilterEntry kFilters[] = {
    {"batch", filter_batch},     {"count", filter_length},      {"dictsort", filter_dictsort},
    {"first", filter_first},     {"groupby", filter_groupby},   {"items", filter_items},
    {"join", filter_join},       {"last", filter_last},         {"length", filter_length},
    {"list", filter_list},       {"max", filter_extreme<true>}, {"min", filter_extreme<false>},
    {"reverse", filter_reverse}, {"slice", filter_slice},       {"sort", filter_sort},
    {"sum", filter_sum},         {"unique", filter_unique},
};

}  // namespace

const FilterEntry* find_sequence_filter(std::string_view name) {
  const auto* it = std::find_if(std::begin(kFilters), std::end(kFilters),
                                [name](const FilterEntry& entry) { return entry.name == name; });
  return it == std::end(kFilters) ? nullptr : it;
}

}  // namespace weir::jinja
