#include "text/model_file.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string_view>

namespace weir {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kLfsPointer = "version https://git-lfs";

Error not_a_file(const fs::path& path, std::string_view what) {
  return with_remedy(make_error(ErrorCode::kCorrupt, "{} is {}", path.string(), what),
                     "put the model's own file there, or remove it; weir pull fetches a model whole");
}

}  // namespace

Result<std::optional<std::string>> read_model_file(const fs::path& path, int64_t bytes_max) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) {
    std::error_code ignored;
    if (fs::is_symlink(fs::symlink_status(path, ignored)))
      return not_a_file(path, "a link to a file that is not there");
    return std::optional<std::string>();
  }
  if (error) return make_error(ErrorCode::kIo, "{}: {}", path.string(), error.message());
  if (fs::is_directory(status)) return not_a_file(path, "a folder, not a file");
  // Reading a FIFO or a device would wait, or never end.
  if (!fs::is_regular_file(status)) return not_a_file(path, "no regular file");
  const uintmax_t size = fs::file_size(path, error);
  if (error) return make_error(ErrorCode::kIo, "{}: {}", path.string(), error.message());
  if (size > static_cast<uintmax_t>(bytes_max)) {
    return make_error(ErrorCode::kTooLarge, "{} has {} bytes, more than {}", path.string(), size, bytes_max);
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) return make_error(ErrorCode::kIo, "{} cannot be opened: {}", path.string(), std::strerror(errno));
  std::string text(static_cast<size_t>(size), '\0');
  file.read(text.data(), static_cast<std::streamsize>(size));
  if (file.bad()) return make_error(ErrorCode::kIo, "{} cannot be read", path.string());
  text.resize(static_cast<size_t>(file.gcount()));
  if (std::string_view(text).starts_with(kLfsPointer)) {
    return with_remedy(make_error(ErrorCode::kCorrupt, "{} is a Git LFS pointer, not the file itself", path.string()),
                       "fetch the file: git lfs pull in that folder, or weir pull ORG/NAME");
  }
  return std::optional<std::string>(std::move(text));
}

}  // namespace weir
