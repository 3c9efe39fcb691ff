#include "cache/prefix_tree.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "base/check.h"
#include "base/planted.h"

namespace weir {

PrefixTree::PrefixTree(int32_t blocks_max, int32_t block_tokens, int32_t page_classes, uint64_t seed)
    : seed_(seed),
      block_tokens_(block_tokens),
      page_classes_(page_classes),
      blocks_(static_cast<size_t>(blocks_max)),
      pages_(static_cast<size_t>(blocks_max) * static_cast<size_t>(page_classes)),
      buckets_(std::bit_ceil(std::max<size_t>(2 * static_cast<size_t>(blocks_max), 2)), -1) {
  WEIR_CHECK(block_tokens >= 1 && block_tokens <= kGridTokens, "blocks of {} tokens", block_tokens);
  for (int32_t i = blocks_max - 1; i >= 0; --i) {
    blocks_[static_cast<size_t>(i)].next_in_bucket = free_;
    free_ = i;
  }
}

PrefixTree::Block& PrefixTree::at(BlockId block) {
  return const_cast<Block&>(std::as_const(*this).at(block));
}

const PrefixTree::Block& PrefixTree::at(BlockId block) const {
  WEIR_CHECK(block.valid() && block.index() < blocks_.size() && blocks_[block.index()].token_count > 0,
             "block {} is not in the tree", block.value());
  return blocks_[block.index()];
}

uint64_t PrefixTree::name_at_start(const CacheSalt& salt) const {
  return XXH3_64bits_withSeed(salt.data(), sizeof(salt), seed_);
}

uint64_t PrefixTree::name_behind(uint64_t parent, std::span<const TokenId> tokens) {
  return XXH3_64bits_withSeed(tokens.data(), tokens.size_bytes(), parent);
}

uint64_t PrefixTree::name(BlockId parent, const CacheSalt& salt, std::span<const TokenId> tokens) const {
  return name_behind(parent.valid() ? at(parent).name : name_at_start(salt), tokens);
}

bool PrefixTree::is(const Block& block, uint64_t name, BlockId parent, const CacheSalt& salt,
                    std::span<const TokenId> tokens) const {
  return block.name == name && block.parent == parent && static_cast<size_t>(block.token_count) == tokens.size() &&
         (parent.valid() || block.salt == salt) && std::equal(tokens.begin(), tokens.end(), block.tokens.begin());
}

BlockId PrefixTree::look_up(uint64_t name, BlockId parent, const CacheSalt& salt,
                            std::span<const TokenId> tokens) const {
  for (int32_t i = buckets_[bucket(name)]; i >= 0; i = blocks_[static_cast<size_t>(i)].next_in_bucket) {
    if (is(blocks_[static_cast<size_t>(i)], name, parent, salt, tokens)) return BlockId(i);
  }
  return {};
}

BlockId PrefixTree::find(BlockId parent, const CacheSalt& salt, std::span<const TokenId> tokens) const {
  return look_up(name(parent, salt, tokens), parent, salt, tokens);
}

BlockId PrefixTree::find_partial(BlockId parent, const CacheSalt& salt, std::span<const TokenId> tokens,
                                 bool with_checkpoint) const {
  if ((parent.valid() ? at(parent).partial_children : partial_at_start_) == 0) return {};
  for (size_t count = std::min(tokens.size(), static_cast<size_t>(block_tokens_ - 1)); count > 0; --count) {
    if (const BlockId found = find(parent, salt, tokens.first(count));
        found.valid() && (!with_checkpoint || at(found).checkpoint.valid())) {
      return found;
    }
  }
  return {};
}

BlockId PrefixTree::insert(BlockId parent, const CacheSalt& salt, std::span<const TokenId> tokens,
                           std::span<const PageId> pages) {
  WEIR_CHECK(free_ >= 0, "no room for another block than {}", size_);
  WEIR_CHECK(!tokens.empty() && tokens.size() <= static_cast<size_t>(block_tokens_) &&
                 pages.size() == static_cast<size_t>(page_classes_),
             "a block of {} tokens and {} pages", tokens.size(), pages.size());
  WEIR_CHECK(!parent.valid() || (full(parent) && at(parent).users > 0), "block {} can have no child now",
             parent.value());
  const uint64_t name = this->name(parent, salt, tokens);
  WEIR_CHECK(!look_up(name, parent, salt, tokens).valid(), "the block is in the tree already");
  const int32_t index = free_;
  Block& block = blocks_[static_cast<size_t>(index)];
  free_ = block.next_in_bucket;
  block = Block{};
  block.name = name;
  if (!parent.valid()) block.salt = salt;
  block.parent = parent;
  block.token_count = static_cast<int32_t>(tokens.size());
  block.end = (parent.valid() ? at(parent).end : 0) + block.token_count;
  std::copy(tokens.begin(), tokens.end(), block.tokens.begin());
  std::copy(pages.begin(), pages.end(), pages_.begin() + static_cast<ptrdiff_t>(index) * page_classes_);
  block.next_in_bucket = buckets_[bucket(name)];
  buckets_[bucket(name)] = index;
  const bool partial = block.token_count < block_tokens_;
  if (parent.valid()) {
    ++at(parent).children;
    append(&at(parent).behind, &Block::by_parent, index);
  }
  if (partial) ++(parent.valid() ? at(parent).partial_children : partial_at_start_);
  append(&by_use_, &Block::by_use, index);
  block.used_at = ++inserted_;
  ++evictable_;
  ++size_;
  if (!planted(PlantedBug::kStaleLookup)) count_change(block);
  return BlockId(index);
}

void PrefixTree::remove(BlockId id) {
  Block& block = at(id);
  WEIR_CHECK(block.users == 0 && block.children == 0, "block {} has {} users and {} children", id.value(), block.users,
             block.children);
  WEIR_CHECK(!block.checkpoint.valid(), "block {} still has a checkpoint", id.value());
  count_change(block);
  take_out(&by_use_, &Block::by_use, id.value());
  --evictable_;
  --size_;
  if (block.parent.valid()) {
    --at(block.parent).children;
    take_out(&at(block.parent).behind, &Block::by_parent, id.value());
  }
  if (block.token_count < block_tokens_) {
    --(block.parent.valid() ? at(block.parent).partial_children : partial_at_start_);
  }
  if (!block.hidden) leave_bucket(id);
  block.token_count = 0;
  block.next_in_bucket = free_;
  free_ = id.value();
}

void PrefixTree::leave_bucket(BlockId id) {
  const Block& block = at(id);
  int32_t* link = &buckets_[bucket(block.name)];
  while (*link != id.value()) link = &blocks_[static_cast<size_t>(*link)].next_in_bucket;
  *link = block.next_in_bucket;
}

void PrefixTree::hide(BlockId id) {
  Block& block = at(id);
  if (block.hidden) return;
  leave_bucket(id);
  block.hidden = true;
  count_change(block);
}

void PrefixTree::watch(BlockId last) {
  ++walk_;
  for (BlockId block = last; block.valid(); block = at(block).parent) at(block).watched = walk_;
}

// Sequences that go their own way change blocks that are far from the walk: most of what changes is not counted.
void PrefixTree::count_change(const Block& block) {
  if (!block.parent.valid() || block.watched == walk_ || at(block.parent).watched == walk_) ++changes_;
}

void PrefixTree::set_pages(BlockId block, std::span<const PageId> pages) {
  at(block);
  WEIR_CHECK(pages.size() == static_cast<size_t>(page_classes_), "{} pages for {} classes", pages.size(),
             page_classes_);
  std::copy(pages.begin(), pages.end(), pages_.begin() + static_cast<ptrdiff_t>(block.index()) * page_classes_);
}

void PrefixTree::use(BlockId id) {
  Block& block = at(id);
  if (block.users++ > 0) return;
  take_out(&by_use_, &Block::by_use, id.value());
  --evictable_;
}

void PrefixTree::release(BlockId id) {
  Block& block = at(id);
  WEIR_CHECK(block.users > 0, "block {} released once more than used", id.value());
  if (--block.users > 0) return;
  append(&by_use_, &Block::by_use, id.value());
  block.used_at = inserted_;
  ++evictable_;
}

void PrefixTree::expose(BlockId id) {
  Block& block = at(id);
  if (block.users > 0 || block.children > 0 || block.checkpoint.valid()) return;
  take_out(&by_use_, &Block::by_use, id.value());
  prepend(&by_use_, &Block::by_use, id.value());
  block.used_at = 0;
}

BlockId PrefixTree::leaf_behind(BlockId block) const {
  while (at(block).behind.first >= 0) block = BlockId(at(block).behind.first);
  return block;
}

void PrefixTree::set_checkpoint(BlockId id, StateSlotId slot) {
  Block& block = at(id);
  WEIR_CHECK(slot.valid() && !block.checkpoint.valid(), "block {} has a checkpoint already", id.value());
  block.checkpoint = slot;
  block.worth = Worth::kUse;
  block.restores = 0;
  append(checkpoints_of(block), &Block::by_checkpoint, id.value());
  block.checkpoint_used_at = inserted_;
  ++checkpoints_of_[static_cast<size_t>(block.worth)];
  ++checkpoints_;
  count_change(block);
}

StateSlotId PrefixTree::take_checkpoint(BlockId id) {
  Block& block = at(id);
  WEIR_CHECK(block.checkpoint.valid(), "block {} has no checkpoint", id.value());
  const StateSlotId slot = block.checkpoint;
  block.checkpoint = {};
  take_out(checkpoints_of(block), &Block::by_checkpoint, id.value());
  --checkpoints_of_[static_cast<size_t>(block.worth)];
  --checkpoints_;
  count_change(block);
  return slot;
}

void PrefixTree::touch_checkpoint(BlockId id) {
  Block& block = at(id);
  WEIR_CHECK(block.checkpoint.valid(), "block {} has no checkpoint", id.value());
  ++block.restores;
  move_checkpoint(id, Worth::kUse);
}

void PrefixTree::refresh_checkpoint(BlockId id, uint64_t name) {
  if (has(id, name) && at(id).checkpoint.valid()) move_checkpoint(id, at(id).worth);
}

void PrefixTree::supersede(BlockId id, uint64_t name, Worth worth) {
  if (!has(id, name)) return;
  const Block& block = at(id);
  if (!block.checkpoint.valid() || block.worth <= worth) return;
  if (block.children <= 1 && block.restores <= 1) move_checkpoint(id, worth);
}

// To the end of those that are worth as much.
void PrefixTree::move_checkpoint(BlockId id, Worth worth) {
  Block& block = at(id);
  take_out(checkpoints_of(block), &Block::by_checkpoint, id.value());
  --checkpoints_of_[static_cast<size_t>(block.worth)];
  ++checkpoints_of_[static_cast<size_t>(worth)];
  block.worth = worth;
  block.checkpoint_used_at = inserted_;
  append(checkpoints_of(block), &Block::by_checkpoint, id.value());
}

BlockId PrefixTree::oldest_checkpoint() const {
  for (const IndexOrder& order : by_checkpoint_) {
    if (order.first >= 0) return BlockId(order.first);
  }
  return {};
}

std::span<const PageId> PrefixTree::pages(BlockId block) const {
  at(block);
  return std::span(pages_).subspan(block.index() * static_cast<size_t>(page_classes_),
                                   static_cast<size_t>(page_classes_));
}

void PrefixTree::append(IndexOrder* order, OrderLink Block::* link, int32_t index) {
  order->append(index, [&](int32_t i) -> OrderLink& { return blocks_[static_cast<size_t>(i)].*link; });
}

void PrefixTree::prepend(IndexOrder* order, OrderLink Block::* link, int32_t index) {
  order->prepend(index, [&](int32_t i) -> OrderLink& { return blocks_[static_cast<size_t>(i)].*link; });
}

void PrefixTree::take_out(IndexOrder* order, OrderLink Block::* link, int32_t index) {
  order->take_out(index, [&](int32_t i) -> OrderLink& { return blocks_[static_cast<size_t>(i)].*link; });
}

}  // namespace weir
