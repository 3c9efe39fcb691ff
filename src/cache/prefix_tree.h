// What the caches still know of earlier sequences: blocks of tokens in a tree, each with the pages that hold them and,
// where the recurrent state was kept at its end, a checkpoint. A hash finds a block, its parent and its tokens confirm
// it, so a match is exact whatever the hash does.
//
// A block in use by a row is not evicted; the others stand in the order in which they were used last. A row uses the
// whole path above its last block and gives it back from the last block up, so a block always stands before its parent,
// and the first in the order has no children: taking it is O(1). What nobody can go on from, because there is no
// checkpoint at it or behind it, need not wait for its turn (expose()).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "base/id.h"
#include "cache/index_order.h"
#include "plan/ids.h"
#include "plan/layout.h"

namespace weir {

using BlockId = Id<struct PrefixBlockTag>;

// What a checkpoint is kept for.
enum class Worth : uint8_t {
  kNothing,  // a sequence has a better one of the same kind further on
  kDetours,  // a sequence has one at its prompt's end; who leaves its tokens before that can use this one
  kUse,      // the last that is known of a sequence, or more than one went on from here
};
inline constexpr size_t kWorths = 3;

class PrefixTree {
 public:
  // Room for `blocks_max` blocks of `block_tokens` tokens (at most kGridTokens), each with one page of every class.
  // `seed` keys the hash.
  PrefixTree(int32_t blocks_max, int32_t block_tokens, int32_t page_classes, uint64_t seed);

  // The block of exactly these tokens, 1 to block_tokens of them, behind `parent` (invalid: at the start); invalid:
  // none.
  BlockId find(BlockId parent, const CacheSalt& salt, std::span<const TokenId> tokens) const;
  // The longest block of fewer than block_tokens tokens, a prefix of `tokens`, behind `parent`, if wanted among those
  // with a checkpoint; invalid: none.
  BlockId find_partial(BlockId parent, const CacheSalt& salt, std::span<const TokenId> tokens,
                       bool with_checkpoint) const;
  // Adds a block that find() does not know, with one page of every class, in use by nobody yet: the caller uses it, or
  // it is the last in the order. A parent must be full and in use. Programmer error: no room.
  BlockId insert(BlockId parent, const CacheSalt& salt, std::span<const TokenId> tokens, std::span<const PageId> pages);
  // Takes a block out that nobody uses and that has no children; its pages and its checkpoint are the caller's again.
  void remove(BlockId block);

  // Nothing finds the block any more, nor what stands behind it.
  void hide(BlockId block);
  // The pages hold the same as those that the block had.
  void set_pages(BlockId block, std::span<const PageId> pages);

  // One user more or less. A user of a block uses its parents too, one call for each, and gives back children first.
  void use(BlockId block);
  void release(BlockId block);

  // Makes the block the next to evict, if nobody uses it, nothing stands behind it and it has no checkpoint.
  void expose(BlockId block);

  // The next block to evict: longest unused, without children. Invalid: every block is in use.
  BlockId oldest() const { return BlockId(by_use_.first); }
  // The one that goes behind `block`; invalid: there is none.
  BlockId next_oldest(BlockId block) const { return BlockId(at(block).by_use.behind); }
  // When a block that nobody uses, or a checkpoint, was used last, by the number of blocks that came until then. A
  // block is not used later than its parent. Of one that was exposed: 0.
  int64_t used_at(BlockId block) const { return at(block).used_at; }
  int64_t now() const { return inserted_; }
  int64_t checkpoint_used_at(BlockId block) const { return at(block).checkpoint_used_at; }
  // A block without children that is the block or stands behind it.
  BlockId leaf_behind(BlockId block) const;
  // Blocks that nobody uses: all of them can be evicted.
  int32_t evictable() const { return evictable_; }

  // A checkpoint is the recurrent state behind the block's last token.
  StateSlotId checkpoint(BlockId block) const { return at(block).checkpoint; }
  void set_checkpoint(BlockId block, StateSlotId slot);
  // The slot is the caller's again.
  StateSlotId take_checkpoint(BlockId block);
  // Marks a checkpoint as used last, by one more sequence.
  void touch_checkpoint(BlockId block);
  // The sequence that used the checkpoint last has left. Nothing happens if the block of that name is gone, or its
  // checkpoint.
  void refresh_checkpoint(BlockId block, uint64_t name);
  // A sequence has a checkpoint further on: the block's counts no more than that until it is used again, if nobody else
  // went on from the block or from its checkpoint. Nothing happens if the block of that name is gone, or its
  // checkpoint.
  void supersede(BlockId block, uint64_t name, Worth worth);
  // The block whose checkpoint is to go first: of those that are worth least, the one that was not used for longest.
  // Invalid: there is none.
  BlockId oldest_checkpoint() const;
  BlockId oldest_checkpoint(Worth worth) const { return BlockId(by_checkpoint_[static_cast<size_t>(worth)].first); }

