// Filters that apply another filter or test to each item: map, select, reject and their attribute forms.
//
// They give generators, as in jinja2: always true, walked once, and an error is met only by who walks to it.
#include <algorithm>

#include "text/jinja/filters.h"
#include "text/jinja/operators.h"
#include "text/jinja/predicates.h"

namespace weir::jinja {
namespace {

// Applies `apply(item)` to every item; what it returns, if anything, is an item of the result.
template <class Apply>
Result<Value> generate(Runtime& runtime, const Value& value, Apply apply) {
  if (!truthy(value)) {
    return runtime.iterator({});
  }
  auto items = runtime.items_of(value);
  if (!items.ok()) {
    return runtime.iterator({}, std::move(items).error());
  }
  std::vector<Value> made;
  for (const Value& item : *items) {
    WEIR_RETURN_IF_ERROR(runtime.spend(1));
    Result<std::optional<Value>> result = apply(item);
    if (!result.ok()) {
      if (result.error().code == ErrorCode::kTooLarge) {
        return std::move(result).error();
      }
      return runtime.iterator(std::move(made), std::move(result).error());
    }
    if (*result) {
      made.push_back(std::move(**result));
    }
  }
  return runtime.iterator(std::move(made));
}

Result<Value> map_attribute(Runtime& runtime, const Value& value, const Arguments& arguments) {
  auto bound = bind_arguments("map", arguments, {"attribute", "default"}, 1);
  if (!bound.ok()) {
    return runtime.iterator({}, std::move(bound).error());
  }
  const Value path = *(*bound)[0];
  const Value fallback = (*bound)[1].value_or(Value());
  return generate(runtime, value, [&](const Value& item) -> Result<std::optional<Value>> {
    WEIR_ASSIGN_OR_RETURN(Value found, get_path(runtime, item, path));
    const bool absent = found.is_undefined() && !fallback.is_none();
    return std::optional<Value>(absent ? fallback : std::move(found));
  });
}

Result<Value> filter_map(Runtime& runtime, const Value& value, const Arguments& arguments) {
  const bool by_attribute =
      arguments.positional.empty() && std::any_of(arguments.named.begin(), arguments.named.end(),
                                                  [](const auto& entry) { return entry.first == "attribute"; });
  if (by_attribute) {
    return map_attribute(runtime, value, arguments);
  }
  if (arguments.positional.empty() || !arguments.positional[0].is_string()) {
    return runtime.iterator({}, failure("map requires a filter argument"));
  }
  const std::string name = arguments.positional[0].string();
  const FilterFunction function = find_filter(name);
  Arguments rest = arguments;
  rest.positional.erase(rest.positional.begin());
  return generate(runtime, value, [&](const Value& item) -> Result<std::optional<Value>> {
    if (function == nullptr) {
      return failure("no filter named '{}'", name);
    }
    WEIR_ASSIGN_OR_RETURN(Value made, function(runtime, item, rest));
    return std::optional<Value>(std::move(made));
  });
}

template <bool kKeep, bool kAttribute>
Result<Value> filter_select(Runtime& runtime, const Value& value, const Arguments& arguments) {
  Arguments rest = arguments;
  Value path;
  if (kAttribute) {
    if (rest.positional.empty()) {
      return runtime.iterator({}, failure("Missing parameter for attribute name"));
    }
    path = rest.positional[0];
    rest.positional.erase(rest.positional.begin());
  }
  const bool has_test = !rest.positional.empty();
  std::string name;
  TestFunction test = nullptr;
  if (has_test) {
    name = rest.positional[0].is_string() ? rest.positional[0].string() : std::string();
    test = find_test(name);
    rest.positional.erase(rest.positional.begin());
  }
  return generate(runtime, value, [&](const Value& item) -> Result<std::optional<Value>> {
    WEIR_ASSIGN_OR_RETURN(const Value subject, get_path(runtime, item, path));
    bool passes = false;
    if (!has_test) {
      passes = truthy(subject);
    } else if (test == nullptr) {
      return failure("no test named '{}'", name);
    } else {
      WEIR_ASSIGN_OR_RETURN(passes, test(runtime, subject, rest));
    }
    return passes == kKeep ? std::optional<Value>(item) : std::optional<Value>();
  });
}

constexpr FilterEntry kFilters[] = {
    {"map", filter_map},
    {"reject", filter_select<false, false>},
    {"rejectattr", filter_select<false, true>},
    {"select", filter_select<true, false>},
    {"selectattr", filter_select<true, true>},
};

}  // namespace

const FilterEntry* find_selection_filter(std::string_view name) {
  const auto* it = std::find_if(std::begin(kFilters), std::end(kFilters),
                                [name](const FilterEntry& entry) { return entry.name == name; });
  return it == std::end(kFilters) ? nullptr : it;
}

}  // namespace weir::jinja
