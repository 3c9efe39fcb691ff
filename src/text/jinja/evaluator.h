// Walks a parsed template with a context and gives the text.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja/ast.h"
#include "text/jinja/runtime.h"

namespace weir::jinja {

// The variables of one block. Lookups go outwards; assignments stay.
struct Scope {
  Scope* parent = nullptr;
  // The template owns the names. Blocks have few variables: a scan is the fastest search.
  std::vector<std::pair<std::string_view, Value>> variables;
  // A macro made here may run after the block has ended.
  bool captured = false;
};

// Where a running for loop stands; what `loop` refers to.
struct LoopState {
  std::vector<Value> items;
  size_t next = 0;
  const Stmt* stmt = nullptr;
  Scope* outer = nullptr;
  bool filtered = false;  // items still have to pass the loop's condition
  bool sized = false;     // the length was known before the walk
  int64_t index0 = -1;
  int64_t depth0 = 0;
  std::optional<int64_t> length;
  std::optional<Value> after;  // looked at, not yet visited
  bool ended = false;
  bool closed = false;  // the for statement is done; a stored `loop` still answers, but cannot run its body
  Value before;
  Value current;
  std::optional<Value> last_changed;
};

class Evaluator {
 public:
  // `context`: the variables of the render. Both must outlive the evaluator.
  Evaluator(Runtime& runtime, const Value& context) : runtime_(runtime), context_(context) {}
  Evaluator(const Evaluator&) = delete;
  Evaluator& operator=(const Evaluator&) = delete;

  Result<std::string> run(const Body& body);
  // The line being worked on when run() failed.
  int32_t line() const { return line_; }

 private:
  enum class Flow { kNext, kBreak, kContinue };

  // One level of evaluation for as long as it lives.
  class DepthGuard {
   public:
    explicit DepthGuard(int32_t& depth) : depth_(depth) { ++depth_; }
    ~DepthGuard() { --depth_; }
    DepthGuard(const DepthGuard&) = delete;
    DepthGuard& operator=(const DepthGuard&) = delete;

   private:
    int32_t& depth_;
  };

  // A scope that lives as long as this, or as long as the evaluator if a macro holds it.
  class ScopeGuard {
   public:
    explicit ScopeGuard(Evaluator& evaluator, Scope* parent);
    ~ScopeGuard();
    ScopeGuard(const ScopeGuard&) = delete;
    ScopeGuard& operator=(const ScopeGuard&) = delete;
    Scope* get() { return scope_.get(); }

   private:
    Evaluator& evaluator_;
    Scope* before_;
    std::unique_ptr<Scope> scope_;
  };

  // Statements (evaluator_statements.cpp).
  Result<Flow> execute(const Body& body);
  Result<Flow> execute(const Stmt& stmt);
  Result<Flow> execute_if(const Stmt& stmt);
  Result<Flow> execute_scoped(const Stmt& stmt);
  Status execute_output(const Stmt& stmt);
  Status execute_for(const Stmt& stmt, const Value& iterable, int64_t depth0);
  Status loop_turns(const Stmt& stmt, LoopState& loop, bool& any);
  Status execute_set_block(const Stmt& stmt);
  Status execute_call_block(const Stmt& stmt);
  Status define_macro(const Stmt& stmt);
  Status assign(const Expr& target, Value value);
  Status write(std::string_view text);
  Status check_depth() const;
  // The text that `body` writes, run in a scope of its own.
  Result<std::string> captured(const Body& body);

  // Loops (evaluator_loops.cpp).
  Result<bool> pull(LoopState& loop, Value& item);
  Result<bool> has_next(LoopState& loop);
  Result<int64_t> loop_length(LoopState& loop);
  Result<Value> loop_attribute(LoopState& loop, const std::string& name);

  // Expressions (evaluator_expressions.cpp).
  Result<Value> evaluate(const Expr& expr);
  Result<Value> evaluate_inner(const Expr& expr);
  Result<std::vector<Value>> evaluate_items(const Expr& expr);
  Result<Value> evaluate_dict(const Expr& expr);
  Result<Value> evaluate_compare(const Expr& expr);
  Result<Value> evaluate_concat(const Expr& expr);
  Result<Value> evaluate_condition(const Expr& expr);
  Result<Value> evaluate_slice(const Expr& expr);
  Result<Value> evaluate_filter(const Expr& expr);
  Result<Value> evaluate_test(const Expr& expr);
  Result<Value> evaluate_attribute(const Expr& expr);
  Result<Value> evaluate_subscript(const Expr& expr);
  Result<Arguments> evaluate_arguments(const ArgumentExprs& exprs);
  Value lookup(std::string_view name) const;

  // Calls (evaluator_calls.cpp).
  Result<Value> call(const Value& callee, const Arguments& arguments);
  Result<Value> call_macro(const Function& function, const Arguments& arguments);
  Status bind_macro(const MacroNode& macro, Arguments arguments, Scope& scope);
  Result<Value> call_loop(LoopState& loop, const Arguments& arguments);
  Result<Value> call_global(const std::string& name, const Arguments& arguments);
  Result<Value> make_namespace(const Arguments& arguments);
  Value macro_value(const MacroNode& macro);
  static const Value* find_global(std::string_view name);

  Runtime& runtime_;
  const Value& context_;
  Scope* scope_ = nullptr;
  std::string* out_ = nullptr;
  std::vector<std::unique_ptr<Scope>> kept_scopes_;
  std::vector<std::unique_ptr<LoopState>> loops_;
  std::vector<std::unique_ptr<Namespace>> namespaces_;
  std::vector<Value> filter_inputs_;
  int32_t depth_ = 0;
  int32_t open_loops_ = 0;
  int32_t line_ = 1;
};

// The global functions: range, dict, namespace, cycler, joiner, raise_exception, strftime_now.
Result<Dict> make_dict(Runtime& runtime, const Arguments& arguments);
Result<Value> make_range(Runtime& runtime, const Arguments& arguments);
Result<Value> local_time_text(Runtime& runtime, const Arguments& arguments);

}  // namespace weir::jinja
