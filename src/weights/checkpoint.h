// A checkpoint folder as one table of tensors: model.safetensors, or model.safetensors.index.json and its shards.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "tensor/dtype.h"
#include "tensor/shape.h"
#include "weights/safetensors.h"

namespace weir {

// A stored tensor; `bytes` points into the mapping and need not be aligned to the element.
struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  std::span<const std::byte> bytes;
};

// The tensors of all files. Immutable once open; addresses stay valid for its life.
class Checkpoint {
 public:
  // Maps every file and checks every header; reads no tensor. The index, if there is one, must name exactly the tensors
  // that the shards hold, each in its shard; shard names are plain file names.
  static Result<std::unique_ptr<Checkpoint>> open(const std::string& directory);
  // The same from one file whatever its name.
  static Result<std::unique_ptr<Checkpoint>> open_file(const std::string& path);

  // nullptr when there is no such tensor.
  const TensorInfo* find(std::string_view name) const;
  // In file order, then by offset.
  std::span<const TensorInfo> tensors() const { return tensors_; }
  // Sum of the tensors' bytes, headers excluded.
  int64_t total_bytes() const { return total_bytes_; }
  // metadata.total_size of the index: what the checkpoint's maker believed; -1 when not said.
  int64_t declared_bytes() const { return declared_bytes_; }
  int64_t shard_count() const { return static_cast<int64_t>(files_.size()); }

  // Drops every mapped page from this process, once the weights have been repacked.
  void release_pages() const;

 private:
  Checkpoint() = default;
  Status add_file(const std::string& path);
  Status index_names();
  std::vector<std::unique_ptr<MappedFile>> files_;
  std::vector<TensorInfo> tensors_;
  std::unordered_map<std::string_view, size_t> by_name_;
  int64_t total_bytes_ = 0;
  int64_t declared_bytes_ = -1;
};

}  // namespace weir
