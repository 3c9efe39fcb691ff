// The numbered things that caches are made of: pages of every class, counted by reference, and state slots. Taking and
// giving back are O(1).
//
// Memory that pages and slots share (CacheLayout::pages_a_slot) is one row of units. A unit is free, a slot, or open:
// pages are taken from open units alone. Without sharing, the pages are one unit that is always open.
#pragma once

#include <cstdint>
#include <vector>

#include "base/check.h"
#include "cache/index_order.h"
#include "plan/ids.h"
#include "plan/layout.h"

namespace weir {

// Pages of one class.
class PagePool {
 public:
  // All units are closed.
  PagePool(int32_t units, int32_t pages_a_unit);

  int32_t total() const { return static_cast<int32_t>(references_.size()); }
  // In open units.
  int32_t free() const { return free_; }
  int32_t references(PageId page) const { return references_[page.index()]; }

  // One with a single reference, from the unit of the one before while that has free pages, then from the emptiest:
  // what is taken together lies together and goes together. Invalid: none is free.
  PageId take();
  // One more holder of a page that is taken.
  void share(PageId page);
  // One holder less; the last one frees it.
  void give_back(PageId page);

  int32_t unit(PageId page) const { return page.value() / pages_a_unit_; }
  bool empty(int32_t unit) const { return at(unit).free == pages_a_unit_; }
  // The open unit with the most free pages; -1: none has one.
  int32_t emptiest() const;
  int32_t free_in(int32_t unit) const { return at(unit).free; }
  // From a closed unit no page is taken.
  void open(int32_t unit);
  void close(int32_t unit);

 private:
  // Those that are open and have free pages are in the list of their number of free pages.
  struct Unit {
    int32_t free = 0;
    bool open = false;
    int32_t first_free = -1;
    int32_t before = -1;
    int32_t behind = -1;
  };
  Unit& at(int32_t unit) { return units_[static_cast<size_t>(unit)]; }
  const Unit& at(int32_t unit) const { return units_[static_cast<size_t>(unit)]; }
  void link(int32_t unit);
  void unlink(int32_t unit);

  int32_t pages_a_unit_;
  int32_t current_ = -1;  // the unit of the page taken last
  PageId twice_;          // for PlantedBug::kPageFreedTwice
  int32_t free_ = 0;
  std::vector<Unit> units_;
  std::vector<int32_t> next_free_;   // per page, in its unit
  std::vector<int32_t> references_;  // per page
  std::vector<int32_t> lists_;       // first unit by number of free pages
  std::vector<uint64_t> occupied_;   // a bit for each list that is not empty
};

class CacheMemory {
 public:
  CacheMemory(const CacheLayout& layout, const RunnerLimits& limits);

  size_t classes() const { return pages_.size(); }
  // Whether pages and slots share their memory, and how many pages of every class a unit has.
  bool shared() const { return pages_a_slot_ > 0; }
  int32_t pages_a_slot() const { return pages_a_slot_; }

  // The most pages of a class that there can be.
  int32_t pages_max(size_t page_class) const;
  int32_t pages_free(size_t page_class) const { return pages_[page_class].free(); }
  PagePool& pages(size_t page_class) { return pages_[page_class]; }
  const PagePool& pages(size_t page_class) const { return pages_[page_class]; }
  PageId take_page(size_t page_class);
  void give_back_page(size_t page_class, PageId page);

  int32_t slots_total() const { return static_cast<int32_t>(taken_.size()); }
  int32_t slots_free() const { return static_cast<int32_t>(free_slots_.size()); }
  int32_t slots_used() const { return slots_used_; }
  // Invalid: none is free.
  StateSlotId take_slot();
  void give_back_slot(StateSlotId slot);

  // Units that may be opened for pages beside those that are, if they were free. See slots_withheld().
  int32_t units_to_open() const { return open_max_ - open_; }
  // Makes a free slot pages. False: it cannot.
  bool open_unit();
  // Makes an open unit without pages a free slot. False: there is none.
  bool close_unit();
  // The open unit none of whose pages was taken or touched for longest; -1: none is.
  int32_t coldest_unit() const { return cold_.first; }
  void touch_page(PageId page) { touch(pages_.front().unit(page)); }
  void touch(int32_t unit);
  // From now on no page is taken from the unit, so that it becomes a slot when its pages were given back; the one that
  // was to become one before stays pages.
  void drain(int32_t unit);
  // The unit that is to become a slot stays pages. False: there is none.
  bool stop_draining();
  // The unit that is to become a slot; -1: none.
  int32_t draining_unit() const { return draining_; }
  // Free pages of every class in the unit that is to become a slot, at least.
  int32_t pages_draining() const;

 private:
  bool empty(int32_t unit) const;
  void become_slot(int32_t unit);
  void append_cold(int32_t unit);
  void take_out_cold(int32_t unit);

  int32_t pages_a_slot_;
  int32_t open_max_;
  int32_t open_ = 0;       // units
  int32_t draining_ = -1;  // one of them
  int32_t slots_used_ = 0;
  std::vector<PagePool> pages_;      // per class
  std::vector<int32_t> free_slots_;  // the last one given back is taken first, so that what is used stays warm
  std::vector<uint8_t> taken_;       // per slot
  IndexOrder cold_;                  // of open units
  std::vector<OrderLink> links_;     // per unit
};

}  // namespace weir
