#include "runner/cache_places.h"

#include <algorithm>

namespace weir {
namespace {

// What every page and slot begins at a multiple of: more than any kernel asks for.
constexpr int64_t kAlignment = 256;

int64_t aligned(int64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

int64_t CachePlaces::unit_bytes(const CacheLayout& layout, int64_t pages_a_slot) {
  int64_t bytes = 0;
  for (const PageClass& pages : layout.classes) bytes += aligned(pages_a_slot * pages.bytes_per_page);
  return std::max(bytes, aligned(layout.state_slot_bytes));
}

CachePlaces::CachePlaces(const CacheLayout& layout, const std::vector<int32_t>& pages, int32_t slots) : slots_(slots) {
  WEIR_CHECK(pages.size() == layout.classes.size(), "{} page counts for {} classes", pages.size(),
             layout.classes.size());
  const int64_t together = layout.pages_a_slot;
  int64_t first = 0;
  for (size_t i = 0; i < pages.size(); ++i) {
    const int64_t page_bytes = layout.classes[i].bytes_per_page;
    classes_.push_back({first, page_bytes, together > 0 ? together : std::max(1, pages[i]), pages[i]});
    WEIR_CHECK(together == 0 || pages[i] == together * slots, "{} pages share the memory of {} slots", pages[i], slots);
    first += aligned((together > 0 ? together : pages[i]) * page_bytes);
  }
  first_slot_ = together > 0 ? 0 : first;
  slot_stride_ = together > 0 ? unit_bytes(layout, together) : layout.state_slot_bytes;
  bytes_ = first_slot_ + slot_stride_ * slots;
}

}  // namespace weir
