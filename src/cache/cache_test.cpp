#include <gtest/gtest.h>

#include <numeric>
#include <utility>

#include "cache/id_pool.h"
#include "cache/sequence_cache.h"

namespace weir {
namespace {

TEST(IdPool, GivesEveryIdOnceAndTheLastReturnedFirst) {
  IdPool<PageId> pool(3);
  EXPECT_EQ(pool.take(), PageId(0));
  EXPECT_EQ(pool.take(), PageId(1));
  EXPECT_EQ(pool.take(), PageId(2));
  EXPECT_FALSE(pool.take().valid());
  pool.give_back(PageId(1));
  EXPECT_EQ(pool.used(), 2);
  EXPECT_EQ(pool.take(), PageId(1));
}

TEST(IdPool, ASharedIdIsFreeWhenItsLastHolderIsGone) {
  IdPool<PageId> pool(1);
  const PageId page = pool.take();
  pool.share(page);
  pool.give_back(page);
  EXPECT_EQ(pool.free(), 0);
  pool.give_back(page);
  EXPECT_EQ(pool.free(), 1);
  EXPECT_DEATH(pool.give_back(page), "given back twice");
  EXPECT_DEATH(pool.share(page), "share of free id");
}

struct TwoClasses : testing::Test {
  TwoClasses() {
    limits.rows_max = 2;
    limits.state_slots = 1;
    limits.pages = {4, 3};
    limits.sequence_tokens_max = 64;
  }
  CacheLayout layout{{{"kv", 1, 16}, {"draft", 1, 8}}, 1};
  RunnerLimits limits;
};

TEST_F(TwoClasses, GrowthTakesWhatLacksOfEveryClassOrNothing) {
  SequenceCache cache(layout, limits, {});
  EXPECT_EQ(cache.tokens_alone_max(), 24);
  StepPlan plan;
  EXPECT_TRUE(cache.grow(RowId(0), 17, &plan));
  ASSERT_EQ(plan.edits.size(), 2U);
  EXPECT_EQ(plan.edits[0].count, 2);
  EXPECT_EQ(plan.edits[1].count, 3);
  EXPECT_TRUE(cache.grow(RowId(0), 24, &plan));
  EXPECT_EQ(plan.edits.size(), 2U);
  // The first class has two pages left, the second none: nobody gets anything.
  EXPECT_FALSE(cache.grow(RowId(1), 1, &plan));
  EXPECT_EQ(cache.pages_used(), 5);
  EXPECT_EQ(plan.edits.size(), 2U);
  EXPECT_FALSE(cache.fits(1, 0, {}));
}

TEST_F(TwoClasses, LeavingGivesBackPagesAndSlot) {
  SequenceCache cache(layout, limits, {});
  StepPlan plan;
  EXPECT_TRUE(cache.slot_free());
  EXPECT_EQ(cache.join(RowId(1), {}, {}), StateSlotId(0));
  EXPECT_FALSE(cache.slot_free());
  EXPECT_TRUE(cache.grow(RowId(1), 24, &plan));
  cache.leave(RowId(1));
  EXPECT_EQ(cache.pages_used(), 0);
  EXPECT_EQ(cache.slots_used(), 0);
  EXPECT_TRUE(cache.fits(24, 0, {}));
  EXPECT_FALSE(cache.fits(24, 1, {}));
}

// Rows of a model with states, whose tokens are 0, 1, 2, ...
struct Distrust : testing::Test {
  Distrust() : tokens(1000), cache({{{"kv", 1, kGridTokens}}, 1}, limits(), {true, 1}) {
    std::iota(tokens.begin(), tokens.end(), 0);
  }
  static RunnerLimits limits() {
    RunnerLimits limits;
    limits.rows_max = 3;
    limits.state_slots = 6;
    limits.pages = {5};
    limits.sequence_tokens_max = 256;
    return limits;
  }
  PrefixMatch match() const { return cache.match({}, std::span(tokens).first(256)); }
  void join(int32_t row, int64_t token_count) {
    const PrefixMatch found = match();
    cache.join(RowId(row), {}, found);
    cache.adopt(RowId(row), token_count, found, &plan);
  }
  void publish(int32_t row, int64_t computed, bool sampled) {
    cache.publish(RowId(row), computed, sampled, [this](int64_t position, int64_t count) {
      return std::span<const TokenId>(tokens).subspan(static_cast<size_t>(position), static_cast<size_t>(count));
    });
  }

