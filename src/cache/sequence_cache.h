// Which pages and which state slot every live row holds, and what is kept of rows that are gone. Knows numbers and
// sizes, never contents.
//
// Two steps are in flight and a page given back here may still be read by them. It may be taken again at once all the
// same: the runner executes plans in order, and whoever takes the page writes it in a later plan.
//
// With reuse on, a row that has computed a block of tokens leaves it in a tree (prefix_tree.h), with its pages; the row
// and the tree both hold them then. Where the recurrent state was saved, the block has a checkpoint. A row that begins
// with the same tokens takes the pages over and goes on from the last checkpoint among them. What the tree holds and no
// row uses is free memory to everyone who needs it.
//
// A page is written by one row alone: blocks that are taken over are whole, and of a block that ends inside a page the
// row gets a copy.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "cache/cache_memory.h"
#include "cache/prefix_tree.h"
#include "plan/ids.h"
#include "plan/layout.h"
#include "plan/step.h"

namespace weir {

struct ReuseConfig {
  bool enabled = false;  // needs page classes of one width
  uint64_t seed = 0;     // of the hash that finds blocks
};

// What a new row can go on from. Holds until the cache changes.
struct PrefixMatch {
  int64_t matched = 0;           // tokens of blocks that were found
  int64_t reused = 0;            // up to the last of these with a checkpoint (any block, without recurrent layers)
  int64_t lost_to_eviction = 0;  // tokens behind `matched` whose blocks were there not long ago
  int64_t whole = 0;             // tokens of the whole blocks of `matched`
  int32_t blocks = 0;            // whole blocks of `reused`
  int32_t idle_blocks = 0;       // of them and the one that ends at `reused`, used by no row
  BlockId last;                  // the block that ends at `reused`, if that is not 0
  BlockId whole_last;            // the block that ends at `whole`, if that is not 0
};

// Reads tokens [position, position + count) of a sequence; valid until the next call.
using TokenReader = std::function<std::span<const TokenId>(int64_t position, int64_t count)>;

class SequenceCache {
 public:
  SequenceCache(const CacheLayout& layout, const RunnerLimits& limits, const ReuseConfig& reuse);

  // Tokens that one sequence can have pages for when it is alone.
  int64_t tokens_alone_max() const;
  bool reuses() const { return reuses_; }
  // Whether rows have a state that must be saved to go on from.
  bool has_states() const { return has_slots_; }
  int32_t block_tokens() const { return block_tokens_; }

  // The longest prefix of `tokens` that is known. Nothing, if reuse is off.
  PrefixMatch match(const CacheSalt& salt, std::span<const TokenId> tokens) const;
  // What a later match() of the same tokens would give: as long as changes() stays what it was when `match` was
  // watched, the same but for lost_to_eviction and idle_blocks, which is counted anew here. One match is watched at a
  // time.
  void watch(const PrefixMatch& match) { tree_.watch(match.whole_last); }
  uint64_t changes() const { return 2 * tree_.changes() + (slots_scarce() ? 1 : 0); }
  void count_idle(PrefixMatch* match) const;
  // Whether one more row with `token_count` tokens, the match among them, fits, leaving `headroom` pages of every
  // class.
  bool fits(int64_t token_count, int32_t headroom, const PrefixMatch& match) const;

  // Gives the row a state slot (invalid if the model has none). There must be one: see slot_free().
  StateSlotId join(RowId row, const CacheSalt& salt, const PrefixMatch& match);
  bool slot_free() const { return !has_slots_ || memory_.slots_free() + tree_.checkpoints() > 0; }
  // Gives a row that has just joined the match's pages and pages of its own for the rest of `token_count`, and lets it
  // go on from match.reused. The row must fit. Three edits a class and one more at most; the last one restores the
  // state, if match.reused > 0.
  void adopt(RowId row, int64_t token_count, const PrefixMatch& match, StepPlan* plan);
  // Appends the pages that tokens [0, token_count) of the row lack, and the edits that say so to `plan`. All classes or
  // nothing: false if a class has too few pages.
  bool grow(RowId row, int64_t token_count, StepPlan* plan);
  // The row's state is to be saved behind its first `position` tokens, which it will not have computed before this
  // plan's work. Nothing happens if no slot can be had. One edit at most.
  void order_save(RowId row, int64_t position, StepPlan* plan);
  // The row goes on at `position` in this plan. One edit a class at most.
  void begin_work(RowId row, int64_t position, StepPlan* plan);
  // The row's first `computed` tokens are in its pages, for good: they become known, with the states that were saved
  // among them; those that were saved inside a page once the row has `sampled`.
  void publish(RowId row, int64_t computed, bool sampled, const TokenReader& read);
  // What the row computed must not be found any more.
  void distrust(RowId row);
  // Gives back everything that the row holds.
  void leave(RowId row);

