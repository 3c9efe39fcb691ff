// weir inspect: what a checkpoint is, read from its headers, and whether `weir run` would take it.
#include <fmt/format.h>

#include <vector>

#include "cli/commands.h"
#include "cli/loading.h"
#include "models/inspect.h"

namespace weir {
namespace {

// What `weir run` would refuse of the files beside the weights. No chat template at all is no problem: plain prompts
// work without one.
Result<std::vector<Error>> text_problems(const std::filesystem::path& folder) {
  std::vector<Error> problems;
  WEIR_ASSIGN_OR_RETURN(const ModelConfig config, read_model_config(folder.string()));
  const auto tokenizer = Tokenizer::load(folder / "tokenizer.json");
  if (!tokenizer.ok()) {
    problems.push_back(tokenizer.error());
  } else if (Status fits = check_vocabulary((*tokenizer)->size(), config); !fits.ok()) {
    problems.push_back(fits.error());
  }
  const auto defaults = load_generation_defaults(folder, tokenizer.ok() ? tokenizer->get() : nullptr);
  if (!defaults.ok()) problems.push_back(defaults.error());
  const auto templates = load_chat_templates(folder.string());
  if (!templates.ok() && templates.error().code != ErrorCode::kNotFound) {
    // A damaged tokenizer_config.json breaks both.
    if (defaults.ok() || defaults.error().message != templates.error().message) problems.push_back(templates.error());
  }
  return problems;
}

}  // namespace

Status command_inspect(const Options& options) {
  WEIR_ASSIGN_OR_RETURN(const std::filesystem::path folder, find_model(options));
  WEIR_ASSIGN_OR_RETURN(const CheckpointReport report, describe_checkpoint(folder.string()));
  fmt::print("{}", report.text);
  WEIR_ASSIGN_OR_RETURN(const std::vector<Error> problems, text_problems(folder));
  for (const Error& problem : problems) fmt::print("{:<14}{}\n", "cannot run", problem.text());
  if (!report.usable || !problems.empty()) {
    return Error{ErrorCode::kCorrupt, "this checkpoint would not load", "the lines above say what is missing or wrong"};
  }
  return Ok{};
}

}  // namespace weir
