// What `loop` offers inside a for loop. Items are taken one at a time, so that a loop's condition is asked as late as
// it can be: it may depend on a namespace that the body changes.
#include "text/jinja/evaluator.h"
#include "text/jinja/operators.h"
#include "text/jinja/show.h"

namespace weir::jinja {

// Takes the next item that passes the loop's condition. False at the end.
Result<bool> Evaluator::pull(LoopState& loop, Value& item) {
  if (loop.after) {
    item = std::move(*loop.after);
    loop.after.reset();
    return true;
  }
  while (loop.next < loop.items.size()) {
    item = loop.items[loop.next++];
    if (!loop.filtered) {
      return true;
    }
    ScopeGuard guard(*this, loop.outer);
    WEIR_RETURN_IF_ERROR(assign(*loop.stmt->target, item));
    WEIR_ASSIGN_OR_RETURN(const Value passes, evaluate(*loop.stmt->condition));
    if (truthy(passes)) {
      return true;
    }
  }
  loop.ended = true;
  return false;
}

Result<bool> Evaluator::has_next(LoopState& loop) {
  if (loop.after) {
    return true;
  }
  if (loop.ended) {
    return false;
  }
  Value item;
  WEIR_ASSIGN_OR_RETURN(const bool found, pull(loop, item));
  if (found) {
    loop.after = std::move(item);
  }
  return found;
}

Result<int64_t> Evaluator::loop_length(LoopState& loop) {
  if (loop.length) {
    return *loop.length;
  }
  if (loop.sized) {
    loop.length = static_cast<int64_t>(loop.items.size());
    return *loop.length;
  }
  // All that is left has to pass the condition now.
  const bool peeked = loop.after.has_value();
  std::optional<Value> after = std::move(loop.after);
  loop.after.reset();
  std::vector<Value> rest;
  Value item;
  while (true) {
    WEIR_ASSIGN_OR_RETURN(const bool found, pull(loop, item));
    if (!found) {
      break;
    }
    rest.push_back(item);
  }
  loop.items = std::move(rest);
  loop.next = 0;
  loop.filtered = false;
  loop.ended = false;
  loop.after = std::move(after);
  loop.length = static_cast<int64_t>(loop.items.size()) + loop.index0 + 1 + (peeked ? 1 : 0);
  return *loop.length;
}

Result<Value> Evaluator::loop_attribute(LoopState& loop, const std::string& name) {
  if (name == "index0") {
    return Value(loop.index0);
  }
  if (name == "index") {
    return Value(loop.index0 + 1);
  }
  if (name == "first") {
    return Value(loop.index0 == 0);
  }
  if (name == "last") {
    WEIR_ASSIGN_OR_RETURN(const bool more, has_next(loop));
    return Value(!more);
  }
  if (name == "length" || name == "revindex" || name == "revindex0") {
    WEIR_ASSIGN_OR_RETURN(const int64_t length, loop_length(loop));
    return Value(name == "length" ? length : length - loop.index0 - (name == "revindex0" ? 1 : 0));
  }
  if (name == "depth" || name == "depth0") {
    return Value(loop.depth0 + (name == "depth" ? 1 : 0));
  }
  if (name == "previtem") {
    return loop.index0 == 0 ? Value::undefined("there is no previous item") : loop.before;
  }
  if (name == "nextitem") {
    WEIR_ASSIGN_OR_RETURN(const bool more, has_next(loop));
    return more ? *loop.after : Value::undefined("there is no next item");
  }
  if (name == "cycle" || name == "changed") {
    auto function = std::make_shared<Function>();
    function->kind = name == "cycle" ? FunctionKind::kLoopCycle : FunctionKind::kLoopChanged;
    function->name = name;
    function->loop = &loop;
    return Value(std::shared_ptr<const Function>(std::move(function)));
  }
  return Value::undefined(fmt::format("'jinja2.runtime.LoopContext object' has no attribute {}", repr_text(name)));
}

}  // namespace weir::jinja
