#include <gtest/gtest.h>

#include <array>
#include <numeric>
#include <utility>
#include <vector>

#include "cache/cache_memory.h"
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

TEST(PagePool, ASharedPageIsFreeWhenItsLastHolderIsGone) {
  PagePool pool(1, 1);
  EXPECT_FALSE(pool.take().valid());  // closed
  pool.open(0);
  const PageId page = pool.take();
  pool.share(page);
  pool.give_back(page);
  EXPECT_EQ(pool.free(), 0);
  pool.give_back(page);
  EXPECT_EQ(pool.free(), 1);
  EXPECT_DEATH(pool.give_back(page), "given back twice");
  EXPECT_DEATH(pool.share(page), "share of free page");
}

TEST(PagePool, TakesFromOneUnitWhileItCanAndThenFromTheEmptiest) {
  PagePool pool(3, 4);
  for (int32_t unit = 0; unit < 3; ++unit) pool.open(unit);
  std::vector<PageId> taken;
  for (int32_t i = 0; i < 12; ++i) taken.push_back(pool.take());
  EXPECT_FALSE(pool.take().valid());
  for (size_t i = 0; i < 12; ++i) EXPECT_EQ(pool.unit(taken[i]), pool.unit(taken[i / 4 * 4]));
  pool.give_back(PageId(0));
  pool.give_back(PageId(9));
  pool.give_back(PageId(10));
  EXPECT_EQ(pool.unit(pool.take()), 2);
  EXPECT_EQ(pool.unit(pool.take()), 2);
  EXPECT_EQ(pool.unit(pool.take()), 0);
}

// Two rows, at most two saves on the way: of ten units six may be pages.
struct SharedUnits : testing::Test {
  SharedUnits() {
    layout.classes = {{"kv", 1, 64}, {"draft", 1, 64}};
    layout.state_slot_bytes = 1;
    layout.pages_a_slot = 3;
    limits.rows_max = 2;
    limits.steps_in_flight = 1;
    limits.state_slots = 10;
    limits.pages = {30, 30};
  }
  CacheLayout layout;
  RunnerLimits limits;
};

TEST_F(SharedUnits, AUnitIsASlotOrPagesOfEveryClass) {
  CacheMemory memory(layout, limits);
  EXPECT_EQ(memory.pages_max(0), 18);
  EXPECT_FALSE(memory.take_page(0).valid());
  for (int32_t i = 0; i < 6; ++i) EXPECT_TRUE(memory.open_unit());
  EXPECT_FALSE(memory.open_unit());  // the others stay for slots
  std::vector<uint8_t> seen(10, 0);
  std::array<std::vector<PageId>, 2> pages;
  for (size_t c = 0; c < 2; ++c) {
    for (int32_t i = 0; i < 18; ++i) pages[c].push_back(memory.take_page(c));
    EXPECT_FALSE(memory.take_page(c).valid());
    for (const PageId page : pages[c]) seen[page.index() / 3] = 1;
  }
  for (int32_t i = 0; i < 4; ++i) EXPECT_EQ(std::exchange(seen[memory.take_slot().index()], 1), 0);
  EXPECT_FALSE(memory.take_slot().valid());
  // A unit can be a slot when both classes have given it back.
  for (const PageId page : pages[0]) memory.give_back_page(0, page);
  EXPECT_FALSE(memory.close_unit());
  for (const PageId page : pages[1]) memory.give_back_page(1, page);
  EXPECT_EQ(memory.slots_free(), 0);
  EXPECT_TRUE(memory.close_unit());
  EXPECT_EQ(memory.pages_free(0), 15);
  EXPECT_EQ(memory.pages_free(1), 15);
  EXPECT_TRUE(memory.take_slot().valid());
}