  std::vector<TokenId> tokens;
  SequenceCache cache;
  StepPlan plan;
};

// What is far from the match, or evicted there, leaves it as it is.
TEST_F(Distrust, AMatchIsCountedAsChangedByWhatIsOnItsWayAlone) {
  join(0, 192);
  publish(0, 64, false);
  PrefixMatch found = match();
  ASSERT_EQ(found.whole, 64);
  cache.watch(found);
  uint64_t seen = cache.changes();
  const auto moved = [&] { return std::exchange(seen, cache.changes()) != seen; };
  publish(0, 128, false);
  EXPECT_TRUE(moved());  // right behind it
  cache.watch(found);    // as if somebody else's tokens ended there
  publish(0, 192, false);
  EXPECT_FALSE(moved());  // behind what is right behind it
  cache.watch(match());
  cache.order_save(RowId(0), 128, &plan);
  EXPECT_FALSE(moved());
  publish(0, 192, false);
  EXPECT_TRUE(moved());  // a state on the way
  const int32_t idle = match().idle_blocks;
  cache.leave(RowId(0));
  found = match();
  EXPECT_GT(found.idle_blocks, idle);
  cache.watch(found);
  moved();
  PrefixMatch again = found;
  again.idle_blocks = 0;
  cache.count_idle(&again);
  EXPECT_EQ(again.idle_blocks, found.idle_blocks);
  ASSERT_TRUE(cache.grow(RowId(1), 256, &plan));  // takes the last block, and its page
  EXPECT_TRUE(moved());
}

TEST_F(Distrust, AStateThatABrokenRowLeftAtAnothersBlockIsNotFound) {
  join(0, 128);
  publish(0, 128, false);
  cache.leave(RowId(0));
  ASSERT_EQ(match().matched, 128);
  // No state is there: the next row computes the same blocks and leaves its states at them, and one inside a page.
  join(1, 128);
  cache.order_save(RowId(1), 64, &plan);
  publish(1, 64, false);
  cache.order_save(RowId(1), 100, &plan);
  cache.begin_work(RowId(1), 100, &plan);
  publish(1, 101, true);
  ASSERT_EQ(match().reused, 100);
  cache.distrust(RowId(1));
  cache.leave(RowId(1));
  EXPECT_EQ(match().reused, 0);
  EXPECT_EQ(match().matched, 128);
}

TEST_F(Distrust, TheStateThatABrokenRowWentOnFromIsNotFoundAgain) {
  join(0, 128);
  cache.order_save(RowId(0), 64, &plan);
  publish(0, 128, false);
  cache.leave(RowId(0));
  ASSERT_EQ(match().reused, 64);
  join(1, 128);
  cache.distrust(RowId(1));
  cache.leave(RowId(1));
  EXPECT_EQ(match().reused, 0);
  EXPECT_EQ(cache.checkpoints(), 0);
}

TEST_F(Distrust, APageThatTheTreeTookFromABrokenRowIsNotFound) {
  join(0, 64);
  join(1, 64);
  publish(0, 64, false);
  publish(1, 64, false);
  cache.leave(RowId(0));
  // The tree's page is given up for the other row's, as one more is needed than is free.
  join(2, 1);
  ASSERT_TRUE(cache.grow(RowId(2), 256, &plan));
  ASSERT_EQ(match().matched, 64);
  cache.distrust(RowId(1));
  EXPECT_EQ(match().matched, 0);
}

}  // namespace
}  // namespace weir
