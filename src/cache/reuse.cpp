// The part of SequenceCache that keeps what rows computed and gives it to rows to come.
#include <algorithm>

#include "base/planted.h"
#include "cache/sequence_cache.h"

namespace weir {

PrefixMatch SequenceCache::match(const CacheSalt& salt_given, std::span<const TokenId> tokens) const {
  PrefixMatch out;
  const CacheSalt salt = planted(PlantedBug::kSaltForgotten) ? CacheSalt{} : salt_given;
  if (!reuses_) return out;
  const auto width = static_cast<size_t>(block_tokens_);
  BlockId last;
  for (auto rest = tokens; rest.size() >= width; rest = rest.subspan(width)) {
    const BlockId next = tree_.find(last, salt, rest.first(width));
    if (!next.valid()) break;
    last = next;
    out.whole = tree_.end(next);
  }
  out.whole_last = last;
  const auto behind = [&](BlockId block) {
    return tokens.subspan(block.valid() ? static_cast<size_t>(tree_.end(block)) : 0);
  };
  out.matched = out.whole;
  if (const BlockId partial = tree_.find_partial(last, salt, behind(last), false); partial.valid()) {
    out.matched = tree_.end(partial);
  }
  out.lost_to_eviction = std::max<int64_t>(0, out.whole + evicted_behind(salt, last, behind(last)) - out.matched);

  if (slots_scarce()) return out;
  // The last state on the way: at the end of a block, or of one that ends inside the page behind it.
  for (BlockId block = last;; block = tree_.parent(block)) {
    out.last = tree_.find_partial(block, salt, behind(block), has_slots_);
    if (out.last.valid()) break;
    if (!block.valid()) return out;
    out.last = block;
    if (!has_slots_ || tree_.checkpoint(block).valid()) break;
  }
  out.reused = tree_.end(out.last);
  out.blocks = static_cast<int32_t>(out.reused / block_tokens_);
  count_idle(&out);
  return out;
}

void SequenceCache::count_idle(PrefixMatch* match) const {
  match->idle_blocks = 0;
  // Above a block in use, all are.
  for (BlockId block = match->last; block.valid() && tree_.users(block) == 0; block = tree_.parent(block)) {
    ++match->idle_blocks;
  }
}

// Tokens behind `last` whose blocks were evicted. Some are forgotten: a name's place may have gone to another.
int64_t SequenceCache::evicted_behind(const CacheSalt& salt, BlockId last, std::span<const TokenId> tokens) const {
  const auto width = static_cast<size_t>(block_tokens_);
  uint64_t name = last.valid() ? tree_.name(last) : tree_.name_at_start(salt);
  int64_t lost = 0;
  for (; tokens.size() >= width; tokens = tokens.subspan(width), lost += block_tokens_) {
    name = PrefixTree::name_behind(name, tokens.first(width));
    if (evicted_[name & (evicted_.size() - 1)] != name) break;
  }
  return lost;
}

void SequenceCache::adopt(RowId row, int64_t token_count, const PrefixMatch& match, StepPlan* plan) {
  Row& joined = rows_[row.index()];
  BlockId block = match.last;
  const BlockId partial = match.reused > 0 && !tree_.full(block) ? block : BlockId();
  if (partial.valid()) {
    tree_.use(partial);  // until its page is copied
    block = tree_.parent(partial);
  }
  joined.path.resize(static_cast<size_t>(match.blocks));
  joined.published.assign(static_cast<size_t>(match.blocks), 0);
  for (size_t i = joined.path.size(); i-- > 0; block = tree_.parent(block)) {
    joined.path[i] = block;
    tree_.use(block);
  }
  for (size_t c = 0; c < classes_.size() && match.blocks > 0; ++c) {
    begin_append(row, c, plan);
    for (const BlockId used : joined.path) {
      const PageId page = tree_.pages(used)[c];
      memory_.pages(c).share(page);
      append(row, c, page, plan);
    }
  }
  restoring_ = match.reused > 0 ? match.last : BlockId();
  WEIR_CHECK(grow(row, token_count, plan), "row {} joined without room", row.value());
  restoring_ = BlockId();
  if (match.reused == 0) return;
  note_checkpoint(row, match.last);
  joined.restored = match.last;
  joined.restored_name = tree_.name(match.last);
  if (partial.valid()) {
    for (size_t c = 0; c < classes_.size() && !planted(PlantedBug::kPageNotCopied); ++c) {
      if (planted(PlantedBug::kStaleDraftPage) && c > 0) continue;
      copy_page(row, c, tree_.pages(partial)[c], classes_[c].tables[row.index()][joined.path.size()], plan);
    }
    tree_.release(partial);
  }
  Edit edit;
  edit.kind = EditKind::kRestoreState;
  edit.row = row;
  edit.state = has_slots_ ? tree_.checkpoint(match.last) : StateSlotId();
  edit.position = match.reused;
  plan->edits.push_back(edit);
}

void SequenceCache::copy_page(RowId row, size_t page_class, PageId from, PageId to, StepPlan* plan) {
  Edit edit;
  edit.kind = EditKind::kCopyPage;
  edit.row = row;
  edit.page_class = PageClassId::from(page_class);
  edit.first = static_cast<int32_t>(plan->pages.size());
  edit.count = 2;
  plan->pages.push_back(from);
  plan->pages.push_back(to);
  plan->edits.push_back(edit);
}

void SequenceCache::order_save(RowId row, int64_t position, StepPlan* plan) {
  Row& saving = rows_[row.index()];
  if (!reuses_ || !has_slots_ || saving.saves.size() == saving.saves.capacity()) return;
  const StateSlotId slot = take_slot();
  if (!slot.valid()) return;
  saving.saves.push_back({slot, position, false, {}});
  Edit edit;
  edit.kind = EditKind::kSaveState;
  edit.row = row;
  edit.state = slot;
  edit.position = position;
  if (planted(PlantedBug::kSaveOverPages) && memory_.shared()) {
    edit.state = StateSlotId(memory_.pages(0).unit(classes_[0].tables[row.index()].front()));
  }
  plan->edits.push_back(edit);
}

// A block that ends inside a page has a copy of it: the row writes on in its own. What the page has behind the block's
// end is nobody's.
void SequenceCache::begin_work(RowId row, int64_t position, StepPlan* plan) {
  Row& working = rows_[row.index()];
  if (working.saves.empty()) return;
  Save& save = working.saves.back();
  if (position < save.position || save.position % block_tokens_ == 0 || save.copied) return;
  const auto lacks = [this] {
    for (size_t c = 0; c < classes_.size(); ++c) {
      if (memory_.pages_free(c) == 0) return true;
    }
    return false;
  };
  while (lacks()) {
    if (free_memory()) continue;
    drop(&save);
    working.saves.pop_back();
    return;
  }
  for (size_t c = 0; c < classes_.size(); ++c) {
    save.copies[c] = memory_.take_page(c);
    copy_page(row, c, classes_[c].tables[row.index()][static_cast<size_t>(save.position / block_tokens_)],
              save.copies[c], plan);
  }
  save.copied = true;
}

void SequenceCache::publish(RowId row, int64_t computed, bool sampled, const TokenReader& read) {
  if (!reuses_) return;
  Row& owner = rows_[row.index()];
  while (static_cast<int64_t>(owner.path.size() + 1) * block_tokens_ <= computed) {
    publish_block(row, read(static_cast<int64_t>(owner.path.size()) * block_tokens_, block_tokens_));
  }
  // Later saves stay in order behind one that has to wait.
  size_t done = 0;
  for (; done < owner.saves.size(); ++done) {
    Save& save = owner.saves[done];
    const bool whole = save.position % block_tokens_ == 0;
    if (save.position > computed || (!whole && (!sampled || !save.copied))) break;
    if (!publish_save(row, save, read)) drop(&save);
  }
  owner.saves.erase(owner.saves.begin(), owner.saves.begin() + static_cast<ptrdiff_t>(done));
}

void SequenceCache::publish_block(RowId row, std::span<const TokenId> tokens) {
  Row& owner = rows_[row.index()];
  const size_t index = owner.path.size();
  const BlockId parent = index == 0 ? BlockId() : owner.path.back();
  BlockId block = tree_.find(parent, owner.salt, tokens);
  const bool known = block.valid();
  if (!known) {
    for (size_t c = 0; c < classes_.size(); ++c) {
      scratch_[c] = classes_[c].tables[row.index()][index];
      memory_.pages(c).share(scratch_[c]);
    }
    block = tree_.insert(parent, owner.salt, tokens, scratch_);
    blocks_[scratch_.front().index()] = block;
  }
  tree_.use(block);
  owner.path.push_back(block);
  owner.published.push_back(known ? 0 : kOwnPages);
  if (!has_page_of(row, index)) ++twins_;
}

// Whether the save's slot and copies are the tree's now.
bool SequenceCache::publish_save(RowId row, const Save& save, const TokenReader& read) {
  const Row& owner = rows_[row.index()];
  const auto blocks = static_cast<size_t>(save.position / block_tokens_);
  const int64_t rest = save.position % block_tokens_;
  BlockId parent = blocks == 0 ? BlockId() : owner.path[blocks - 1];
  if (rest == 0) {
    if (planted(PlantedBug::kCheckpointTooEarly) && blocks > 1) parent = owner.path[blocks - 2];
    if (tree_.checkpoint(parent).valid()) return false;
    make_checkpoint(row, parent, save.slot);
    return true;
  }
  if (!save.copied) return false;
  const auto tokens = read(save.position - rest, rest);
  if (const BlockId known = tree_.find(parent, owner.salt, tokens); known.valid()) {
    if (tree_.checkpoint(known).valid()) return false;
    // The block lost its checkpoint; its pages are as good as the copies.
    make_checkpoint(row, known, save.slot);
    for (size_t c = 0; c < classes_.size(); ++c) memory_.give_back_page(c, save.copies[c]);
    return true;
  }
  const auto copies = std::span(save.copies).first(classes_.size());
  const BlockId added = tree_.insert(parent, owner.salt, tokens, copies);
  blocks_[copies.front().index()] = added;
  make_checkpoint(row, added, save.slot);
  return true;
}

// Who goes on with this sequence's tokens goes on from here rather than from the checkpoint before. One inside a page
// is a prompt's end: where the next turn goes on, if it repeats the prompt to its end.
void SequenceCache::make_checkpoint(RowId row, BlockId block, StateSlotId slot) {
  Row& owner = rows_[row.index()];
  tree_.set_checkpoint(block, slot);
  if (owner.newest.valid()) {
    const bool detours = owner.newest_whole && !tree_.full(block);
    tree_.supersede(owner.newest, owner.newest_name, detours ? Worth::kDetours : Worth::kNothing);
  }
  note_checkpoint(row, block);
  if (tree_.full(block)) {
    owner.published[static_cast<size_t>(tree_.end(block) / block_tokens_) - 1] |= kOwnState;
  } else {
    owner.partial = block;
    owner.partial_name = tree_.name(block);
  }
}

void SequenceCache::note_checkpoint(RowId row, BlockId block) {
  Row& owner = rows_[row.index()];
  owner.newest = block;
  owner.newest_name = tree_.name(block);
  owner.newest_whole = tree_.full(block);
}

void SequenceCache::drop(Save* save) {
  memory_.give_back_slot(save->slot);
  for (size_t c = 0; c < classes_.size() && save->copied; ++c) memory_.give_back_page(c, save->copies[c]);
}

// A block that another row computed stays, without a state that this row left there or began with.
void SequenceCache::distrust(RowId row) {
  const Row& owner = rows_[row.index()];
  for (size_t i = 0; i < owner.path.size(); ++i) {
    const BlockId block = owner.path[i];
    if ((owner.published[i] & kOwnPages) != 0) {
      tree_.hide(block);
    } else if ((owner.published[i] & kOwnState) != 0 && tree_.checkpoint(block).valid()) {
      memory_.give_back_slot(tree_.take_checkpoint(block));
    }
  }
  // Or the state that it went on from was broken already: nobody else shall go on from there.
  const BlockId restored = owner.restored;
  if (restored.valid() && tree_.has(restored, owner.restored_name) && tree_.checkpoint(restored).valid()) {
    memory_.give_back_slot(tree_.take_checkpoint(restored));
  }
  if (owner.partial.valid() && tree_.has(owner.partial, owner.partial_name)) tree_.hide(owner.partial);
}

bool SequenceCache::has_page_of(RowId row, size_t index) const {
  return classes_.front().tables[row.index()][index] == tree_.pages(rows_[row.index()].path[index]).front();
}

// Two rows that computed the same block have a page each. When the row is gone whose page the tree holds, the other's
// does as well. False: nothing was freed.
bool SequenceCache::merge_twins() {
  bool freed = false;
  for (size_t r = 0; r < rows_.size() && twins_ > 0; ++r) {
    const RowId row = RowId::from(r);
    for (size_t i = 0; i < rows_[r].path.size(); ++i) {
      const BlockId block = rows_[r].path[i];
      if (has_page_of(row, i) || memory_.pages(0).references(tree_.pages(block).front()) > 1) continue;
      for (size_t c = 0; c < classes_.size(); ++c) {
        memory_.give_back_page(c, tree_.pages(block)[c]);
        scratch_[c] = classes_[c].tables[r][i];
        memory_.pages(c).share(scratch_[c]);
      }
      blocks_[tree_.pages(block).front().index()] = BlockId();
      tree_.set_pages(block, scratch_);
      blocks_[scratch_.front().index()] = block;
      rows_[r].published[i] |= kOwnPages;
      --twins_;
      freed = true;
    }
  }
  return freed;
}

}  // namespace weir
