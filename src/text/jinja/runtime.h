// What every operation of a render shares: the budget it draws on, and the makers of values that check its limits.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "text/jinja/value.h"
#include "text/template.h"

namespace weir::jinja {

// The arguments of a call, filter or test.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

class Runtime {
 public:
  // `input_bytes`: the size of the request, which earns a share of work bytes.
  Runtime(const TemplateLimits& limits, const TemplateRenderOptions& options, int64_t input_bytes);

  const TemplateLimits& limits() const { return limits_; }
  const TemplateRenderOptions& options() const { return options_; }

  // Counts `count` steps; an error once the steps or the time are used up.
  Status spend(int64_t count);
  // Counts the reading of `bytes` of text.
  Status scan(size_t bytes) { return spend(1 + static_cast<int64_t>(bytes / 64)); }
  // Fails if making `bytes` more would pass the limit; counts nothing. To be asked before something large is made.
  Status check_room(int64_t bytes) const;
  // Counts `bytes` as made.
  Status work(int64_t bytes);

  Result<Value> string(std::string text, bool markup = false);
  Result<Value> string(std::string_view text) { return string(std::string(text)); }
  Result<Value> string(const char*) = delete;
  Result<Value> list(std::vector<Value> items, ListKind kind = ListKind::kList);
  Result<Value> tuple(std::vector<Value> items) { return list(std::move(items), ListKind::kTuple); }
  Result<Value> dict(Dict dict);
  // A generator over `items` that then fails with `failure`, if there is one.
  Result<Value> iterator(std::vector<Value> items, std::optional<Error> failure = std::nullopt);

  // The items that a walk of `value` meets: of a list; the keys of a dict; the characters of a string; none of an
  // undefined value. Uses up an iterator. An error for what cannot be walked.
  Result<std::vector<Value>> items_of(const Value& value);

  // The error of raise_exception is the template's own message and is passed on bare.
  bool raised = false;

 private:
  Status check_extent(const Extent& extent) const;
  const TemplateLimits limits_;
  const TemplateRenderOptions& options_;
  SteadyClock steady_clock_;
  const Clock* clock_;
  int64_t deadline_us_;
  int64_t steps_ = 0;
  int64_t next_time_check_ = 0;
  int64_t work_bytes_ = 0;
  int64_t work_bytes_max_;
};

// Arguments matched to `parameters` as Python matches them; absent ones are empty. The first `required` must be there.
Result<std::vector<std::optional<Value>>> bind_arguments(std::string_view function, const Arguments& arguments,
                                                         std::initializer_list<std::string_view> parameters,
                                                         size_t required);

// The integer of an argument that must be one, within +-2^62, so that sums of two stay in int64.
Result<int64_t> to_index(const Value& value);

}  // namespace weir::jinja
