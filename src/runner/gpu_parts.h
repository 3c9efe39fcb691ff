// How a range of device memory, or of page-locked memory laid out like it, is handed out.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/cpu/aligned.h"

namespace weir {

inline constexpr int64_t kGpuPartAlign = 256;

// Hands out aligned parts of a range; the first pass, without a range, only counts.
class GpuParts {
 public:
  explicit GpuParts(std::byte* base) : base_(base) {}
  template <class T>
  T* take(int64_t count) {
    T* part = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ = round_up(used_ + count * static_cast<int64_t>(sizeof(T)), kGpuPartAlign);
    return part;
  }
  int64_t used() const { return used_; }

 private:
  std::byte* base_;
  int64_t used_ = 0;
};

}  // namespace weir
