// A fixed number of numbered things. Taking and giving back are O(1).
#pragma once

#include <cstdint>
#include <vector>

#include "base/check.h"

namespace weir {

// The last one given back is taken first, so that what is used stays small and warm.
template <class IdType>
class IdPool {
 public:
  explicit IdPool(int32_t count) : taken_(static_cast<size_t>(count), 0) {
    free_.reserve(static_cast<size_t>(count));
    for (int32_t i = count - 1; i >= 0; --i) free_.push_back(IdType(i));
  }

  int32_t total() const { return static_cast<int32_t>(taken_.size()); }
  int32_t free() const { return static_cast<int32_t>(free_.size()); }
  int32_t used() const { return total() - free(); }

  // Invalid: none is free.
  IdType take() {
    if (free_.empty()) return IdType();
    const IdType id = free_.back();
    free_.pop_back();
    taken_[id.index()] = 1;
    return id;
  }
  void give_back(IdType id) {
    WEIR_CHECK(id.valid() && id.value() < total() && taken_[id.index()] != 0, "id {} given back twice", id.value());
    taken_[id.index()] = 0;
    free_.push_back(id);
  }

 private:
  std::vector<IdType> free_;
  std::vector<uint8_t> taken_;
};

}  // namespace weir
