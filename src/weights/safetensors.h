// The safetensors file format: 8 bytes of little-endian header length, a JSON header, and the tensors' bytes.
// The header comes from a stranger: everything it says is checked before any of it is used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "tensor/dtype.h"
#include "tensor/shape.h"

namespace weir {

// The format's own bound on the header; a real one of 65,000 tensors has 8 MB.
inline constexpr int64_t kSafetensorsHeaderBytesMax = 100'000'000;
// Four times the tensors of the largest checkpoint known (189,042), all of them in one file.
inline constexpr int64_t kSafetensorsTensorsMax = 1'000'000;
// Real names have up to about 80 characters.
inline constexpr int64_t kSafetensorsNameBytesMax = 1024;

// One tensor of a header. `begin` and `end` are offsets into the data section, which starts at `data_begin`.
struct TensorHeader {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  int64_t begin = 0;
  int64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<TensorHeader> tensors;  // ascending by `begin`
  int64_t data_begin = 0;             // bytes from the start of the file
};

// Parses and checks the header of a file whose first bytes are `file` (at least the whole header) and whose size is
// `file_bytes`. An error (kCorrupt, or kUnsupported for an unknown dtype; the tensor is named) is: a header that is cut
// off, over a limit, not strict UTF-8 JSON, or has duplicate names or keys; a dtype and shape that overflow or disagree
// with the byte range; ranges that overlap, leave holes, or do not end exactly with the file.
Result<SafetensorsHeader> parse_safetensors_header(std::span<const std::byte> file, int64_t file_bytes);

// A whole file, mapped read-only. A file that another process cuts while it is mapped stops this process with SIGBUS.
class MappedFile {
 public:
  static Result<std::unique_ptr<MappedFile>> open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }
  // Asks the system to read the range ahead of its use.
  void will_need() const;
  // Drops the pages from this process: they are read again from the file (or its cache) if touched.
  void release_pages() const;

 private:
  explicit MappedFile(std::span<const std::byte> bytes) : bytes_(bytes) {}
  std::span<const std::byte> bytes_;
};

}  // namespace weir
