#include "hub/cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>
#include <vector>

namespace weir {
namespace {

namespace fs = std::filesystem;

Error system_error(std::string_view path, std::string_view action, int code) {
  const ErrorCode kind = code == ENOSPC || code == EDQUOT ? ErrorCode::kExhausted : ErrorCode::kIo;
  return make_error(kind, "{}: cannot {}: {}", path, action, std::strerror(code));
}

Status make_folder(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) return system_error(path.string(), "make the folder", error.value());
  return Ok{};
}

}  // namespace

Result<RepositoryCache> RepositoryCache::open(const std::string& cache, std::string_view repository) {
  std::string name(repository);
  for (size_t at = name.find('/'); at != std::string::npos; at = name.find('/')) name.replace(at, 1, "--");
  RepositoryCache opened(cache + "/models--" + name);
  for (const char* folder : {"/blobs", "/snapshots", "/refs"}) {
    WEIR_RETURN_IF_ERROR(make_folder(opened.root_ + folder));
  }
  return opened;
}

bool RepositoryCache::has(const HubFile& file) const {
  std::error_code error;
  const auto size = fs::file_size(blob(file), error);
  return !error && static_cast<int64_t>(size) == file.size;
}

int64_t RepositoryCache::free_bytes() const {
  std::error_code error;
  const fs::space_info space = fs::space(root_, error);
  return error ? -1 : static_cast<int64_t>(space.available);
}

Status RepositoryCache::link(std::string_view commit, const HubFile& file) const {
  WEIR_RETURN_IF_ERROR(make_folder(snapshot(commit)));
  const std::string path = snapshot(commit) + "/" + file.path;
  const std::string fresh = path + ".new";
  const std::string target = "../../blobs/" + file.digest;
  ::unlink(fresh.c_str());
  if (::symlink(target.c_str(), fresh.c_str()) != 0) return system_error(fresh, "link", errno);
  if (::rename(fresh.c_str(), path.c_str()) != 0) return system_error(path, "rename", errno);
  return Ok{};
}

Status RepositoryCache::write_ref(std::string_view revision, std::string_view commit) const {
  if (revision == commit) return Ok{};
  const fs::path path = fs::path(root_) / "refs" / revision;
  WEIR_RETURN_IF_ERROR(make_folder(path.parent_path()));
  const std::string fresh = path.string() + ".new";
  std::ofstream out(fresh, std::ios::binary | std::ios::trunc);
  out << commit;
  out.close();
  if (!out) return system_error(fresh, "write", errno);
  if (::rename(fresh.c_str(), path.c_str()) != 0) return system_error(path.string(), "rename", errno);
  return Ok{};
}

Result<PartialFile> PartialFile::open(const std::string& path) {
  // No link is followed: whoever may write here must not choose what is overwritten.
  const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
  if (file < 0) return system_error(path, "open", errno);
  struct stat status = {};
  if (::flock(file, LOCK_EX | LOCK_NB) != 0) {
    ::close(file);
    return with_remedy(make_error(ErrorCode::kUnavailable, "{}: another process is fetching this file", path),
                       "wait for it, or stop it");
  }
  if (::fstat(file, &status) != 0) {
    const int code = errno;
    ::close(file);
    return system_error(path, "stat", code);
  }
  return PartialFile(file, path, status.st_size);
}

PartialFile::PartialFile(PartialFile&& other) noexcept
    : file_(std::exchange(other.file_, -1)), path_(std::move(other.path_)), size_(other.size_) {}

PartialFile::~PartialFile() {
  if (file_ >= 0) ::close(file_);
}

Status PartialFile::read_into(Digest* digest) const {
  std::vector<char> chunk(1u << 20);
  for (int64_t at = 0; at < size_;) {
    const ssize_t count = ::pread(file_, chunk.data(), chunk.size(), at);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return system_error(path_, "read", count == 0 ? EIO : errno);
    digest->update({chunk.data(), static_cast<size_t>(count)});
    at += count;
  }
  return Ok{};
}

Status PartialFile::append(std::span<const char> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::pwrite(file_, bytes.data(), bytes.size(), size_);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return system_error(path_, "write", count == 0 ? EIO : errno);
    size_ += count;
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
  return Ok{};
}

Status PartialFile::clear() {
  if (::ftruncate(file_, 0) != 0) return system_error(path_, "truncate", errno);
  size_ = 0;
  return Ok{};
}

Status PartialFile::publish(const std::string& path) {
  if (::fsync(file_) != 0) return system_error(path_, "flush", errno);
  if (::rename(path_.c_str(), path.c_str()) != 0) return system_error(path, "rename", errno);
  return Ok{};
}

void PartialFile::discard() {
  ::unlink(path_.c_str());
}

}  // namespace weir
