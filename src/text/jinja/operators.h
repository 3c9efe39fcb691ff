// Python's operators on values: arithmetic, comparison, membership, subscripts and attributes.
#pragma once

#include "text/jinja/ast.h"
#include "text/jinja/runtime.h"

namespace weir::jinja {

Result<Value> binary(Runtime& runtime, BinaryOp op, const Value& a, const Value& b);
Result<Value> add(Runtime& runtime, const Value& a, const Value& b);
Result<Value> negate(const Value& value);
Result<Value> plus(const Value& value);

// `a op b` for a comparison or membership test.
Result<bool> compare(Runtime& runtime, CompareOp op, const Value& a, const Value& b);
// `item in container`.
Result<bool> contains(Runtime& runtime, const Value& container, const Value& item);

// `object.name` and `object[key]` as the sandbox resolves them: a missing one is an undefined value, not an error.
// Loops are the evaluator's: it asks for their attributes itself.
Result<Value> get_attribute(Runtime& runtime, const Value& object, const std::string& name);
Result<Value> get_item(Runtime& runtime, const Value& object, const Value& key);
// `object[from:to:step]`; each of the three may be None.
Result<Value> get_slice(Runtime& runtime, const Value& object, const Value& from, const Value& to, const Value& step);

// The item that a path like "function.name" or "0.role" leads to, for filters with an attribute.
Result<Value> get_path(Runtime& runtime, const Value& object, const Value& path);

// Whether `name` is a method of the type of `object` (methods.cpp).
bool has_method(const Value& object, std::string_view name);
// Whether Python has such a method but the sandbox refuses it, because it would change the object.
bool is_mutating_method(const Value& object, std::string_view name);
// `object.name(arguments)`.
Result<Value> call_method(Runtime& runtime, const Value& object, std::string_view name, const Arguments& arguments);

// Python's formatting (formatting.cpp): `format % values`, and "{}".format(...).
Result<Value> percent_format(Runtime& runtime, const Value& format, const Value& values);
Result<Value> brace_format(Runtime& runtime, const Value& format, const Arguments& arguments);

// `text` with `from` replaced by `to`, at most `count` times (negative: all).
Result<std::string> replaced(Runtime& runtime, std::string_view text, std::string_view from, std::string_view to,
                             int64_t count);

// How long the object is, for `length` and for truth tests; an error for what has no length.
Result<int64_t> length_of(const Value& value);

}  // namespace weir::jinja
