// Owned memory aligned to a cache line, which is also the width of the widest vector.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace weir {

inline constexpr int64_t kCacheLine = 64;

constexpr int64_t round_up(int64_t value, int64_t step) {
  return (value + step - 1) / step * step;
}

class AlignedBytes {
 public:
  AlignedBytes() = default;
  // Zeroed. The size is kept as asked; the allocation is rounded up to a cache line.
  explicit AlignedBytes(int64_t size);

  std::byte* data() { return data_.get(); }
  const std::byte* data() const { return data_.get(); }
  int64_t size() const { return size_; }

 private:
  struct Free {
    void operator()(std::byte* data) const;
  };
  std::unique_ptr<std::byte, Free> data_;
  int64_t size_ = 0;
};

}  // namespace weir
