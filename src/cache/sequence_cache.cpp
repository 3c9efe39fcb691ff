#include "cache/sequence_cache.h"

#include <algorithm>
#include <bit>

#include "base/planted.h"

namespace weir {

namespace {

bool of_one_width(const CacheLayout& layout) {
  const auto narrow = [&](const PageClass& pages) {
    return pages.tokens_per_page == layout.classes.front().tokens_per_page && pages.tokens_per_page <= kGridTokens;
  };
  return !layout.classes.empty() && std::all_of(layout.classes.begin(), layout.classes.end(), narrow);
}

}  // namespace

SequenceCache::SequenceCache(const CacheLayout& layout, const RunnerLimits& limits, const ReuseConfig& reuse)
    : has_slots_(layout.state_slot_bytes > 0),
      reuses_(reuse.enabled && of_one_width(layout)),
      block_tokens_(reuses_ ? layout.classes.front().tokens_per_page : kGridTokens),
      memory_(layout, limits),
      tree_(reuses_ ? *std::min_element(limits.pages.begin(), limits.pages.end()) : 0, block_tokens_,
            static_cast<int32_t>(layout.classes.size()), reuse.seed),
      rows_(static_cast<size_t>(limits.rows_max)) {
  WEIR_CHECK(layout.classes.size() == limits.pages.size(), "{} page classes, {} page counts", layout.classes.size(),
             limits.pages.size());
  WEIR_CHECK(layout.classes.size() <= kPageClassesMax, "{} page classes", layout.classes.size());
  classes_.reserve(layout.classes.size());
  for (size_t i = 0; i < layout.classes.size(); ++i) {
    Class& pages = classes_.emplace_back(Class{layout.classes[i].tokens_per_page, {}, {}});
    const int64_t longest = std::min<int64_t>(pages_for(pages, limits.sequence_tokens_max), memory_.pages_max(i));
    pages.tables.resize(static_cast<size_t>(limits.rows_max));
    for (auto& table : pages.tables) table.reserve(static_cast<size_t>(longest));
    pages.in_tables.resize(static_cast<size_t>(limits.pages[i]));
  }
  scratch_.resize(classes_.size());
  if (!reuses_) return;
  blocks_.resize(static_cast<size_t>(limits.pages.front()));
  evicted_.resize(std::bit_ceil(4 * static_cast<size_t>(limits.pages.front())));
  for (Row& row : rows_) {
    row.path.reserve(classes_.front().tables.front().capacity());
    row.published.reserve(row.path.capacity());
    row.saves.reserve(static_cast<size_t>(limits.steps_in_flight) + 1);
  }
}

int64_t SequenceCache::tokens_alone_max() const {
  int64_t tokens = INT64_MAX;
  for (size_t i = 0; i < classes_.size(); ++i) {
    tokens = std::min(tokens, int64_t{memory_.pages_max(i)} * classes_[i].tokens_per_page);
  }
  return tokens;
}

bool SequenceCache::fits(int64_t token_count, int32_t headroom, const PrefixMatch& match) const {
  // A slot of its own, and the one that it goes on from.
  const int64_t beside = pages_beside(match.reused > 0 ? 2 : 1) + tree_.evictable() - match.idle_blocks;
  for (size_t i = 0; i < classes_.size(); ++i) {
    if (pages_for(classes_[i], token_count) - match.blocks + headroom > memory_.pages_free(i) + beside) return false;
  }
  return true;
}

StateSlotId SequenceCache::join(RowId row, const CacheSalt& salt, const PrefixMatch& match) {
  Row& joining = rows_[row.index()];
  joining.salt = salt;
  learn(match);
  if (!has_slots_) return {};
  WEIR_CHECK(!joining.slot.valid(), "row {} already holds slot {}", row.value(), joining.slot.value());
  if (match.reused > 0) tree_.touch_checkpoint(match.last);
  joining.slot = take_slot();
  WEIR_CHECK(joining.slot.valid(), "no state slot is free");
  if (planted(PlantedBug::kStaleSlot)) return StateSlotId(0);
  return joining.slot;
}

void SequenceCache::begin_append(RowId row, size_t page_class, StepPlan* plan) {
  Edit edit;
  edit.kind = EditKind::kAppendPages;
  edit.row = row;
  edit.page_class = PageClassId::from(page_class);
  edit.first = static_cast<int32_t>(plan->pages.size());
  plan->edits.push_back(edit);
}

// Into the row's table, and into the edit that begin_append() began.
void SequenceCache::append(RowId row, size_t page_class, PageId page, StepPlan* plan) {
  Class& pages = classes_[page_class];
  pages.tables[row.index()].push_back(page);
  if (pages.in_tables[page.index()]++ == 0) ++pages_in_tables_;
  plan->pages.push_back(page);
  ++plan->edits.back().count;
}

bool SequenceCache::grow(RowId row, int64_t token_count, StepPlan* plan) {
  const auto lack = [&](size_t i) {
    const Class& pages = classes_[i];
    return std::max<int64_t>(0, pages_for(pages, token_count) - static_cast<int64_t>(pages.tables[row.index()].size()));
  };
  const auto lacks_beside = [&](int64_t more) {
    for (size_t i = 0; i < classes_.size(); ++i) {
      if (lack(i) > memory_.pages_free(i) + more) return true;
    }
    return false;
  };
  // Nothing is evicted for one who cannot be helped.
  while (lacks_beside(tree_.evictable() + pages_beside(restoring_.valid() ? 1 : 0))) {
    if (!merge_twins()) return false;
  }
  while (lacks_beside(0)) {
    if (!free_memory()) return false;
  }
  const int64_t taken = classes_.empty() ? 0 : lack(0);
  for (size_t i = 0; i < classes_.size(); ++i) {
    const int64_t count = lack(i);
    if (count > 0) begin_append(row, i, plan);
    for (int64_t k = 0; k < count; ++k) append(row, i, memory_.take_page(i), plan);
  }
  drain(taken);
  return true;
}

void SequenceCache::leave(RowId row) {
  Row& leaving = rows_[row.index()];
  for (Save& save : leaving.saves) {
    if (!planted(PlantedBug::kLeakedState)) drop(&save);
  }
  leaving.saves.clear();
  for (size_t i = leaving.path.size(); i-- > 0;) {
    if (!has_page_of(row, i)) --twins_;
    tree_.release(leaving.path[i]);
    memory_.touch_page(tree_.pages(leaving.path[i]).front());
    if (has_slots_) tree_.expose(leaving.path[i]);  // behind the last state: nobody could go on from there
  }
  leaving.path.clear();
  if (leaving.newest.valid()) tree_.refresh_checkpoint(leaving.newest, leaving.newest_name);
  leaving.newest = BlockId();
  leaving.restored = BlockId();
  leaving.partial = BlockId();
  leaving.published.clear();
  for (size_t i = 0; i < classes_.size(); ++i) {
    Class& pages = classes_[i];
    auto& table = pages.tables[row.index()];
    if (planted(PlantedBug::kLeakedPages) && !table.empty()) table.pop_back();
    for (const PageId page : table) {
      if (--pages.in_tables[page.index()] == 0) --pages_in_tables_;
      memory_.give_back_page(i, page);
    }
    table.clear();
  }
  if (!has_slots_) return;
  memory_.give_back_slot(leaving.slot);
  leaving.slot = StateSlotId();
}

int64_t SequenceCache::pages_total() const {
  int64_t total = 0;
  for (size_t i = 0; i < classes_.size(); ++i) total += memory_.pages_max(i);
  return total;
}

int64_t SequenceCache::pages_free() const {
  int64_t count = 0;
  for (size_t i = 0; i < classes_.size(); ++i) {
    count += memory_.pages_free(i) + int64_t{memory_.slots_free()} * memory_.pages_a_slot();
    if (memory_.draining_unit() >= 0) count += memory_.pages(i).free_in(memory_.draining_unit());
  }
  return count;
}

}  // namespace weir
