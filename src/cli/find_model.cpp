#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "cli/loading.h"
#include "hub/listing.h"
#include "hub/pull.h"

namespace weir {
namespace {

// The snapshot of a pulled model: refs/REVISION names the commit, or the revision is one.
Result<std::filesystem::path> find_pulled(const Options& options) {
  WEIR_RETURN_IF_ERROR(check_repository(options.model));
  WEIR_RETURN_IF_ERROR(check_revision(options.revision));
  WEIR_ASSIGN_OR_RETURN(const HubSettings settings, hub_settings([](const char* name) { return std::getenv(name); }));
  std::string folder = options.model;
  folder.replace(folder.find('/'), 1, "--");
  const std::filesystem::path root = std::filesystem::path(settings.cache) / ("models--" + folder);
  std::string commit = options.revision;
  if (const auto ref = read_file(root / "refs" / options.revision, 4096); ref.ok()) {
    commit = *ref;
    while (!commit.empty() && (commit.back() == '\n' || commit.back() == ' ')) commit.pop_back();
  }
  if (!is_hex(commit, 40)) return make_error(ErrorCode::kNotFound, "{} has not been pulled", options.model);
  const std::filesystem::path snapshot = root / "snapshots" / commit;
  std::error_code error;
  if (!std::filesystem::is_directory(snapshot, error)) {
    return make_error(ErrorCode::kNotFound, "{} has not been pulled", options.model);
  }
  return snapshot;
}

// A relative path means nothing where the working directory is gone.
Error unreachable_folder(const std::filesystem::path& given, const std::error_code& why) {
  std::error_code error;
  static_cast<void>(std::filesystem::current_path(error));
  if (given.is_relative() && error) {
    return Error{ErrorCode::kIo, fmt::format("{}: the working directory is gone: {}", given.string(), error.message()),
                 "change to a folder that exists, or give the model's absolute path"};
  }
  return make_error(ErrorCode::kIo, "{}: {}", given.string(), why.message());
}

}  // namespace

std::string model_name(const std::string& model) {
  std::error_code error;
  std::filesystem::path path = std::filesystem::absolute(model, error);
  path = (error ? std::filesystem::path(model) : path).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  const std::string name = path.filename().string();
  return name.empty() ? "model" : name;
}

Result<std::filesystem::path> find_model(const Options& options) {
  const std::filesystem::path given(options.model);
  std::error_code error;
  if (std::filesystem::is_directory(given, error)) {
    std::filesystem::path folder = std::filesystem::canonical(given, error);
    if (error) return unreachable_folder(given, error);
    return folder;
  }
  if (std::filesystem::is_regular_file(given, error)) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("{} is a file", options.model),
                 "give the folder that holds config.json and the safetensors files"};
  }
  const bool hub_name = std::count(options.model.begin(), options.model.end(), '/') == 1 && options.model[0] != '/' &&
                        options.model[0] != '.';
  if (hub_name) {
    auto pulled = find_pulled(options);
    if (pulled.ok()) return pulled;
  }
  if (given.is_relative()) {
    static_cast<void>(std::filesystem::current_path(error));
    if (error) return unreachable_folder(given, error);
  }
  return Error{ErrorCode::kNotFound, fmt::format("there is no model at {}", options.model),
               hub_name ? fmt::format("give a folder, or fetch it first: weir pull {}", options.model)
                        : "give a folder that holds a checkpoint, or ORG/NAME of a model fetched by weir pull"};
}

}  // namespace weir
