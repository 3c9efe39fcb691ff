// The part of SequenceCache that frees memory: what goes first, and what of the memory is pages and what is states.
#include <algorithm>
#include <cmath>

#include "cache/sequence_cache.h"

namespace weir {
namespace {

// Units that are looked at to find one whose pages nobody uses.
constexpr int32_t kUnitsTried = 8;
// Losses, in units of memory full of tokens, that double or halve patience_: less, and it follows single conversations.
constexpr double kLossesToDouble = 64;
// patience_ stays within its eighth and eight times as much: losses that neither kind can help would take it anywhere.
constexpr double kPatienceLogMax = 3;

}  // namespace

// Pages of every class that slots can become, if nobody needs more than so many of those that no row has.
int64_t SequenceCache::pages_beside(int32_t slots_needed) const {
  const int32_t slots = memory_.slots_free() + tree_.checkpoints() - slots_needed;
  return memory_.pages_draining() +
         int64_t{memory_.pages_a_slot()} * std::max(0, std::min(slots, memory_.units_to_open()));
}

// A free slot, or the one of the checkpoint that was not used for longest; invalid if rows have them all.
StateSlotId SequenceCache::take_slot() {
  const int32_t spare = slots_spare();
  if (spare == 0 && !memory_.close_unit()) find_unit_to_drain();
  // Where free slots may become pages, what nobody will miss goes before them.
  const bool idle = memory_.shared() && tree_.checkpoints(Worth::kNothing) > 0 && spare <= slots_spare_max();
  if (memory_.slots_free() > 0 && !idle) return memory_.take_slot();
  const BlockId oldest = tree_.oldest_checkpoint();
  if (!oldest.valid()) return {};
  drop_state(oldest);
  return memory_.take_slot();
}

void SequenceCache::drop_state(BlockId block) {
  memory_.give_back_slot(tree_.take_checkpoint(block));
  ++evicted_checkpoints_;
  // A block that ends inside a page is there for its checkpoint alone.
  if (!tree_.full(block) && tree_.users(block) == 0) evict(block);
}

// Whether the checkpoint has gone unused for longer, as patience_ sees it, than what was used last at that time. What
// was exposed costs nobody anything, so it goes first.
bool SequenceCache::outlives(BlockId checkpoint, int64_t used_at) const {
  const auto age = [this](int64_t at) { return static_cast<double>(tree_.now() - at); };
  return used_at > 0 && age(tree_.checkpoint_used_at(checkpoint)) > patience_ * age(used_at);
}

// Who lost more tokens for want of a state than for want of pages shows that states should be kept for longer.
void SequenceCache::learn(const PrefixMatch& match) {
  if (!memory_.shared()) return;
  const auto lost = static_cast<double>(match.matched - match.reused - match.lost_to_eviction);
  const double step = kLossesToDouble * memory_.pages_a_slot() * block_tokens_;
  patience_log_ = std::clamp(patience_log_ + lost / step, -kPatienceLogMax, kPatienceLogMax);
  patience_ = std::exp2(patience_log_);
}

// The checkpoint that is to become pages, if any is: one that was used before the block that would have to go.
BlockId SequenceCache::outlived_state() const {
  if (memory_.units_to_open() <= 0) return {};
  const BlockId block = tree_.oldest();
  for (const Worth worth : {Worth::kNothing, Worth::kDetours, Worth::kUse}) {
    const BlockId state = tree_.oldest_checkpoint(worth);
    if (!state.valid() || state == restoring_) continue;
    if (!block.valid() || outlives(state, tree_.used_at(block))) return state;
  }
  return {};
}

// When the unit's pages were used last, by used_at(); INT64_MAX: somebody uses them.
int64_t SequenceCache::unit_used_at(int32_t unit) const {
  const int32_t first = unit * memory_.pages_a_slot();
  int64_t used_at = 0;
  for (int32_t i = first; i < first + memory_.pages_a_slot(); ++i) {
    const PageId page(i);
    if (memory_.pages(0).references(page) == 0) continue;
    const BlockId block = blocks_[page.index()];
    if (!block.valid() || tree_.users(block) > 0) return INT64_MAX;
    used_at = std::max(used_at, tree_.used_at(block));
  }
  return used_at;
}

// The coldest unit that nobody uses is to become a slot, if its pages go before the next checkpoint of worth does.
void SequenceCache::find_unit_to_drain() {
  if (!reuses_ || memory_.draining_unit() >= 0) return;
  BlockId checkpoint = tree_.oldest_checkpoint(Worth::kDetours);
  if (!checkpoint.valid()) checkpoint = tree_.oldest_checkpoint(Worth::kUse);
  for (int32_t tried = 0; tried < kUnitsTried && memory_.coldest_unit() >= 0; ++tried) {
    const int32_t unit = memory_.coldest_unit();
    const int64_t used_at = unit_used_at(unit);
    if (used_at == INT64_MAX) {
      memory_.touch(unit);
      continue;
    }
    if (!checkpoint.valid() || !outlives(checkpoint, used_at)) memory_.drain(unit);
    return;
  }
}

// Evicts so many blocks at most that stand in the way of the unit that is to become a slot; what stands behind them
// goes too, and was used no later.
void SequenceCache::drain(int64_t blocks_max) {
  const int32_t unit = memory_.draining_unit();
  if (unit < 0) return;
  const int32_t end = (unit + 1) * memory_.pages_a_slot();
  for (int32_t page = end - memory_.pages_a_slot(); page < end && memory_.draining_unit() == unit;) {
    const BlockId block = blocks_[static_cast<size_t>(page)];
    if (!block.valid()) {
      ++page;
    } else if (tree_.users(block) > 0) {
      memory_.stop_draining();  // somebody came to use it
    } else {
      if (blocks_max-- <= 0) return;
      evict_with_state(tree_.leaf_behind(block));
    }
  }
}

// Pages of every class more are free, or nearer to it; false: none can be had. Slots in abundance become pages, then
// states that were not used for longer than the pages that would have to go.
bool SequenceCache::free_memory() {
  if (memory_.units_to_open() > 0 && slots_spare() > slots_spare_max()) {
    if (memory_.slots_free() == 0) drop_state(tree_.oldest_checkpoint(Worth::kNothing));
    return memory_.open_unit();
  }
  if (const BlockId state = outlived_state(); state.valid()) {
    if (memory_.slots_free() == 0) drop_state(state);
    return memory_.open_unit();
  }
  if (tree_.oldest().valid()) {
    evict_with_state(tree_.oldest());
    return true;
  }
  return memory_.open_unit() || memory_.stop_draining() || merge_twins();
}

void SequenceCache::evict_with_state(BlockId block) {
  if (tree_.checkpoint(block).valid()) {
    memory_.give_back_slot(tree_.take_checkpoint(block));
    ++evicted_checkpoints_;
  }
  evict(block);
}

void SequenceCache::evict(BlockId block) {
  const uint64_t name = tree_.name(block);
  if (tree_.full(block)) evicted_[name & (evicted_.size() - 1)] = name;
  const auto pages = tree_.pages(block);
  blocks_[pages.front().index()] = BlockId();
  std::copy(pages.begin(), pages.end(), scratch_.begin());
  const BlockId parent = tree_.parent(block);
  tree_.remove(block);
  if (has_slots_ && parent.valid()) tree_.expose(parent);
  for (size_t i = 0; i < classes_.size(); ++i) memory_.give_back_page(i, scratch_[i]);
  ++evicted_blocks_;
}

}  // namespace weir
