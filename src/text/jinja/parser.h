// Builds the tree of a template from its source.
#pragma once

#include <string_view>

#include "base/result.h"
#include "text/jinja/ast.h"
#include "text/template.h"

namespace weir::jinja {

// Errors: kCorrupt for a syntax error, kUnsupported for a part of Jinja that is refused, kTooLarge for a limit; each
// with the line.
Result<Body> parse_template(std::string_view source, const TemplateLimits& limits);

}  // namespace weir::jinja
