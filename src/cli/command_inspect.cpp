// weir inspect: what a checkpoint is, read from its headers.
#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/loading.h"
#include "models/inspect.h"

namespace weir {

Status command_inspect(const Options& options) {
  WEIR_ASSIGN_OR_RETURN(const std::filesystem::path folder, find_model(options));
  WEIR_ASSIGN_OR_RETURN(const CheckpointReport report, describe_checkpoint(folder.string()));
  fmt::print("{}", report.text);
  if (!report.usable) {
    return Error{ErrorCode::kCorrupt, "this checkpoint would not load", "the lines above say what is missing or wrong"};
  }
  return Ok{};
}

}  // namespace weir
