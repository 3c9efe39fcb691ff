// What the parser makes of a template: expressions and statements, immutable once parsed.
//
// One struct serves all kinds of expression and one all kinds of statement; which fields a kind uses stands beside it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja/value.h"

namespace weir::jinja {

enum class ExprKind : uint8_t {
  kConstant,     // constant
  kName,         // name
  kAttribute,    // items[0] . name
  kSubscript,    // items[0] [ items[1] ]
  kSlice,        // items[0] [ items[1] : items[2] : items[3] ], each of the three may be null
  kCall,         // items[0] ( arguments )
  kFilter,       // items[0] | name ( arguments )
  kFilterInput,  // the text that a filter block or block assignment feeds to its filters
  kTest,         // items[0] is name ( arguments )
  kList,         // items
  kTuple,        // items
  kDict,         // items: key, value, key, value, ...
  kNot,          // items[0]
  kNegate,       // items[0]
  kPlus,         // items[0]
  kBinary,       // items[0] op items[1]
  kConcat,       // items, joined by ~
  kAnd,          // items[0] and items[1]
  kOr,           // items[0] or items[1]
  kCompare,      // items[0] compares[0] items[1] compares[1] items[2] ...
  kCondition,    // items[1] if items[0] else items[2]; items[2] may be null
  kNamespaceRef  // name.attribute as the target of an assignment: name, attribute
};

enum class BinaryOp : uint8_t { kAdd, kSubtract, kMultiply, kDivide, kFloorDivide, kModulo, kPower };
enum class CompareOp : uint8_t { kEqual, kNotEqual, kLess, kLessEqual, kGreater, kGreaterEqual, kIn, kNotIn };

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct ArgumentExprs {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr star;       // *expression, or null
  ExprPtr star_star;  // **expression, or null
};

struct Expr {
  ExprKind kind = ExprKind::kConstant;
  BinaryOp op = BinaryOp::kAdd;
  int32_t line = 0;
  int32_t depth = 1;  // bounded by the parser, so that walks of the tree are bounded too
  std::string name;
  std::string attribute;
  Value constant;
  std::vector<ExprPtr> items;
  std::vector<CompareOp> compares;
  ArgumentExprs arguments;
};

enum class StmtKind : uint8_t {
  kText,       // text
  kOutput,     // values: printed one after another
  kSet,        // target = value
  kSetBlock,   // target = body, through value if it is not null
  kIf,         // branches; the last may have a null condition
  kFor,        // for target in value if condition: body, else: else_body
  kMacro,      // macro
  kCallBlock,  // call macro with value, a call
  kFilter,     // body through value
  kWith,       // targets[i] = values[i], body
  kScope,      // body in a scope of its own (generation blocks)
  kBreak,
  kContinue
};

struct Stmt;
using Body = std::vector<std::unique_ptr<Stmt>>;

struct MacroNode {
  std::string name;  // empty for the body of a call block
  std::vector<std::string> parameters;
  std::vector<ExprPtr> defaults;  // of the last parameters
  Body body;
  bool uses_caller = false;
  bool uses_varargs = false;
  bool uses_kwargs = false;
};

struct Branch {
  ExprPtr condition;
  Body body;
};

struct Stmt {
  StmtKind kind = StmtKind::kText;
  bool recursive = false;
  int32_t line = 0;
  std::string text;
  ExprPtr target;
  ExprPtr value;
  ExprPtr condition;
  std::vector<ExprPtr> targets;
  std::vector<ExprPtr> values;
  std::vector<Branch> branches;
  Body body;
  Body else_body;
  std::unique_ptr<MacroNode> macro;
};

}  // namespace weir::jinja
