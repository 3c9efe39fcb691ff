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
      slots_(has_slots_ ? limits.state_slots : 0),
      tree_(reuses_ ? *std::min_element(limits.pages.begin(), limits.pages.end()) : 0, block_tokens_,
            static_cast<int32_t>(layout.classes.size()), reuse.seed),
      rows_(static_cast<size_t>(limits.rows_max)) {
  WEIR_CHECK(layout.classes.size() == limits.pages.size(), "{} page classes, {} page counts", layout.classes.size(),
             limits.pages.size());
  WEIR_CHECK(layout.classes.size() <= kPageClassesMax, "{} page classes", layout.classes.size());
  classes_.reserve(layout.classes.size());
  for (size_t i = 0; i < layout.classes.size(); ++i) {
    Class& pages =
        classes_.emplace_back(Class{layout.classes[i].tokens_per_page, IdPool<PageId>(limits.pages[i]), {}, {}});
    const int64_t longest = std::min<int64_t>(pages_for(pages, limits.sequence_tokens_max), pages.pool.total());
    pages.tables.resize(static_cast<size_t>(limits.rows_max));
    for (auto& table : pages.tables) table.reserve(static_cast<size_t>(longest));
    pages.in_tables.resize(static_cast<size_t>(limits.pages[i]));
  }
  scratch_.resize(classes_.size());
  if (!reuses_) return;
  evicted_.resize(std::bit_ceil(4 * static_cast<size_t>(classes_.front().pool.total())));
  for (Row& row : rows_) {
    row.path.reserve(classes_.front().tables.front().capacity());
    row.published.reserve(row.path.capacity());
    row.saves.reserve(static_cast<size_t>(limits.steps_in_flight) + 1);
  }
}

int64_t SequenceCache::tokens_alone_max() const {
  int64_t tokens = INT64_MAX;
  for (const Class& pages : classes_) {
    tokens = std::min(tokens, static_cast<int64_t>(pages.pool.total()) * pages.tokens_per_page);
  }
  return tokens;
}

bool SequenceCache::fits(int64_t token_count, int32_t headroom, const PrefixMatch& match) const {
  return std::all_of(classes_.begin(), classes_.end(), [&](const Class& pages) {
    return pages_for(pages, token_count) - match.blocks + headroom <=
           pages.pool.free() + tree_.evictable() - match.idle_blocks;
  });
}

StateSlotId SequenceCache::join(RowId row, const CacheSalt& salt, const PrefixMatch& match) {
  Row& joining = rows_[row.index()];
  joining.salt = salt;
  if (!has_slots_) return {};
  WEIR_CHECK(!joining.slot.valid(), "row {} already holds slot {}", row.value(), joining.slot.value());
  if (match.reused > 0) tree_.touch_checkpoint(match.last);
  joining.slot = take_slot();
  WEIR_CHECK(joining.slot.valid(), "no state slot is free");
  if (planted(PlantedBug::kStaleSlot)) return StateSlotId(0);
  return joining.slot;
}

// A free slot, or the one of the checkpoint that was not used for longest; invalid if rows have them all.
StateSlotId SequenceCache::take_slot() {
  if (slots_.free() > 0) return slots_.take();
  const BlockId oldest = tree_.oldest_checkpoint();
  if (!oldest.valid()) return {};
  const StateSlotId slot = tree_.take_checkpoint(oldest);
  ++evicted_checkpoints_;
  // A block that ends inside a page is there for its checkpoint alone.
  if (!tree_.full(oldest) && tree_.users(oldest) == 0) evict(oldest);
  return slot;
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
  const auto lack = [&](const Class& pages) {
    return std::max<int64_t>(0, pages_for(pages, token_count) - static_cast<int64_t>(pages.tables[row.index()].size()));
  };
  const auto lacks_beside = [&](int64_t more) {
    return std::any_of(classes_.begin(), classes_.end(),
                       [&](const Class& pages) { return lack(pages) > pages.pool.free() + more; });
  };
  // Nothing is evicted for one who cannot be helped.
  while (lacks_beside(tree_.evictable())) {
    if (!merge_twins()) return false;
  }
  while (lacks_beside(0)) {
    if (!free_memory()) return false;
  }
  for (size_t i = 0; i < classes_.size(); ++i) {
    const int64_t count = lack(classes_[i]);
    if (count > 0) begin_append(row, i, plan);
    for (int64_t k = 0; k < count; ++k) append(row, i, classes_[i].pool.take(), plan);
  }
  return true;
}

// One page of every class more is free; false: none can be had.
bool SequenceCache::free_memory() {
  const BlockId oldest = tree_.oldest();
  if (!oldest.valid()) return merge_twins();
  if (tree_.checkpoint(oldest).valid()) {
    slots_.give_back(tree_.take_checkpoint(oldest));
    ++evicted_checkpoints_;
  }
  evict(oldest);
  return true;
}

void SequenceCache::evict(BlockId block) {
  const uint64_t name = tree_.name(block);
  if (tree_.full(block)) evicted_[name & (evicted_.size() - 1)] = name;
  const auto pages = tree_.pages(block);
  std::copy(pages.begin(), pages.end(), scratch_.begin());
  const BlockId parent = tree_.parent(block);
  tree_.remove(block);
  if (has_slots_ && parent.valid()) tree_.expose(parent);
  for (size_t i = 0; i < classes_.size(); ++i) classes_[i].pool.give_back(scratch_[i]);
  ++evicted_blocks_;
}

void SequenceCache::leave(RowId row) {
  Row& leaving = rows_[row.index()];
  for (Save& save : leaving.saves) drop(&save);
  leaving.saves.clear();
  for (size_t i = leaving.path.size(); i-- > 0;) {
    if (!has_page_of(row, i)) --twins_;
    tree_.release(leaving.path[i]);
    if (has_slots_) tree_.expose(leaving.path[i]);  // behind the last state: nobody could go on from there
  }
  leaving.path.clear();
  leaving.newest = BlockId();
  leaving.restored = BlockId();
  leaving.partial = BlockId();
  leaving.published.clear();
  for (Class& pages : classes_) {
    auto& table = pages.tables[row.index()];
    if (planted(PlantedBug::kLeakedPages) && !table.empty()) table.pop_back();
    for (const PageId page : table) {
      if (--pages.in_tables[page.index()] == 0) --pages_in_tables_;
      pages.pool.give_back(page);
    }
    table.clear();
  }
  if (!has_slots_) return;
  slots_.give_back(leaving.slot);
  leaving.slot = StateSlotId();
}

int64_t SequenceCache::pages_total() const {
  int64_t total = 0;
  for (const Class& pages : classes_) total += pages.pool.total();
  return total;
}

int64_t SequenceCache::pages_free() const {
  int64_t count = 0;
  for (const Class& pages : classes_) count += pages.pool.free();
  return count;
}

}  // namespace weir