  // Pages of all classes: the most that there can be, in rows' tables, and kept for rows to come. The others are free,
  // or states where they share their memory.
  int64_t pages_total() const;
  int64_t pages_used() const { return pages_in_tables_; }
  int64_t pages_kept() const { return int64_t{tree_.size()} * static_cast<int64_t>(classes_.size()); }
  int64_t pages_free() const;
  int32_t slots_total() const { return memory_.slots_total(); }
  int32_t slots_used() const { return memory_.slots_used() - tree_.checkpoints(); }
  int32_t checkpoints() const { return tree_.checkpoints(); }
  int64_t evicted_blocks() const { return evicted_blocks_; }
  int64_t evicted_checkpoints() const { return evicted_checkpoints_; }

 private:
  struct Class {
    int32_t tokens_per_page = 0;
    std::vector<std::vector<PageId>> tables;  // per row, reserved for the longest sequence
    std::vector<int32_t> in_tables;           // per page: tables that name it
  };
  // A save that was ordered and whose slot is not a checkpoint yet.
  struct Save {
    StateSlotId slot;
    int64_t position = 0;
    bool copied = false;                           // of a position inside a page: there are copies of that page
    std::array<PageId, kPageClassesMax> copies{};  // one of every class
  };
  struct Row {
    StateSlotId slot;
    CacheSalt salt{};
    std::vector<BlockId> path;       // the blocks it uses, from the start
    std::vector<uint8_t> published;  // per block of the path: kOwnPages, kOwnState: what the tree has of the row there
    std::vector<Save> saves;         // in order of position
    // The block inside a page that has the row's state. The block may be gone: its name tells.
    BlockId partial;
    uint64_t partial_name = 0;
    // The block whose checkpoint it went on from. The same holds of it.
    BlockId restored;
    uint64_t restored_name = 0;
    // The block of the last checkpoint that it went on from or made. The same holds of it.
    BlockId newest;
    uint64_t newest_name = 0;
    bool newest_whole = false;
  };

  static constexpr uint8_t kOwnPages = 1;
  static constexpr uint8_t kOwnState = 2;
  static constexpr int32_t kSpareShare = 40;  // of all slots one in so many

  static int64_t pages_for(const Class& pages, int64_t token_count) {
    return (token_count + pages.tokens_per_page - 1) / pages.tokens_per_page;
  }

  // A row needs a slot of its own beside the checkpoint that it goes on from: then it can go on from none.
  bool slots_scarce() const { return has_slots_ && memory_.slots_free() == 0 && tree_.checkpoints() < 2; }
  StateSlotId take_slot();
  int64_t pages_beside(int32_t slots_needed) const;
  BlockId outlived_state() const;
  void drop_state(BlockId block);
  void evict_with_state(BlockId block);
  bool free_memory();
  bool outlives(BlockId checkpoint, int64_t used_at) const;
  void learn(const PrefixMatch& match);
  int64_t unit_used_at(int32_t unit) const;
  void find_unit_to_drain();
  // Slots that are free or hold what nobody will miss, and how many of them pages leave alone, so that saves, which
  // come in bursts, find some.
  int32_t slots_spare() const { return memory_.slots_free() + tree_.checkpoints(Worth::kNothing); }
  int32_t slots_spare_max() const { return memory_.shared() ? memory_.slots_total() / kSpareShare + 1 : 0; }
  void drain(int64_t blocks_max);
  void evict(BlockId block);
  bool merge_twins();
  static void begin_append(RowId row, size_t page_class, StepPlan* plan);
  void append(RowId row, size_t page_class, PageId page, StepPlan* plan);
  static void copy_page(RowId row, size_t page_class, PageId from, PageId to, StepPlan* plan);
  void publish_block(RowId row, std::span<const TokenId> tokens);
  bool publish_save(RowId row, const Save& save, const TokenReader& read);
  void make_checkpoint(RowId row, BlockId block, StateSlotId slot);
  void note_checkpoint(RowId row, BlockId block);
  void drop(Save* save);
  bool has_page_of(RowId row, size_t index) const;
  int64_t evicted_behind(const CacheSalt& salt, BlockId last, std::span<const TokenId> tokens) const;

  std::vector<Class> classes_;
  bool has_slots_;
  bool reuses_;
  int32_t block_tokens_;
  CacheMemory memory_;
  PrefixTree tree_;
  std::vector<Row> rows_;
  std::vector<PageId> scratch_;    // one page of every class
  std::vector<uint64_t> evicted_;  // names of blocks that were evicted, each at the place that its low bits say
  int64_t pages_in_tables_ = 0;    // each page once
  BlockId restoring_;              // adopt() still needs this block's checkpoint
  std::vector<BlockId> blocks_;    // by page of the first class: the block that has it
  // A state of worth goes when it was unused for so many times as long as the pages that would go; 2^patience_log_.
  double patience_ = 1;
  double patience_log_ = 0;
  int64_t twins_ = 0;  // blocks of paths whose pages the row has in copies of its own
  int64_t evicted_blocks_ = 0;
  int64_t evicted_checkpoints_ = 0;
};

}  // namespace weir
