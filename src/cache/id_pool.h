// A fixed number of numbered things, counted by reference: pages, state slots, rows. Taking and giving back are O(1).
#pragma once

#include <cstdint>
#include <type_traits>
#include <vector>

#include "base/check.h"
#include "base/planted.h"
#include "plan/ids.h"

namespace weir {

// The last one given back is taken first, so that what is used stays small and warm.
template <class IdType>
class IdPool {
 public:
  explicit IdPool(int32_t count) : references_(static_cast<size_t>(count), 0) {
    free_.reserve(static_cast<size_t>(count));
    for (int32_t i = count - 1; i >= 0; --i) free_.push_back(IdType(i));
  }

  int32_t total() const { return static_cast<int32_t>(references_.size()); }
  int32_t free() const { return static_cast<int32_t>(free_.size()); }
  int32_t used() const { return total() - free(); }
  int32_t references(IdType id) const { return references_[id.index()]; }

  // One with a single reference; invalid if none is free.
  IdType take() {
    if (free_.empty()) return IdType();
    const IdType id = free_.back();
    free_.pop_back();
    references_[id.index()] = 1;
    return id;
  }
  // One more holder of something taken (a page shared by sequences with the same prefix).
  void share(IdType id) {
    WEIR_CHECK(id.valid() && id.value() < total() && references(id) > 0, "share of free id {}", id.value());
    ++references_[id.index()];
  }
  // One holder less; the last one frees it.
  void give_back(IdType id) {
    const bool twice = std::is_same_v<IdType, PageId> && planted(PlantedBug::kPageFreedTwice);
    if (twice) free_.push_back(id);
    if (twice && references(id) == 0) return;
    WEIR_CHECK(id.valid() && id.value() < total() && references(id) > 0, "id {} given back twice", id.value());
    if (--references_[id.index()] == 0) free_.push_back(id);
  }

 private:
  std::vector<IdType> free_;
  std::vector<int32_t> references_;
};

}  // namespace weir
