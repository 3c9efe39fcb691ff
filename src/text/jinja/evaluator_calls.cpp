#include <algorithm>

#include "text/jinja/evaluator.h"
#include "text/jinja/operators.h"
#include "text/jinja/show.h"

namespace weir::jinja {

Value Evaluator::macro_value(const MacroNode& macro) {
  auto function = std::make_shared<Function>();
  function->kind = FunctionKind::kMacro;
  function->name = macro.name;
  function->macro = &macro;
  function->closure = scope_;
  for (Scope* scope = scope_; scope != nullptr && !scope->captured; scope = scope->parent) {
    scope->captured = true;
  }
  return Value(std::shared_ptr<const Function>(std::move(function)));
}

const Value* Evaluator::find_global(std::string_view name) {
  static const std::vector<std::pair<std::string_view, Value>> kGlobals = [] {
    std::vector<std::pair<std::string_view, Value>> globals;
    for (const std::string_view global :
         {"range", "dict", "namespace", "cycler", "joiner", "raise_exception", "strftime_now"}) {
      auto function = std::make_shared<Function>();
      function->name = global;
      globals.emplace_back(global, Value(std::shared_ptr<const Function>(std::move(function))));
    }
    return globals;
  }();
  const auto it =
      std::find_if(kGlobals.begin(), kGlobals.end(), [name](const auto& entry) { return entry.first == name; });
  return it == kGlobals.end() ? nullptr : &it->second;
}

Result<Value> Evaluator::call(const Value& callee, const Arguments& arguments) {
  if (callee.is_undefined()) {
    return failure("{}", callee.undefined().message);
  }
  if (callee.is(Kind::kLoop)) {
    return call_loop(callee.loop(), arguments);
  }
  if (!callee.is(Kind::kFunction)) {
    return failure("'{}' object is not callable", type_name(callee));
  }
  const Function& function = callee.function();
  switch (function.kind) {
    case FunctionKind::kGlobal:
      return call_global(function.name, arguments);
    case FunctionKind::kMethod:
      return call_method(runtime_, function.self, function.name, arguments);
    case FunctionKind::kMacro:
      return call_macro(function, arguments);
    case FunctionKind::kLoopCycle:
      if (arguments.positional.empty()) {
        return failure("no items for cycling given");
      }
      return arguments
          .positional[static_cast<size_t>(std::max<int64_t>(function.loop->index0, 0)) % arguments.positional.size()];
    case FunctionKind::kLoopChanged: {
      WEIR_ASSIGN_OR_RETURN(const Value seen, runtime_.tuple(arguments.positional));
      const bool changed = !function.loop->last_changed || !equal(*function.loop->last_changed, seen);
      function.loop->last_changed = seen;
      return Value(changed);
    }
    case FunctionKind::kJoiner:
      return (*function.count)++ == 0 ? Value::text("") : function.self;
    case FunctionKind::kCycler:
      return failure("a cycler is not callable: use its next()");
  }
  return make_error(ErrorCode::kInternal, "unknown kind of function");
}

Result<Value> Evaluator::call_loop(LoopState& loop, const Arguments& arguments) {
  if (!loop.stmt->recursive) {
    return failure("The loop must have the 'recursive' marker to be called recursively.");
  }
  if (arguments.positional.size() != 1 || loop.closed) {
    return failure("loop() takes one argument, and only while the loop runs");
  }
  std::string text;
  std::string* before = out_;
  out_ = &text;
  Scope* scope = std::exchange(scope_, loop.outer);
  Status status = execute_for(*loop.stmt, arguments.positional[0], loop.depth0 + 1);
  scope_ = scope;
  out_ = before;
  WEIR_RETURN_IF_ERROR(std::move(status));
  return runtime_.string(std::move(text));
}

Status Evaluator::bind_macro(const MacroNode& macro, Arguments arguments, Scope& scope) {
  const auto take_named = [&arguments](std::string_view name) -> std::optional<Value> {
    const auto it = std::find_if(arguments.named.begin(), arguments.named.end(),
                                 [name](const auto& entry) { return entry.first == name; });
    if (it == arguments.named.end()) {
      return std::nullopt;
    }
    Value value = std::move(it->second);
    arguments.named.erase(it);
    return value;
  };
  const size_t given = std::min(arguments.positional.size(), macro.parameters.size());
  std::vector<std::optional<Value>> values(macro.parameters.size());
  for (size_t i = 0; i < macro.parameters.size(); ++i) {
    values[i] = i < given ? std::optional<Value>(arguments.positional[i]) : take_named(macro.parameters[i]);
  }
  if (macro.uses_caller) {
    const auto caller = take_named("caller");
    const bool has_caller = caller && !caller->is_none();
    scope.variables.emplace_back("caller", has_caller ? *caller : Value::undefined("No caller defined"));
  }
  if (macro.uses_kwargs) {
    Dict dict;
    for (const auto& [name, value] : arguments.named) {
      dict.set(Value::text(name), value);
    }
    WEIR_ASSIGN_OR_RETURN(Value kwargs, runtime_.dict(std::move(dict)));
    scope.variables.emplace_back("kwargs", std::move(kwargs));
  } else if (!arguments.named.empty()) {
    return failure("macro {} takes no keyword argument {}", repr_text(macro.name), repr_text(arguments.named[0].first));
  }
  if (macro.uses_varargs) {
    std::vector<Value> rest(arguments.positional.begin() + static_cast<std::ptrdiff_t>(given),
                            arguments.positional.end());
    WEIR_ASSIGN_OR_RETURN(Value varargs, runtime_.tuple(std::move(rest)));
    scope.variables.emplace_back("varargs", std::move(varargs));
  } else if (arguments.positional.size() > macro.parameters.size()) {
    return failure("macro {} takes not more than {} argument(s)", repr_text(macro.name), macro.parameters.size());
  }
  // Defaults are evaluated in the macro's own scope, left to right: they may use the parameters before them.
  const size_t first_default = macro.parameters.size() - macro.defaults.size();
  for (size_t i = 0; i < values.size(); ++i) {
    if (!values[i] && i >= first_default) {
      WEIR_ASSIGN_OR_RETURN(values[i], evaluate(*macro.defaults[i - first_default]));
    }
    scope.variables.emplace_back(
        macro.parameters[i],
        values[i] ? std::move(*values[i])
                  : Value::undefined(fmt::format("parameter {} was not provided", repr_text(macro.parameters[i]))));
  }
  return Ok{};
}

Result<Value> Evaluator::call_macro(const Function& function, const Arguments& arguments) {
  std::string text;
  std::string* before = out_;
  out_ = &text;
  auto status = [&]() -> Status {
    ScopeGuard guard(*this, function.closure);
    WEIR_RETURN_IF_ERROR(bind_macro(*function.macro, arguments, *guard.get()));
    WEIR_RETURN_IF_ERROR(execute(function.macro->body));
    return Ok{};
  }();
  out_ = before;
  WEIR_RETURN_IF_ERROR(std::move(status));
  return runtime_.string(std::move(text));
}

Result<Value> Evaluator::make_namespace(const Arguments& arguments) {
  WEIR_ASSIGN_OR_RETURN(Dict dict, make_dict(runtime_, arguments));
  WEIR_RETURN_IF_ERROR(runtime_.work(static_cast<int64_t>(sizeof(Namespace))));
  namespaces_.push_back(std::make_unique<Namespace>());
  namespaces_.back()->attributes = std::move(dict);
  return Value(namespaces_.back().get());
}

Result<Value> Evaluator::call_global(const std::string& name, const Arguments& arguments) {
  if (name == "range") {
    return make_range(runtime_, arguments);
  }
  if (name == "namespace") {
    return make_namespace(arguments);
  }
  if (name == "dict") {
    WEIR_ASSIGN_OR_RETURN(Dict dict, make_dict(runtime_, arguments));
    return runtime_.dict(std::move(dict));
  }
  if (name == "strftime_now") {
    return local_time_text(runtime_, arguments);
  }
  if (name == "joiner") {
    WEIR_ASSIGN_OR_RETURN(const auto bound, bind_arguments("joiner", arguments, {"sep"}, 0));
    auto joiner = std::make_shared<Function>();
    joiner->kind = FunctionKind::kJoiner;
    joiner->self = bound[0] ? *bound[0] : Value::text(", ");
    joiner->count = std::make_shared<int64_t>(0);
    return Value(std::shared_ptr<const Function>(std::move(joiner)));
  }
  if (name == "raise_exception") {
    WEIR_ASSIGN_OR_RETURN(const auto bound, bind_arguments("raise_exception", arguments, {"message"}, 1));
    WEIR_ASSIGN_OR_RETURN(std::string message, to_text(runtime_, *bound[0]));
    runtime_.raised = true;
    return Error{ErrorCode::kInvalidArgument, std::move(message), {}};
  }
  return failure("{} is not supported in chat templates", name);
}

}  // namespace weir::jinja