TEST_F(SharedUnits, FromAUnitThatIsToBecomeASlotNoPageIsTaken) {
  CacheMemory memory(layout, limits);
  ASSERT_TRUE(memory.open_unit() && memory.open_unit());
  const PageId first = memory.take_page(0);
  const int32_t unit = memory.pages(0).unit(first);
  memory.drain(unit);
  EXPECT_EQ(memory.pages_draining(), 2);
  for (int32_t i = 0; i < 3; ++i) EXPECT_NE(memory.pages(0).unit(memory.take_page(0)), unit);
  EXPECT_FALSE(memory.take_page(0).valid());
  EXPECT_TRUE(memory.stop_draining());
  EXPECT_EQ(memory.pages(0).unit(memory.take_page(0)), unit);
  EXPECT_FALSE(memory.stop_draining());
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

// Ten units of four pages, five of which may be pages: two rows, and one save on the way of each.
struct SharedMemory : Distrust {
  SharedMemory() {
    layout.classes = {{"kv", 1, kGridTokens}};
    layout.state_slot_bytes = 1;
    layout.pages_a_slot = 4;
    limits_.rows_max = 2;
    limits_.steps_in_flight = 2;
    limits_.state_slots = 10;
    limits_.pages = {40};
    limits_.sequence_tokens_max = 1280;
    tokens.resize(2000);
    std::iota(tokens.begin(), tokens.end(), 0);
    cache = SequenceCache(layout, limits_, {true, 1});
  }
  CacheLayout layout;
  RunnerLimits limits_;
};

TEST_F(SharedMemory, ARowAloneCanHaveEveryUnitThatMayBePages) {
  EXPECT_EQ(cache.tokens_alone_max(), 5 * 4 * kGridTokens);
  EXPECT_EQ(cache.pages_free(), 40);
  join(0, 64);
  // States are kept until the pages are asked for; the one that is on its way stays.
  for (int64_t end = 64; end <= 384; end += 64) {
    cache.order_save(RowId(0), end, &plan);
    ASSERT_TRUE(cache.grow(RowId(0), end, &plan));
    publish(0, end, false);
  }
  EXPECT_EQ(cache.checkpoints(), 6);
  cache.order_save(RowId(0), 1280, &plan);
  ASSERT_TRUE(cache.grow(RowId(0), 1280, &plan));
  EXPECT_LT(cache.checkpoints(), 6);
  EXPECT_FALSE(cache.grow(RowId(0), 1281, &plan));
  EXPECT_TRUE(cache.slot_free());  // for the other row
  cache.leave(RowId(0));
  EXPECT_EQ(cache.pages_used() + cache.slots_used(), 0);
}

// Four sequences of a unit of pages and a state each, told apart by their salts, and a row that then asks for pages
// which only one of them can give: its state's memory, or its last page.
struct Patience : SharedMemory {
  static constexpr int64_t kUnit = 4 * kGridTokens;
  static CacheSalt salt(int32_t sequence) { return {static_cast<uint64_t>(sequence), 0, 0, 0}; }
  PrefixMatch match(int32_t sequence) const { return cache.match(salt(sequence), std::span(tokens).first(kUnit)); }
  // What requests found missing: so much that patience changes eightfold.
  void lose(int64_t to_states, int64_t to_pages) {
    PrefixMatch found;
    found.matched = to_states;
    found.lost_to_eviction = to_pages;
    for (int32_t i = 0; i < 3 * 64; ++i) {
      cache.join(RowId(0), {}, found);
      cache.leave(RowId(0));
    }
  }
  void compute(int32_t row, int32_t sequence) {
    cache.join(RowId(row), salt(sequence), {});
    cache.adopt(RowId(row), kUnit, {}, &plan);
    cache.order_save(RowId(row), kUnit, &plan);
    publish(row, kUnit, false);
  }
  // The first sequence's row stays, if it is to: its pages cannot go then, and its state is older than all others'.
  void fill_and_ask(bool first_stays) {
    for (int32_t sequence = 1; sequence <= 4; ++sequence) {
      compute(sequence == 1 ? 1 : 0, sequence);
      if (sequence > 1 || !first_stays) cache.leave(RowId(sequence == 1 ? 1 : 0));
    }
    ASSERT_EQ(cache.checkpoints(), 4);
    cache.join(RowId(0), salt(5), {});
    cache.adopt(RowId(0), kGridTokens, {}, &plan);
  }
};

TEST_F(Patience, WherePagesAreWhatIsLostMemoryOfStatesIsTakenForThem) {
  fill_and_ask(false);
  EXPECT_LT(match(1).matched, kUnit);  // as old as its state
  cache = SequenceCache(layout, limits_, {true, 1});
  lose(0, kUnit);
  fill_and_ask(false);
  EXPECT_EQ(match(1).matched, kUnit);
}

TEST_F(Patience, WhereStatesAreWhatIsLostOlderOnesOutlivePages) {
  fill_and_ask(true);
  EXPECT_EQ(match(1).reused, 0);
  EXPECT_EQ(match(2).matched, kUnit);
  cache = SequenceCache(layout, limits_, {true, 1});
  lose(kUnit, 0);
  fill_and_ask(true);
  EXPECT_EQ(match(1).reused, kUnit);
  EXPECT_LT(match(2).matched, kUnit);
}

}  // namespace
}  // namespace weir
