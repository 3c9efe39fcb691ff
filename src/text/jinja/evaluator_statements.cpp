#include "text/jinja/evaluator.h"
#include "text/jinja/operators.h"
#include "text/jinja/show.h"

namespace weir::jinja {

Evaluator::ScopeGuard::ScopeGuard(Evaluator& evaluator, Scope* parent)
    : evaluator_(evaluator), before_(evaluator.scope_), scope_(std::make_unique<Scope>()) {
  scope_->parent = parent;
  evaluator_.scope_ = scope_.get();
}

Evaluator::ScopeGuard::~ScopeGuard() {
  evaluator_.scope_ = before_;
  if (scope_->captured) {
    evaluator_.kept_scopes_.push_back(std::move(scope_));
  }
}

Result<std::string> Evaluator::run(const Body& body) {
  std::string out;
  out_ = &out;
  ScopeGuard guard(*this, nullptr);
  auto flow = execute(body);
  if (!flow.ok()) {
    return std::move(flow).error();
  }
  return out;
}

Status Evaluator::write(std::string_view text) {
  const auto size = static_cast<int64_t>(out_->size() + text.size());
  if (size > runtime_.limits().output_bytes_max) {
    return make_error(ErrorCode::kTooLarge, "the template writes too much: more than {} bytes (output_bytes_max)",
                      runtime_.limits().output_bytes_max);
  }
  WEIR_RETURN_IF_ERROR(runtime_.work(static_cast<int64_t>(text.size())));
  out_->append(text);
  return Ok{};
}

Result<std::string> Evaluator::captured(const Body& body) {
  std::string text;
  std::string* before = out_;
  out_ = &text;
  auto flow = [&]() {
    ScopeGuard guard(*this, scope_);
    return execute(body);
  }();
  out_ = before;
  if (!flow.ok()) {
    return std::move(flow).error();
  }
  return text;
}

Result<Evaluator::Flow> Evaluator::execute(const Body& body) {
  for (const auto& stmt : body) {
    WEIR_ASSIGN_OR_RETURN(const Flow flow, execute(*stmt));
    if (flow != Flow::kNext) {
      return flow;
    }
  }
  return Flow::kNext;
}

Result<Evaluator::Flow> Evaluator::execute(const Stmt& stmt) {
  const DepthGuard guard(depth_);
  WEIR_RETURN_IF_ERROR(check_depth());
  WEIR_RETURN_IF_ERROR(runtime_.spend(1));
  line_ = stmt.line;
  switch (stmt.kind) {
    case StmtKind::kText:
      WEIR_RETURN_IF_ERROR(write(stmt.text));
      return Flow::kNext;
    case StmtKind::kOutput:
      WEIR_RETURN_IF_ERROR(execute_output(stmt));
      return Flow::kNext;
    case StmtKind::kSet: {
      WEIR_ASSIGN_OR_RETURN(Value value, evaluate(*stmt.value));
      WEIR_RETURN_IF_ERROR(assign(*stmt.target, std::move(value)));
      return Flow::kNext;
    }
    case StmtKind::kSetBlock:
      WEIR_RETURN_IF_ERROR(execute_set_block(stmt));
      return Flow::kNext;
    case StmtKind::kIf:
      return execute_if(stmt);
    case StmtKind::kFor: {
      WEIR_ASSIGN_OR_RETURN(const Value iterable, evaluate(*stmt.value));
      WEIR_RETURN_IF_ERROR(execute_for(stmt, iterable, 0));
      return Flow::kNext;
    }
    case StmtKind::kMacro:
      WEIR_RETURN_IF_ERROR(define_macro(stmt));
      return Flow::kNext;
    case StmtKind::kCallBlock:
      WEIR_RETURN_IF_ERROR(execute_call_block(stmt));
      return Flow::kNext;
    case StmtKind::kFilter:
    case StmtKind::kWith:
    case StmtKind::kScope:
      return execute_scoped(stmt);
    case StmtKind::kBreak:
      return Flow::kBreak;
    case StmtKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

Status Evaluator::execute_output(const Stmt& stmt) {
  for (const ExprPtr& expr : stmt.values) {
    WEIR_ASSIGN_OR_RETURN(const Value value, evaluate(*expr));
    if (value.is_string()) {
      WEIR_RETURN_IF_ERROR(write(value.string()));
    } else {
      WEIR_ASSIGN_OR_RETURN(const std::string text, to_text(runtime_, value));
      WEIR_RETURN_IF_ERROR(write(text));
    }
  }
  return Ok{};
}

Result<Evaluator::Flow> Evaluator::execute_if(const Stmt& stmt) {
  for (const Branch& branch : stmt.branches) {
    if (branch.condition) {
      WEIR_ASSIGN_OR_RETURN(const Value test, evaluate(*branch.condition));
      if (!truthy(test)) {
        continue;
      }
    }
    return execute(branch.body);
  }
  return Flow::kNext;
}

// with, filter and generation blocks.
Result<Evaluator::Flow> Evaluator::execute_scoped(const Stmt& stmt) {
  if (stmt.kind == StmtKind::kFilter) {
    WEIR_ASSIGN_OR_RETURN(std::string text, captured(stmt.body));
    WEIR_ASSIGN_OR_RETURN(Value input, runtime_.string(std::move(text)));
    filter_inputs_.push_back(std::move(input));
    auto result = evaluate(*stmt.value);
    filter_inputs_.pop_back();
    WEIR_ASSIGN_OR_RETURN(const Value value, std::move(result));
    WEIR_ASSIGN_OR_RETURN(const std::string shown, to_text(runtime_, value));
    WEIR_RETURN_IF_ERROR(write(shown));
    return Flow::kNext;
  }
  std::vector<Value> values;
  for (const ExprPtr& expr : stmt.values) {
    WEIR_ASSIGN_OR_RETURN(Value value, evaluate(*expr));
    values.push_back(std::move(value));
  }
  ScopeGuard guard(*this, scope_);
  for (size_t i = 0; i < values.size(); ++i) {
    WEIR_RETURN_IF_ERROR(assign(*stmt.targets[i], std::move(values[i])));
  }
  return execute(stmt.body);
}

Status Evaluator::execute_set_block(const Stmt& stmt) {
  WEIR_ASSIGN_OR_RETURN(std::string text, captured(stmt.body));
  WEIR_ASSIGN_OR_RETURN(Value value, runtime_.string(std::move(text)));
  if (stmt.value) {
    filter_inputs_.push_back(std::move(value));
    auto result = evaluate(*stmt.value);
    filter_inputs_.pop_back();
    WEIR_ASSIGN_OR_RETURN(value, std::move(result));
  }
  return assign(*stmt.target, std::move(value));
}

Status Evaluator::execute_call_block(const Stmt& stmt) {
  const Expr& expr = *stmt.value;
  WEIR_ASSIGN_OR_RETURN(const Value callee, evaluate(*expr.items[0]));
  WEIR_ASSIGN_OR_RETURN(Arguments arguments, evaluate_arguments(expr.arguments));
  arguments.named.emplace_back("caller", macro_value(*stmt.macro));
  WEIR_ASSIGN_OR_RETURN(const Value value, call(callee, arguments));
  WEIR_ASSIGN_OR_RETURN(const std::string text, to_text(runtime_, value));
  return write(text);
}

Status Evaluator::define_macro(const Stmt& stmt) {
  Value macro = macro_value(*stmt.macro);
  for (auto& [name, value] : scope_->variables) {
    if (name == stmt.macro->name) {
      value = std::move(macro);
      return Ok{};
    }
  }
  scope_->variables.emplace_back(stmt.macro->name, std::move(macro));
  return Ok{};
}

Status Evaluator::assign(const Expr& target, Value value) {
  if (target.kind == ExprKind::kName) {
    for (auto& [name, variable] : scope_->variables) {
      if (name == target.name) {
        variable = std::move(value);
        return Ok{};
      }
    }
    scope_->variables.emplace_back(target.name, std::move(value));
    return Ok{};
  }
  if (target.kind == ExprKind::kNamespaceRef) {
    const Value name_space = lookup(target.name);
    if (!name_space.is(Kind::kNamespace)) {
      return failure("cannot assign attribute on non-namespace object");
    }
    name_space.name_space().attributes.set(Value::text(target.attribute), std::move(value));
    return Ok{};
  }
  WEIR_ASSIGN_OR_RETURN(const std::vector<Value> items, runtime_.items_of(value));
  if (items.size() > target.items.size()) {
    return failure("too many values to unpack (expected {})", target.items.size());
  }
  if (items.size() < target.items.size()) {
    return failure("not enough values to unpack (expected {}, got {})", target.items.size(), items.size());
  }
  for (size_t i = 0; i < items.size(); ++i) {
    WEIR_RETURN_IF_ERROR(assign(*target.items[i], items[i]));
  }
  return Ok{};
}

Status Evaluator::execute_for(const Stmt& stmt, const Value& iterable, int64_t depth0) {
  if (open_loops_ >= runtime_.limits().loop_depth_max) {
    return make_error(ErrorCode::kTooLarge, "more than {} loops open at once (loop_depth_max)",
                      runtime_.limits().loop_depth_max);
  }
  WEIR_ASSIGN_OR_RETURN(std::vector<Value> items, runtime_.items_of(iterable));
  // Kept to the end of the render: `loop` may have been stored somewhere. The items go when the loop ends.
  loops_.push_back(std::make_unique<LoopState>());
  LoopState& loop = *loops_.back();
  loop.items = std::move(items);
  loop.stmt = &stmt;
  loop.outer = scope_;
  loop.filtered = stmt.condition != nullptr;
  loop.sized = !loop.filtered && !iterable.is(Kind::kIterator);
  loop.depth0 = depth0;
  WEIR_RETURN_IF_ERROR(runtime_.work(static_cast<int64_t>(sizeof(LoopState))));
  ++open_loops_;
  bool any = false;
  Status status = loop_turns(stmt, loop, any);
  --open_loops_;
  loop.length = loop.index0 + 1;
  loop.items = {};
  loop.next = 0;
  loop.ended = true;
  loop.filtered = false;
  loop.closed = true;
  WEIR_RETURN_IF_ERROR(std::move(status));
  if (!any && !stmt.else_body.empty()) {
    ScopeGuard guard(*this, scope_);
    WEIR_RETURN_IF_ERROR(execute(stmt.else_body));
  }
  return Ok{};
}

Status Evaluator::loop_turns(const Stmt& stmt, LoopState& loop, bool& any) {
  while (true) {
    Value item;
    WEIR_ASSIGN_OR_RETURN(const bool found, pull(loop, item));
    if (!found) {
      return Ok{};
    }
    ++loop.index0;
    loop.before = std::move(loop.current);
    loop.current = item;
    ScopeGuard guard(*this, scope_);
    guard.get()->variables.emplace_back("loop", Value(&loop));
    WEIR_RETURN_IF_ERROR(assign(*stmt.target, std::move(item)));
    WEIR_ASSIGN_OR_RETURN(const Flow flow, execute(stmt.body));
    // A turn that is broken off or skipped still lets the else block run, as in jinja2: only one that ends does not.
    any = any || flow == Flow::kNext;
    if (flow == Flow::kBreak) {
      return Ok{};
    }
  }
}

}  // namespace weir::jinja
