// The global functions that need no template: range, dict, strftime_now.
#include <algorithm>
#include <chrono>
#include <ctime>

#include "text/jinja/evaluator.h"
#include "text/jinja/show.h"

namespace weir::jinja {

Result<Dict> make_dict(Runtime& runtime, const Arguments& arguments) {
  Dict dict;
  if (arguments.positional.size() > 1) {
    return failure("dict expected at most 1 argument, got {}", arguments.positional.size());
  }
  if (!arguments.positional.empty()) {
    const Value& source = arguments.positional[0];
    if (source.is_dict()) {
      WEIR_RETURN_IF_ERROR(runtime.work(static_cast<int64_t>(source.dict().size() * 2 * sizeof(Value))));
      dict = source.dict();
    } else {
      WEIR_ASSIGN_OR_RETURN(const std::vector<Value> pairs, runtime.items_of(source));
      for (const Value& item : pairs) {
        WEIR_ASSIGN_OR_RETURN(const std::vector<Value> pair, runtime.items_of(item));
        if (pair.size() != 2 || !hashable(pair[0])) {
          return failure("dict() needs pairs of a hashable key and a value");
        }
        dict.set(pair[0], pair[1]);
      }
    }
  }
  for (const auto& [name, value] : arguments.named) {
    dict.set(Value::text(name), value);
  }
  return dict;
}

Result<Value> make_range(Runtime& runtime, const Arguments& arguments) {
  const auto& given = arguments.positional;
  if (given.empty() || given.size() > 3 || !arguments.named.empty()) {
    return failure("range() takes 1 to 3 positional arguments, and no others");
  }
  int64_t bounds[3] = {0, 0, 1};
  for (size_t i = 0; i < given.size(); ++i) {
    WEIR_ASSIGN_OR_RETURN(bounds[given.size() == 1 ? 1 : i], to_index(given[i]));
  }
  const auto [start, stop, step] = bounds;
  if (step == 0) {
    return failure("range() arg 3 must not be zero");
  }
  const Int span = step > 0 ? Int{stop} - start : Int{start} - stop;
  const Int stride = step > 0 ? Int{step} : -Int{step};
  const Int count = span <= 0 ? 0 : (span - 1) / stride + 1;
  const int64_t maximum = runtime.limits().range_items_max;
  if (count > maximum) {
    return make_error(ErrorCode::kTooLarge, "range() of more than {} items (range_items_max)", maximum);
  }
  WEIR_RETURN_IF_ERROR(runtime.work(static_cast<int64_t>(count) * static_cast<int64_t>(sizeof(Value))));
  List list;
  list.kind = ListKind::kRange;
  list.items.reserve(static_cast<size_t>(count));
  for (Int i = 0; i < count; ++i) {
    list.items.emplace_back(start + i * step);
  }
  list.extent = extent_of(list.items);
  list.range_text =
      step == 1 ? fmt::format("range({}, {})", start, stop) : fmt::format("range({}, {}, {})", start, stop, step);
  return Value(std::make_shared<const List>(std::move(list)));
}

Result<Value> local_time_text(Runtime& runtime, const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(const auto bound, bind_arguments("strftime_now", arguments, {"format"}, 1));
  // No date needs a longer one, and the C library's field widths make long texts from short formats.
  constexpr size_t kFormatMax = 256;
  constexpr size_t kTextMax = 1024;
  if (!bound[0]->is_string() || bound[0]->string().size() > kFormatMax) {
    return failure("strftime_now() takes a format of at most {} bytes", kFormatMax);
  }
  std::tm parts{};
  if (runtime.options().local_time_s) {
    const auto seconds = static_cast<std::time_t>(*runtime.options().local_time_s);
    gmtime_r(&seconds, &parts);
  } else {
    const std::time_t seconds = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
    localtime_r(&seconds, &parts);
  }
  // A mark at the end tells an empty result from one that did not fit.
  const std::string format = bound[0]->string() + "|";
  char text[kTextMax];
  const size_t size = std::strftime(text, sizeof(text), format.c_str(), &parts);
  if (size == 0) {
    return failure("strftime_now() made more than {} bytes", kTextMax);
  }
  return runtime.string(std::string(text, size - 1));
}

}  // namespace weir::jinja
