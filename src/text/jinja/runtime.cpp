#include "text/jinja/runtime.h"

#include <algorithm>

#include "text/jinja/unicode.h"

namespace weir::jinja {
namespace {

// Reading the clock costs about as much as this many steps save.
constexpr int64_t kStepsPerTimeCheck = 4096;

// A value holds at most this many items, shared parts counted each time they are met. Ten times the items of a request
// of 16 MiB; a walk of that many takes well under a second.
constexpr int64_t kValueWeightMax = 4'000'000;

// What a shared string, list or dict costs besides its contents.
constexpr int64_t kObjectBytes = 64;

Error limit_error(std::string_view what, std::string_view limit, int64_t maximum) {
  return with_remedy(make_error(ErrorCode::kTooLarge, "the template {}: more than {} {}", what, maximum, limit),
                     "shorten the conversation, or use another chat template");
}

}  // namespace

Runtime::Runtime(const TemplateLimits& limits, const TemplateRenderOptions& options, int64_t input_bytes)
    : limits_(limits),
      options_(options),
      clock_(options.clock != nullptr ? options.clock : &steady_clock_),
      deadline_us_(clock_->now_us() + limits.wall_us_max),
      work_bytes_max_(limits.work_bytes_floor + input_bytes * limits.work_bytes_per_input_byte) {}

Status Runtime::spend(int64_t count) {
  steps_ += count;
  if (steps_ > limits_.steps_max) {
    return limit_error("works too long", "steps (steps_max)", limits_.steps_max);
  }
  if (steps_ >= next_time_check_) {
    next_time_check_ = steps_ + kStepsPerTimeCheck;
    if (clock_->now_us() > deadline_us_) {
      return limit_error("works too long", "microseconds (wall_us_max)", limits_.wall_us_max);
    }
  }
  return Ok{};
}

Status Runtime::check_room(int64_t bytes) const {
  if (bytes > work_bytes_max_ - work_bytes_) {
    return limit_error("uses too much memory", "bytes (work_bytes)", work_bytes_max_);
  }
  return Ok{};
}

Status Runtime::work(int64_t bytes) {
  WEIR_RETURN_IF_ERROR(check_room(bytes));
  work_bytes_ += bytes;
  return spend(1 + bytes / 64);
}

Status Runtime::check_extent(const Extent& extent) const {
  if (extent.depth > limits_.value_depth_max) {
    return limit_error("makes a value too deep", "levels (value_depth_max)", limits_.value_depth_max);
  }
  if (extent.weight > kValueWeightMax) {
    return limit_error("makes a value too large", "items", kValueWeightMax);
  }
  return Ok{};
}

Result<Value> Runtime::string(std::string text, bool markup) {
  WEIR_RETURN_IF_ERROR(work(kObjectBytes + static_cast<int64_t>(text.size())));
  return Value::text(std::move(text), markup);
}

Result<Value> Runtime::list(std::vector<Value> items, ListKind kind) {
  WEIR_RETURN_IF_ERROR(work(kObjectBytes + static_cast<int64_t>(items.size() * sizeof(Value))));
  const Extent extent = extent_of(items);
  WEIR_RETURN_IF_ERROR(check_extent(extent));
  return Value(std::make_shared<const List>(List{std::move(items), kind, extent, {}}));
}

Result<Value> Runtime::dict(Dict dict) {
  WEIR_RETURN_IF_ERROR(work(kObjectBytes + static_cast<int64_t>(dict.size() * 2 * sizeof(Value))));
  WEIR_RETURN_IF_ERROR(check_extent(dict.extent()));
  return Value(std::make_shared<const Dict>(std::move(dict)));
}

Result<Value> Runtime::iterator(std::vector<Value> items, std::optional<Error> failure) {
  WEIR_RETURN_IF_ERROR(work(kObjectBytes + static_cast<int64_t>(items.size() * sizeof(Value))));
  const Extent extent = extent_of(items);
  WEIR_RETURN_IF_ERROR(check_extent(extent));
  auto iterator = std::make_shared<Iterator>();
  iterator->items = std::move(items);
  iterator->extent = extent;
  iterator->failure = std::move(failure);
  return Value(std::move(iterator));
}

Result<std::vector<Value>> Runtime::items_of(const Value& value) {
  std::vector<Value> items;
  switch (value.kind()) {
    case Kind::kUndefined:
      return items;
    case Kind::kList:
      WEIR_RETURN_IF_ERROR(work(static_cast<int64_t>(value.list().items.size() * sizeof(Value))));
      return value.list().items;
    case Kind::kDict:
      WEIR_RETURN_IF_ERROR(work(static_cast<int64_t>(value.dict().size() * sizeof(Value))));
      for (const auto& [key, entry] : value.dict().entries()) {
        items.push_back(key);
      }
      return items;
    case Kind::kString: {
      const std::string& text = value.string();
      // Each character becomes a value with its own string: about 64 bytes more than its place in the list.
      WEIR_RETURN_IF_ERROR(work(static_cast<int64_t>(text.size() * (sizeof(Value) + 64))));
      for (size_t at = 0; at < text.size();) {
        const size_t start = at;
        next_code(text, at);
        items.push_back(Value::text(text.substr(start, at - start)));
      }
      return items;
    }
    case Kind::kIterator: {
      Iterator& iterator = value.iterator();
      WEIR_RETURN_IF_ERROR(spend(static_cast<int64_t>(iterator.items.size() - iterator.next)));
      items.assign(iterator.items.begin() + static_cast<std::ptrdiff_t>(iterator.next), iterator.items.end());
      iterator.next = iterator.items.size();
      if (iterator.failure) {
        return *iterator.failure;
      }
      return items;
    }
    default:
      return failure("'{}' object is not iterable", type_name(value));
  }
}

Result<std::vector<std::optional<Value>>> bind_arguments(std::string_view function, const Arguments& arguments,
                                                         std::initializer_list<std::string_view> parameters,
                                                         size_t required) {
  std::vector<std::optional<Value>> bound(parameters.size());
  if (arguments.positional.size() > parameters.size()) {
    return failure("{}() takes at most {} arguments ({} given)", function, parameters.size(),
                   arguments.positional.size());
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) {
    bound[i] = arguments.positional[i];
  }
  for (const auto& [name, value] : arguments.named) {
    const auto* it = std::find(parameters.begin(), parameters.end(), name);
    if (it == parameters.end()) {
      return failure("{}() got an unexpected keyword argument '{}'", function, name);
    }
    auto& place = bound[static_cast<size_t>(it - parameters.begin())];
    if (place) {
      return failure("{}() got multiple values for argument '{}'", function, name);
    }
    place = value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (!bound[i]) {
      return failure("{}() missing a required argument: '{}'", function, *(parameters.begin() + i));
    }
  }
  return bound;
}

Result<int64_t> to_index(const Value& value) {
  if (value.is_undefined()) {
    return failure("{}", value.undefined().message);
  }
  if (!value.is_integral()) {
    return failure("'{}' object cannot be interpreted as an integer", type_name(value));
  }
  constexpr Int kMax = Int{1} << 62;
  return static_cast<int64_t>(std::clamp(value.integer(), -kMax, kMax));
}

}  // namespace weir::jinja
