// The commands of the program. Each prints to stdout, and returns an error for main to print.
#pragma once

#include <string>

#include "base/result.h"
#include "cli/flags.h"

namespace weir {

Status command_serve(const Options& options);
Status command_chat(const Options& options);
Status command_run(const Options& options);
Status command_pull(const Options& options);
Status command_inspect(const Options& options);
Status command_plan(const Options& options);
Status command_bench(const Options& options);
Status command_logits(const Options& options);

// "weir 0.1.0".
std::string version_text();

}  // namespace weir
