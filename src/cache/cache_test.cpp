#include <gtest/gtest.h>

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

}  // namespace
}  // namespace weir
