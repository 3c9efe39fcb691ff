#include <fmt/format.h>

#include "cli/loading.h"

namespace weir {

Result<std::filesystem::path> find_model(const Options& options) {
  const std::filesystem::path given(options.model);
  std::error_code error;
  if (std::filesystem::is_directory(given, error)) return std::filesystem::canonical(given);
  if (std::filesystem::is_regular_file(given, error)) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("{} is a file", options.model),
                 "give the folder that holds config.json and the safetensors files"};
  }
  return Error{ErrorCode::kNotFound, fmt::format("there is no model at {}", options.model),
               fmt::format("give a folder, or fetch one first: weir pull {}", options.model)};
}

}  // namespace weir
