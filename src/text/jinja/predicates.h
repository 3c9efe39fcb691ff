// What jinja2 calls tests: `value is NAME`. Named predicates here, to keep them apart from unit tests.
#pragma once

#include <string_view>

#include "text/jinja/runtime.h"

namespace weir::jinja {

using TestFunction = Result<bool> (*)(Runtime& runtime, const Value& value, const Arguments& arguments);

// Null for a name that is no test.
TestFunction find_test(std::string_view name);

}  // namespace weir::jinja
