// Where pages and state slots lie in one piece of memory, as offsets in bytes.
#pragma once

#include <cstdint>
#include <vector>

#include "base/check.h"
#include "plan/ids.h"
#include "plan/layout.h"

namespace weir {

// Classes of pages one behind the other, then the slots; or, where pages and slots share their memory, units of equal
// size, each a slot or the pages of the classes one behind the other.
class CachePlaces {
 public:
  CachePlaces() = default;
  // `pages` per class of `layout`, and `slots` state slots.
  CachePlaces(const CacheLayout& layout, const std::vector<int32_t>& pages, int32_t slots);

  // Bytes of a unit whose memory a slot and `pages_a_slot` pages of every class share.
  static int64_t unit_bytes(const CacheLayout& layout, int64_t pages_a_slot);

  int64_t page(PageClassId page_class, PageId page) const {
    const Class& entry = classes_.at(page_class.index());
    WEIR_CHECK(page.valid() && page.value() < entry.count, "page {} of {}", page.value(), entry.count);
    return entry.first + page.value() / entry.together * slot_stride_ +
           page.value() % entry.together * entry.page_bytes;
  }
  int64_t slot(StateSlotId slot) const {
    WEIR_CHECK(slot.valid() && slot.value() < slots_, "state slot {} of {}", slot.value(), slots_);
    return first_slot_ + slot.value() * slot_stride_;
  }
  // The slot of which `offset` is the place.
  size_t slot_at(int64_t offset) const { return static_cast<size_t>((offset - first_slot_) / slot_stride_); }
  int64_t page_bytes(PageClassId page_class) const { return classes_.at(page_class.index()).page_bytes; }
  int64_t bytes() const { return bytes_; }

 private:
  struct Class {
    int64_t first = 0;
    int64_t page_bytes = 0;
    int64_t together = 1;  // pages that lie one behind the other
    int64_t count = 0;
  };
  std::vector<Class> classes_;
  int64_t slots_ = 0;
  int64_t first_slot_ = 0;
  int64_t slot_stride_ = 0;
  int64_t bytes_ = 0;
};

}  // namespace weir
