#include "cache/sequence_cache.h"

#include <algorithm>

#include "base/planted.h"

namespace weir {

SequenceCache::SequenceCache(const CacheLayout& layout, const RunnerLimits& limits)
    : has_slots_(layout.state_slot_bytes > 0),
      slots_(has_slots_ ? limits.state_slots : 0),
      row_slots_(static_cast<size_t>(limits.rows_max)) {
  WEIR_CHECK(layout.classes.size() == limits.pages.size(), "{} page classes, {} page counts", layout.classes.size(),
             limits.pages.size());
  classes_.reserve(layout.classes.size());
  for (size_t i = 0; i < layout.classes.size(); ++i) {
    Class& pages = classes_.emplace_back(Class{layout.classes[i].tokens_per_page, IdPool<PageId>(limits.pages[i]), {}});
    const int64_t longest = std::min<int64_t>(pages_for(pages, limits.sequence_tokens_max), pages.pool.total());
    pages.tables.resize(static_cast<size_t>(limits.rows_max));
    for (auto& table : pages.tables) table.reserve(static_cast<size_t>(longest));
  }
}

int64_t SequenceCache::tokens_alone_max() const {
  int64_t tokens = INT64_MAX;
  for (const Class& pages : classes_) {
    tokens = std::min(tokens, static_cast<int64_t>(pages.pool.total()) * pages.tokens_per_page);
  }
  return tokens;
}

bool SequenceCache::fits(int64_t token_count, int32_t headroom) const {
  return std::all_of(classes_.begin(), classes_.end(),
                     [&](const Class& pages) { return pages_for(pages, token_count) + headroom <= pages.pool.free(); });
}

StateSlotId SequenceCache::join(RowId row) {
  if (!has_slots_) return {};
  WEIR_CHECK(!row_slots_[row.index()].valid(), "row {} already holds slot {}", row.value(),
             row_slots_[row.index()].value());
  const StateSlotId slot = slots_.take();
  WEIR_CHECK(slot.valid(), "no state slot is free");
  row_slots_[row.index()] = slot;
  if (planted(PlantedBug::kStaleSlot)) return StateSlotId(0);
  return slot;
}

bool SequenceCache::grow(RowId row, int64_t token_count, StepPlan* plan) {
  const auto lack = [&](const Class& pages) {
    return std::max<int64_t>(0, pages_for(pages, token_count) - static_cast<int64_t>(pages.tables[row.index()].size()));
  };
  for (const Class& pages : classes_) {
    if (lack(pages) > pages.pool.free()) return false;
  }
  for (size_t i = 0; i < classes_.size(); ++i) {
    const int64_t count = lack(classes_[i]);
    if (count == 0) continue;
    Edit edit;
    edit.kind = EditKind::kAppendPages;
    edit.row = row;
    edit.page_class = PageClassId::from(i);
    edit.first = static_cast<int32_t>(plan->pages.size());
    edit.count = static_cast<int32_t>(count);
    for (int64_t k = 0; k < count; ++k) {
      const PageId page = classes_[i].pool.take();
      classes_[i].tables[row.index()].push_back(page);
      plan->pages.push_back(page);
    }
    plan->edits.push_back(edit);
  }
  return true;
}

void SequenceCache::leave(RowId row) {
  for (Class& pages : classes_) {
    if (planted(PlantedBug::kLeakedPages) && !pages.tables[row.index()].empty()) pages.tables[row.index()].pop_back();
    for (const PageId page : pages.tables[row.index()]) pages.pool.give_back(page);
    pages.tables[row.index()].clear();
  }
  if (!has_slots_) return;
  slots_.give_back(row_slots_[row.index()]);
  row_slots_[row.index()] = StateSlotId();
}

int64_t SequenceCache::pages_total() const {
  int64_t total = 0;
  for (const Class& pages : classes_) total += pages.pool.total();
  return total;
}

int64_t SequenceCache::pages_used() const {
  int64_t used = 0;
  for (const Class& pages : classes_) used += pages.pool.used();
  return used;
}

}  // namespace weir
