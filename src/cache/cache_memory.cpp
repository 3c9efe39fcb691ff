#include "cache/cache_memory.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/planted.h"

namespace weir {

PagePool::PagePool(int32_t units, int32_t pages_a_unit)
    : pages_a_unit_(pages_a_unit),
      units_(static_cast<size_t>(units)),
      next_free_(static_cast<size_t>(units) * static_cast<size_t>(pages_a_unit)),
      references_(next_free_.size(), 0),
      lists_(static_cast<size_t>(pages_a_unit) + 1, -1),
      occupied_(lists_.size() / 64 + 1, 0) {
  for (int32_t page = total() - 1; page >= 0; --page) {
    Unit& unit = at(page / pages_a_unit);
    next_free_[static_cast<size_t>(page)] = unit.first_free;
    unit.first_free = page;
    ++unit.free;
  }
}

void PagePool::link(int32_t index) {
  Unit& unit = at(index);
  if (!unit.open || unit.free == 0) return;
  const auto list = static_cast<size_t>(unit.free);
  unit.before = -1;
  unit.behind = lists_[list];
  if (unit.behind >= 0) at(unit.behind).before = index;
  lists_[list] = index;
  occupied_[list / 64] |= uint64_t{1} << list % 64;
}

void PagePool::unlink(int32_t index) {
  const Unit& unit = at(index);
  if (!unit.open || unit.free == 0) return;
  const auto list = static_cast<size_t>(unit.free);
  if (unit.behind >= 0) at(unit.behind).before = unit.before;
  if (unit.before >= 0) {
    at(unit.before).behind = unit.behind;
  } else {
    lists_[list] = unit.behind;
  }
  if (lists_[list] < 0) occupied_[list / 64] &= ~(uint64_t{1} << list % 64);
}

int32_t PagePool::emptiest() const {
  const auto word = std::find_if(occupied_.rbegin(), occupied_.rend(), [](uint64_t bits) { return bits != 0; });
  if (word == occupied_.rend()) return -1;
  const auto list =
      static_cast<size_t>(occupied_.rend() - word) * 64 - 1 - static_cast<size_t>(std::countl_zero(*word));
  return lists_[list];
}

PageId PagePool::take() {
  if (planted(PlantedBug::kPageFreedTwice) && twice_.valid() && references(twice_) > 0) {
    ++references_[twice_.index()];
    return std::exchange(twice_, PageId());
  }
  if (current_ < 0 || !at(current_).open || at(current_).free == 0) current_ = emptiest();
  if (current_ < 0) return {};
  const int32_t index = current_;
  unlink(index);
  Unit& unit = at(index);
  const PageId page(unit.first_free);
  unit.first_free = next_free_[page.index()];
  --unit.free;
  --free_;
  link(index);
  references_[page.index()] = 1;
  return page;
}

void PagePool::share(PageId page) {
  WEIR_CHECK(page.valid() && page.value() < total() && references(page) > 0, "share of free page {}", page.value());
  ++references_[page.index()];
}

void PagePool::give_back(PageId page) {
  WEIR_CHECK(page.valid() && page.value() < total() && references(page) > 0, "page {} given back twice", page.value());
  if (--references_[page.index()] > 0) return;
  if (planted(PlantedBug::kPageFreedTwice)) twice_ = page;
  const int32_t index = unit(page);
  unlink(index);
  Unit& unit = at(index);
  next_free_[page.index()] = unit.first_free;
  unit.first_free = page.value();
  ++unit.free;
  if (unit.open) ++free_;
  link(index);
}

void PagePool::open(int32_t unit) {
  at(unit).open = true;
  link(unit);
  free_ += at(unit).free;
}

void PagePool::close(int32_t unit) {
  unlink(unit);
  free_ -= at(unit).free;
  at(unit).open = false;
}

CacheMemory::CacheMemory(const CacheLayout& layout, const RunnerLimits& limits)
    : pages_a_slot_(layout.pages_a_slot),
      open_max_(pages_a_slot_ > 0 ? limits.state_slots - slots_withheld(limits) : 0),
      taken_(static_cast<size_t>(layout.state_slot_bytes > 0 ? limits.state_slots : 0), 0) {
  if (shared()) links_.resize(taken_.size());
  for (const int32_t pages : limits.pages) {
    pages_.emplace_back(shared() ? limits.state_slots : 1, shared() ? pages_a_slot_ : pages);
    if (!shared()) pages_.back().open(0);
  }
  free_slots_.reserve(taken_.size());
  for (int32_t i = slots_total() - 1; i >= 0; --i) free_slots_.push_back(i);
}

int32_t CacheMemory::pages_max(size_t page_class) const {
  return shared() ? open_max_ * pages_a_slot_ : pages_[page_class].total();
}

void CacheMemory::append_cold(int32_t unit) {
  cold_.append(unit, [&](int32_t i) -> OrderLink& { return links_[static_cast<size_t>(i)]; });
}

void CacheMemory::take_out_cold(int32_t unit) {
  cold_.take_out(unit, [&](int32_t i) -> OrderLink& { return links_[static_cast<size_t>(i)]; });
}

void CacheMemory::touch(int32_t unit) {
  if (!shared() || cold_.last == unit) return;
  take_out_cold(unit);
  append_cold(unit);
}

PageId CacheMemory::take_page(size_t page_class) {
  const PageId page = pages_[page_class].take();
  if (page.valid()) touch(pages_[page_class].unit(page));
  return page;
}

bool CacheMemory::empty(int32_t unit) const {
  return std::all_of(pages_.begin(), pages_.end(), [&](const PagePool& pages) { return pages.empty(unit); });
}

void CacheMemory::give_back_page(size_t page_class, PageId page) {
  PagePool& pool = pages_[page_class];
  pool.give_back(page);
  const int32_t unit = pool.unit(page);
  if (!shared() || unit != draining_ || !empty(unit)) return;
  draining_ = -1;
  become_slot(unit);
}

void CacheMemory::become_slot(int32_t unit) {
  --open_;
  take_out_cold(unit);
  free_slots_.push_back(unit);
}

bool CacheMemory::close_unit() {
  const int32_t unit = shared() ? pages_.front().emptiest() : -1;
  if (unit < 0 || !empty(unit)) return false;
  for (PagePool& pages : pages_) pages.close(unit);
  become_slot(unit);
  return true;
}

void CacheMemory::drain(int32_t unit) {
  stop_draining();
  draining_ = unit;
  for (PagePool& pages : pages_) pages.close(draining_);
}

bool CacheMemory::stop_draining() {
  if (draining_ < 0) return false;
  for (PagePool& pages : pages_) pages.open(draining_);
  draining_ = -1;
  return true;
}

int32_t CacheMemory::pages_draining() const {
  if (draining_ < 0) return 0;
  int32_t free = pages_a_slot_;
  for (const PagePool& pages : pages_) free = std::min(free, pages.free_in(draining_));
  return free;
}

StateSlotId CacheMemory::take_slot() {
  if (free_slots_.empty()) return {};
  const StateSlotId slot(free_slots_.back());
  free_slots_.pop_back();
  taken_[slot.index()] = 1;
  ++slots_used_;
  return slot;
}

void CacheMemory::give_back_slot(StateSlotId slot) {
  WEIR_CHECK(slot.valid() && slot.value() < slots_total() && taken_[slot.index()] != 0, "slot {} given back twice",
             slot.value());
  taken_[slot.index()] = 0;
  --slots_used_;
  free_slots_.push_back(slot.value());
}

bool CacheMemory::open_unit() {
  if (free_slots_.empty() || units_to_open() <= 0) return false;
  const int32_t unit = free_slots_.back();
  free_slots_.pop_back();
  ++open_;
  append_cold(unit);
  for (PagePool& pages : pages_) pages.open(unit);
  return true;
}

}  // namespace weir