  // From now on changes() counts what may change where a walk leads that found the blocks up to `last` (invalid: none)
  // and no block behind: their checkpoints, those blocks themselves, and blocks right behind them, or at the start,
  // that come, go or get a state. One walk is watched at a time.
  void watch(BlockId last);
  uint64_t changes() const { return changes_; }

  // Whether the block is there and is still the one of that name.
  bool has(BlockId block, uint64_t name) const {
    return blocks_[block.index()].token_count > 0 && blocks_[block.index()].name == name;
  }
  BlockId parent(BlockId block) const { return at(block).parent; }
  // Tokens from the start to the block's end.
  int64_t end(BlockId block) const { return at(block).end; }
  bool full(BlockId block) const { return at(block).token_count == block_tokens_; }
  int32_t users(BlockId block) const { return at(block).users; }
  std::span<const PageId> pages(BlockId block) const;
  int32_t size() const { return size_; }
  int32_t checkpoints() const { return checkpoints_; }
  int32_t checkpoints(Worth worth) const { return checkpoints_of_[static_cast<size_t>(worth)]; }

  // The hash of everything from the start to the end of such a block: what remains to know a block by once it is gone.
  uint64_t name(BlockId block) const { return at(block).name; }
  uint64_t name_at_start(const CacheSalt& salt) const;
  static uint64_t name_behind(uint64_t parent, std::span<const TokenId> tokens);

 private:
  struct Block {
    uint64_t name = 0;
    CacheSalt salt{};  // of blocks at the start
    BlockId parent;
    int32_t token_count = 0;  // 0: the record is free
    int32_t users = 0;
    int32_t children = 0;
    int32_t partial_children = 0;
    bool hidden = false;
    uint64_t watched = 0;         // the last walk that led over it
    Worth worth = Worth::kUse;    // of the checkpoint
    int32_t restores = 0;         // sequences that went on from the checkpoint
    int32_t next_in_bucket = -1;  // the free list's link too
    int64_t end = 0;
    int64_t used_at = 0;             // when its last user released it, by inserted_
    int64_t checkpoint_used_at = 0;  // when the checkpoint was used last
    StateSlotId checkpoint;
    OrderLink by_use;
    OrderLink by_checkpoint;
    OrderLink by_parent;
    IndexOrder behind;  // its children
    std::array<TokenId, kGridTokens> tokens{};
  };

  Block& at(BlockId block);
  const Block& at(BlockId block) const;
  uint64_t name(BlockId parent, const CacheSalt& salt, std::span<const TokenId> tokens) const;
  void count_change(const Block& block);
  void leave_bucket(BlockId id);
  size_t bucket(uint64_t name) const { return static_cast<size_t>(name) & (buckets_.size() - 1); }
  bool is(const Block& block, uint64_t name, BlockId parent, const CacheSalt& salt,
          std::span<const TokenId> tokens) const;
  BlockId look_up(uint64_t name, BlockId parent, const CacheSalt& salt, std::span<const TokenId> tokens) const;
  void move_checkpoint(BlockId id, Worth worth);
  void prepend(IndexOrder* order, OrderLink Block::* link, int32_t index);
  void append(IndexOrder* order, OrderLink Block::* link, int32_t index);
  IndexOrder* checkpoints_of(const Block& block) { return &by_checkpoint_[static_cast<size_t>(block.worth)]; }
  void take_out(IndexOrder* order, OrderLink Block::* link, int32_t index);

  uint64_t seed_;
  int32_t block_tokens_;
  int32_t page_classes_;
  std::vector<Block> blocks_;
  std::vector<PageId> pages_;     // page_classes_ per block
  std::vector<int32_t> buckets_;  // a power of two of chains
  int32_t free_ = -1;
  int32_t size_ = 0;
  int32_t evictable_ = 0;
  int32_t checkpoints_ = 0;
  std::array<int32_t, kWorths> checkpoints_of_{};
  int64_t inserted_ = 0;
  int32_t partial_at_start_ = 0;
  uint64_t walk_ = 1;  // the one that is watched
  uint64_t changes_ = 0;
  IndexOrder by_use_;                              // of blocks without users
  std::array<IndexOrder, kWorths> by_checkpoint_;  // per worth
};

}  // namespace weir
