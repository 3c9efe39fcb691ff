#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "weights/safetensors.h"

namespace weir {
namespace {

Error system_error(const std::string& path, std::string_view action) {
  const int code = errno;
  const ErrorCode kind = code == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo;
  return make_error(kind, "{}: cannot {}: {}", path, action, std::strerror(code));
}

}  // namespace

Result<std::unique_ptr<MappedFile>> MappedFile::open(const std::string& path) {
  // O_NONBLOCK: opening a FIFO would wait for a writer; it is refused below.
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) return system_error(path, "open");
  struct stat status = {};
  if (::fstat(file, &status) != 0) {
    Error error = system_error(path, "stat");
    ::close(file);
    return error;
  }
  if (!S_ISREG(status.st_mode) || status.st_size == 0) {
    ::close(file);
    return make_error(ErrorCode::kCorrupt, "{}: {}", path, S_ISREG(status.st_mode) ? "empty file" : "not a file");
  }
  const auto size = static_cast<size_t>(status.st_size);
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file, 0);
  Error error = address == MAP_FAILED ? system_error(path, "map") : Error{};
  ::close(file);
  if (address == MAP_FAILED) return error;
  return std::unique_ptr<MappedFile>(new MappedFile({static_cast<const std::byte*>(address), size}));
}

MappedFile::~MappedFile() {
  ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void MappedFile::will_need() const {
  ::madvise(const_cast<std::byte*>(bytes_.data()), bytes_.size(), MADV_WILLNEED);
}

void MappedFile::release_pages() const {
  ::madvise(const_cast<std::byte*>(bytes_.data()), bytes_.size(), MADV_DONTNEED);
}

}  // namespace weir
