#include "cache/prefix_tree.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>

namespace weir {
namespace {

constexpr CacheSalt kNoSalt{};

std::vector<TokenId> tokens_from(TokenId first, int32_t count = kGridTokens) {
  std::vector<TokenId> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

struct PrefixTreeTest : testing::Test {
  BlockId add(BlockId parent, const std::vector<TokenId>& tokens, int32_t page, const CacheSalt& salt = kNoSalt) {
    const std::array pages{PageId(page)};
    return tree.insert(parent, salt, tokens, pages);
  }
  PrefixTree tree{8, kGridTokens, 1, 7};
};

TEST_F(PrefixTreeTest, FindsABlockBehindItsParentAlone) {
  const BlockId first = add({}, tokens_from(0), 3);
  tree.use(first);
  const BlockId second = add(first, tokens_from(0), 5);
  EXPECT_EQ(tree.find({}, kNoSalt, tokens_from(0)), first);
  EXPECT_EQ(tree.find(first, kNoSalt, tokens_from(0)), second);
  EXPECT_FALSE(tree.find(second, kNoSalt, tokens_from(0)).valid());
  EXPECT_FALSE(tree.find({}, kNoSalt, tokens_from(1)).valid());
  EXPECT_EQ(tree.pages(second).front(), PageId(5));
  EXPECT_EQ(tree.end(second), 2 * kGridTokens);
}

TEST_F(PrefixTreeTest, SaltsNeverMeet) {
  const BlockId mine = add({}, tokens_from(0), 0, {1, 0, 0, 0});
  EXPECT_FALSE(tree.find({}, kNoSalt, tokens_from(0)).valid());
  EXPECT_FALSE(tree.find({}, {0, 0, 0, 1}, tokens_from(0)).valid());
  EXPECT_EQ(tree.find({}, {1, 0, 0, 0}, tokens_from(0)), mine);
}

TEST_F(PrefixTreeTest, ThePartialBlockFoundIsTheLongest) {
  const BlockId first = add({}, tokens_from(0), 0);
  tree.use(first);
  add(first, tokens_from(100, 5), 1);
  const BlockId longer = add(first, tokens_from(100, 9), 2);
  add(first, tokens_from(200, 20), 3);
  EXPECT_EQ(tree.find_partial(first, kNoSalt, tokens_from(100, 30), false), longer);
  EXPECT_FALSE(tree.find_partial(first, kNoSalt, tokens_from(300, 30), false).valid());
  EXPECT_FALSE(tree.find_partial({}, kNoSalt, tokens_from(0), false).valid());
}

TEST_F(PrefixTreeTest, EvictsWhatWasUsedLongestAgoAndChildrenFirst) {
  const BlockId root = add({}, tokens_from(0), 0);
  tree.use(root);
  const BlockId left = add(root, tokens_from(100), 1);
  tree.use(left);
  const BlockId right = add(root, tokens_from(200), 2);
  tree.use(root);
  tree.use(right);
  EXPECT_FALSE(tree.oldest().valid());
  tree.release(left);
  tree.release(root);
  tree.release(right);
  tree.release(root);
  EXPECT_EQ(tree.evictable(), 3);
  EXPECT_DEATH(tree.remove(root), "2 children");
  for (const BlockId expected : {left, right, root}) {
    EXPECT_EQ(tree.oldest(), expected);
    tree.remove(tree.oldest());
  }
  EXPECT_EQ(tree.size(), 0);
  EXPECT_FALSE(tree.find({}, kNoSalt, tokens_from(0)).valid());
}

TEST_F(PrefixTreeTest, WhatNobodyCanGoOnFromIsEvictedFirst) {
  const BlockId old = add({}, tokens_from(500), 0);
  const BlockId root = add({}, tokens_from(0), 1);
  tree.use(root);
  const BlockId leaf = add(root, tokens_from(100), 2);
  tree.set_checkpoint(leaf, StateSlotId(0));
  tree.expose(root);  // in use
  tree.release(root);
  tree.expose(root);  // a child stands behind it
  tree.expose(leaf);  // has a checkpoint
  EXPECT_EQ(tree.oldest(), old);
  tree.take_checkpoint(leaf);
  tree.expose(leaf);
  EXPECT_EQ(tree.oldest(), leaf);
  tree.remove(leaf);
  tree.expose(root);
  EXPECT_EQ(tree.oldest(), root);
  tree.remove(root);
  EXPECT_EQ(tree.oldest(), old);
  tree.expose(old);
  EXPECT_EQ(tree.oldest(), old);
  tree.remove(old);
  EXPECT_FALSE(tree.oldest().valid());
}

TEST_F(PrefixTreeTest, CheckpointsHaveAnOrderOfTheirOwn) {
  const BlockId a = add({}, tokens_from(0), 0);
  const BlockId b = add({}, tokens_from(1), 1);
  tree.set_checkpoint(a, StateSlotId(4));
  tree.set_checkpoint(b, StateSlotId(5));
  EXPECT_EQ(tree.oldest_checkpoint(), a);
  tree.touch_checkpoint(a);
  EXPECT_EQ(tree.oldest_checkpoint(), b);
  EXPECT_DEATH(tree.remove(b), "still has a checkpoint");
  EXPECT_EQ(tree.take_checkpoint(b), StateSlotId(5));
  EXPECT_EQ(tree.oldest_checkpoint(), a);
  EXPECT_EQ(tree.checkpoints(), 1);
}

TEST_F(PrefixTreeTest, ACheckpointThatASequenceLeftBehindGoesFirst) {
  std::array<BlockId, 3> blocks;
  for (int32_t i = 0; i < 3; ++i) {
    blocks[static_cast<size_t>(i)] = add({}, tokens_from(i), i);
    tree.set_checkpoint(blocks[static_cast<size_t>(i)], StateSlotId(i));
  }
  const auto [a, b, c] = blocks;
  tree.supersede(c, tree.name(c), Worth::kDetours);
  EXPECT_EQ(tree.oldest_checkpoint(), c);
  tree.supersede(b, tree.name(b), Worth::kNothing);
  EXPECT_EQ(tree.oldest_checkpoint(), b);
  tree.supersede(b, tree.name(b), Worth::kDetours);  // is worth no more for that
  EXPECT_EQ(tree.oldest_checkpoint(), b);
  tree.touch_checkpoint(b);
  EXPECT_EQ(tree.oldest_checkpoint(), c);
  EXPECT_EQ(tree.take_checkpoint(c), StateSlotId(2));
  EXPECT_EQ(tree.oldest_checkpoint(), a);
}

TEST_F(PrefixTreeTest, ACheckpointThatMoreThanOneSequenceWentOnFromStays) {
  const BlockId old = add({}, tokens_from(500), 7);
  tree.set_checkpoint(old, StateSlotId(7));
  const BlockId forked = add({}, tokens_from(0), 0);
  tree.set_checkpoint(forked, StateSlotId(0));
  tree.use(forked);
  add(forked, tokens_from(100), 1);
  add(forked, tokens_from(200), 2);
  tree.supersede(forked, tree.name(forked), Worth::kNothing);
  EXPECT_EQ(tree.oldest_checkpoint(), old);

  const BlockId shared = add({}, tokens_from(1), 3);
  tree.set_checkpoint(shared, StateSlotId(3));
  tree.touch_checkpoint(shared);
  tree.touch_checkpoint(shared);
  tree.supersede(shared, tree.name(shared), Worth::kNothing);
  EXPECT_EQ(tree.oldest_checkpoint(), old);

  // Of a block that is gone nothing is known but its number, which may be another's now.
  const BlockId gone = add({}, tokens_from(2), 4);
  const uint64_t name = tree.name(gone);
  tree.remove(gone);
  tree.supersede(gone, name, Worth::kNothing);
  const BlockId other = add({}, tokens_from(3), 4);
  ASSERT_EQ(other, gone);
  tree.set_checkpoint(other, StateSlotId(4));
  tree.supersede(gone, name, Worth::kNothing);
  EXPECT_EQ(tree.oldest_checkpoint(), old);
}

TEST_F(PrefixTreeTest, AFullTreeAndABlockTwiceAreProgrammerErrors) {
  const BlockId block = add({}, tokens_from(0), 0);
  EXPECT_DEATH(add({}, tokens_from(0), 1), "already");
  EXPECT_DEATH(add(block, tokens_from(0), 1), "no child");
  for (TokenId i = 1; i < 8; ++i) add({}, tokens_from(i), i);
  EXPECT_DEATH(add({}, tokens_from(8), 8), "no room");
}

// Random paths of few distinct tokens against a map from whole prefixes to pages, with eviction whenever it is full.
TEST(PrefixTreeRandom, AgreesWithAMapOfPrefixes) {
  std::mt19937 random(11);
  PrefixTree tree(40, kGridTokens, 1, 3);
  std::map<std::vector<TokenId>, int32_t> known;
  std::map<int32_t, std::vector<TokenId>> prefix_of;  // by block
  int32_t hits = 0;
  int32_t evictions = 0;
  for (int32_t page = 0; page < 20000; ++page) {
    std::vector<TokenId> prefix;
    std::vector<BlockId> path;
    BlockId parent;
    const auto depth = static_cast<int32_t>(random() % 6) + 1;
    for (int32_t level = 0; level < depth; ++level) {
      const bool partial = level == depth - 1 && random() % 2 == 0;
      const auto tokens = tokens_from(static_cast<TokenId>(random() % 3),
                                      partial ? static_cast<int32_t>(1 + random() % 3) : kGridTokens);
      prefix.insert(prefix.end(), tokens.begin(), tokens.end());
      BlockId block = tree.find(parent, kNoSalt, tokens);
      const auto expected = known.find(prefix);
      ASSERT_EQ(block.valid(), expected != known.end());
      if (block.valid()) {
        ++hits;
        ASSERT_EQ(tree.pages(block).front(), PageId(expected->second));
        ASSERT_EQ(tree.end(block), static_cast<int64_t>(prefix.size()));
      } else {
        if (tree.size() == 40) {
          const BlockId oldest = tree.oldest();
          known.erase(prefix_of.at(oldest.value()));
          tree.remove(oldest);
          ++evictions;
        }
        const std::array pages{PageId(page)};
        block = tree.insert(parent, kNoSalt, tokens, pages);
        known[prefix] = page;
        prefix_of[block.value()] = prefix;
      }
      tree.use(block);
      path.push_back(block);
      parent = block;
    }
    std::for_each(path.rbegin(), path.rend(), [&](BlockId block) {
      tree.release(block);
      if (random() % 4 == 0) tree.expose(block);
    });
    ASSERT_EQ(tree.evictable(), tree.size());
    ASSERT_EQ(static_cast<size_t>(tree.size()), known.size());
  }
  EXPECT_GT(hits, 1000);
  EXPECT_GT(evictions, 1000);
}

}  // namespace
}  // namespace weir
