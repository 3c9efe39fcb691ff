#include "sched/scheduler.h"

#include <gtest/gtest.h>

#include <memory>
#include <numeric>

namespace weir {
namespace {

RunnerLimits limits_of(int32_t rows, int32_t step_tokens, int32_t pages) {
  RunnerLimits limits;
  limits.rows_max = rows;
  limits.step_tokens_max = step_tokens;
  limits.state_slots = rows;
  limits.pages = {pages};
  limits.sequence_tokens_max = 1000;
  limits.vocabulary = 100;
  return limits;
}

SchedulerConfig config_of(int32_t requests, int64_t tokens, int32_t chunk_max, int64_t aging_us) {
  SchedulerConfig config;
  config.queue_requests_max = requests;
  config.queue_tokens_max = tokens;
  config.prefill_chunk_max = chunk_max;
  config.aging_us = aging_us;
  return config;
}

// A scheduler, and results that arrive at once.
struct Desk {
  explicit Desk(const RunnerLimits& limits, int32_t chunk_max = 0)
      : Desk(config_of(16, 10'000, chunk_max, 1000), limits) {}
  Desk(const SchedulerConfig& config, const RunnerLimits& limits)
      : scheduler(config, CacheLayout{{{"kv", 1, 64}}, 1}, limits) {
    scheduler.reserve(&plan, &owners);
  }

  int32_t add(int32_t prompt, int32_t max_tokens, int64_t arrival_us = 0, int32_t priority = 0) {
    SamplingParams sampling;
    sampling.max_tokens = max_tokens;
    const int32_t index = scheduler.add({++last_id, arrival_us, priority, &sampling});
    std::vector<TokenId> tokens(static_cast<size_t>(prompt));
    std::iota(tokens.begin(), tokens.end(), 0);
    scheduler.append_prompt(index, tokens);
    return index;
  }
  bool step() {
    plan.clear();
    return scheduler.plan(now_us, &plan, &owners);
  }
  // Every row that sampled got token 5.
  void settle() {
    const TokenId token = 5;
    for (size_t i = 0; i < owners.size(); ++i) {
      SequenceResult result;
      result.token_count = plan.work[i].sample ? 1 : 0;
      StopReason stop{};
      const auto tokens = std::span(&token, plan.work[i].sample ? 1U : 0U);
      const int32_t index = scheduler.settle(owners[i], result, tokens, now_us, &stop);
      if (stop != StopReason::kNone) scheduler.forget(index);
    }
  }
  std::vector<int32_t> counts() const {
    std::vector<int32_t> counts;
    for (const SequenceWork& work : plan.work) counts.push_back(work.token_count);
    return counts;
  }

  Scheduler scheduler;
  StepPlan plan;
  std::vector<WorkOwner> owners;
  SequenceId last_id = 0;
  int64_t now_us = 0;
};

using Counts = std::vector<int32_t>;

TEST(Scheduler, DecodesComeFirstAndPromptsShareTheRest) {
  Desk desk(limits_of(4, 20, 100));
  desk.add(3, 10);
  ASSERT_TRUE(desk.step());
  EXPECT_EQ(desk.counts(), Counts{3});
  EXPECT_TRUE(desk.plan.work[0].sample);
  desk.add(50, 10);
  desk.add(4, 10);
  ASSERT_TRUE(desk.step());  // the first step's token is not known yet
  EXPECT_EQ(desk.counts(), (Counts{1, 19}));
  EXPECT_EQ(desk.plan.work[0].first_token, -1);
  EXPECT_EQ(desk.plan.work[0].position, 3);
  EXPECT_EQ(desk.plan.token_total(), 20);
}

TEST(Scheduler, AChunkThatDoesNotFinishEndsOnTheGrid) {
  Desk desk(limits_of(2, 100, 100));
  desk.add(150, 1);
  ASSERT_TRUE(desk.step());
  EXPECT_EQ(desk.counts(), Counts{64});
  ASSERT_TRUE(desk.step());
  EXPECT_EQ(desk.counts(), Counts{86});
  EXPECT_TRUE(desk.plan.work[0].sample);
  EXPECT_FALSE(desk.step());
}

TEST(Scheduler, TheChunkCapLetsAShortPromptThrough) {
  Desk desk(limits_of(4, 100, 100), 32);
  desk.add(500, 1);
  desk.add(10, 1);
  ASSERT_TRUE(desk.step());
  EXPECT_EQ(desk.counts(), (Counts{32, 10}));
}

TEST(Scheduler, PriorityGoesFirstUntilAgeOutweighsIt) {
  Desk desk(limits_of(1, 20, 100));
  const int32_t old = desk.add(1, 1, 0, 3);        // due at 3000
  const int32_t urgent = desk.add(1, 1, 2500, 0);  // due at 2500
  const int32_t late = desk.add(1, 1, 3500, 0);    // due at 3500: the old one has waited long enough
  std::vector<int32_t> order;
  while (desk.step()) {
    order.push_back(desk.owners[0].index);
    desk.settle();
  }
  EXPECT_EQ(order, (std::vector<int32_t>{urgent, old, late}));
  EXPECT_EQ(desk.scheduler.counters().overtakes, 1);
  EXPECT_EQ(desk.scheduler.counters().promotions, 1);
}

TEST(Scheduler, WithoutPagesTheLastInTheOrderIsRecomputedInTwoRoles) {
  Desk desk(limits_of(2, 200, 4));
  desk.add(60, 150, 0);
  const int32_t second = desk.add(60, 150, 1);
  int32_t steps = 0;
  while (desk.scheduler.counters().preemptions == 0) {
    ASSERT_TRUE(desk.step());
    desk.settle();
    ASSERT_LT(++steps, 200);
  }
  // The first fills its second page and needs a third when the other holds two.
  EXPECT_EQ(desk.scheduler.sequence(second).phase, Phase::kPreempted);
  EXPECT_EQ(desk.scheduler.running(), 1);
  const int32_t generated = desk.scheduler.sequence(second).generated;
  while (desk.scheduler.preempted() > 0) {
    ASSERT_TRUE(desk.step());
    if (desk.scheduler.preempted() > 0) desk.settle();
  }
  EXPECT_EQ(desk.plan.work.back().role, RowRole::kPrompt);
  EXPECT_EQ(desk.plan.work.back().token_count, 60);
  EXPECT_FALSE(desk.plan.work.back().sample);
  desk.settle();
  ASSERT_TRUE(desk.step());
  EXPECT_EQ(desk.plan.work.back().role, RowRole::kGenerated);
  EXPECT_EQ(desk.plan.work.back().token_count, generated);
  EXPECT_TRUE(desk.plan.work.back().sample);
  EXPECT_EQ(desk.plan.tokens.back(), 5);
  EXPECT_EQ(desk.scheduler.counters().recomputed_tokens, 60 + generated - 1);
}

TEST(Scheduler, APromptIsAdmittedOnlyIfEveryRunningSequenceKeepsAPage) {
  Desk desk(limits_of(3, 200, 4));
  desk.add(64, 10, 0);
  desk.add(64, 10, 1);
  desk.add(64, 10, 2);
  ASSERT_TRUE(desk.step());
  // One page and one to spare for the first, then two held and one to spare: the third would leave nothing.
  EXPECT_EQ(desk.counts(), (Counts{64, 64}));
}

TEST(Scheduler, LimitsThatCannotServeAreRefusedWithARemedy) {
  const SchedulerConfig config = config_of(1, 1, 0, 1);
  const CacheLayout layout{{{"kv", 1, 64}}, 1};
  EXPECT_TRUE(Scheduler::check(config, layout, limits_of(2, 2, 1)).ok());
  EXPECT_FALSE(Scheduler::check(config, layout, limits_of(2, 1, 1)).ok());
  EXPECT_FALSE(Scheduler::check(config, layout, limits_of(2, 2, 0)).ok());
  EXPECT_FALSE(Scheduler::check(config, layout, limits_of(0, 2, 1)).ok());
  EXPECT_FALSE(Scheduler::check(config_of(1, 1, 0, 0), layout, limits_of(2, 2, 1)).ok());
}

// The prompt is 1,000 tokens long; the template's last two differ from turn to turn.
struct Burst : testing::Test {
  Burst() {
    RunnerLimits limits = limits_of(8, 512, 200);
    limits.state_slots = 16;
    limits.sequence_tokens_max = 2000;
    SchedulerConfig config = config_of(16, 100'000, 0, 1000);
    config.prefix_caching = true;
    config.reuse_generated = true;
    desk = std::make_unique<Desk>(config, limits);
  }
  int32_t add(int32_t common, TokenId own) {
    SamplingParams sampling;
    sampling.max_tokens = 3;
    const int32_t index = desk->scheduler.add({++desk->last_id, 0, 0, &sampling, {}, 2});
    std::vector<TokenId> tokens(1000, own);
    std::iota(tokens.begin(), tokens.begin() + common, 0);
    desk->scheduler.append_prompt(index, tokens);
    return index;
  }
  // Prompt tokens computed until nothing is left to do.
  int64_t computed() {
    int64_t tokens = 0;
    while (desk->step()) {
      for (const SequenceWork& work : desk->plan.work) tokens += work.role == RowRole::kPrompt ? work.token_count : 0;
      desk->settle();
    }
    return tokens;
  }
  std::unique_ptr<Desk> desk;
};

TEST_F(Burst, OfOnePromptComputesItOnce) {
  for (int i = 0; i < 6; ++i) add(1000, 7);
  EXPECT_EQ(computed(), 1000 + 5 * 2);
  EXPECT_EQ(desk->scheduler.counters().reused_tokens, 5 * 998);
}

TEST_F(Burst, OfOneBeginningComputesThatOnce) {
  for (int i = 0; i < 6; ++i) add(700, 2000 + i);
  // Known as far as the last whole block of 64.
  EXPECT_EQ(computed(), 1000 + 5 * (1000 - 640));
}

TEST_F(Burst, OfDifferentPromptsDoesNotWait) {
  for (int i = 0; i < 2; ++i) add(100, 2000 + i);
  ASSERT_TRUE(desk->step());
  EXPECT_EQ(desk->counts(), Counts{512});
  desk->settle();
  ASSERT_TRUE(desk->step());
  EXPECT_EQ(desk->plan.work.size(), 2U);  // what the first leaves of the step is the second's
}

// The second waits for pages, all the while the first decodes and leaves blocks of its own. Both begin alike.
TEST(Lookups, OfASequenceThatWaitsAreRepeatedOnlyWhenItsOwnPrefixChanges) {
  for (const bool remember : {true, false}) {
    RunnerLimits limits = limits_of(4, 512, 9);
    limits.state_slots = 8;
    SchedulerConfig config = config_of(16, 100'000, 0, 1000);
    config.prefix_caching = true;
    config.reuse_generated = true;
    config.remember_lookups = remember;
    Desk desk(config, limits);
    desk.add(70, 300, 0);
    desk.add(500, 1, 1);
    int64_t steps = 0;
    for (; desk.scheduler.waiting() > 0; ++steps) {
      ASSERT_TRUE(desk.step());
      ASSERT_EQ(desk.plan.work.size(), 1U);  // the second comes when the first has left
      desk.settle();
    }
    EXPECT_EQ(steps, 301);  // the first's prompt, its 299 other tokens, the second
    const SchedulerCounters& counters = desk.scheduler.counters();
    EXPECT_EQ(counters.matched_tokens, 69);  // all of the first's prompt that was kept
    if (!remember) {
      EXPECT_GE(counters.lookups, 300);
      continue;
    }
    // The first's own lookup; then at the start, when the first block became known, when one behind it did and when the
    // state at the prompt's end did.
    EXPECT_LE(counters.lookups, 5);
    EXPECT_LE(counters.comparisons, 1);
  }
}

TEST(OrderedQueue, KeepsOrderWhateverTheOrderOfInsertion) {
  OrderedQueue queue(5);
  const std::vector<int64_t> dues = {30, 10, 20, 10, 50};
  for (size_t i = 0; i < dues.size(); ++i) queue.insert({dues[i], i + 1}, static_cast<int32_t>(i));
  queue.remove({20, 3});
  std::vector<int32_t> order;
  for (int32_t i = 0; i < queue.size(); ++i) order.push_back(queue.at(i).index);
  EXPECT_EQ(order, (std::vector<int32_t>{1, 3, 0, 4}));
  EXPECT_DEATH(queue.remove({20, 3}), "not in the queue");
}

TEST(TokenStore, ListsReadBackAcrossBlocksAndBlocksReturn) {
  TokenStore store(1000, 3);
  TokenList first;
  TokenList second;
  std::vector<TokenId> tokens(300);
  std::iota(tokens.begin(), tokens.end(), 0);
  store.append(&first, tokens);
  store.append(&second, std::span(tokens).first(10));
  store.append(&first, tokens);
  EXPECT_EQ(first.count, 600);
  EXPECT_EQ(store.blocks_used(), 4);
  std::vector<TokenId> out;
  store.read(&first, 250, 100, &out);
  store.read(&first, 10, 3, &out);  // backwards: from the head again
  ASSERT_EQ(out.size(), 103U);
  EXPECT_EQ(out[0], 250);
  EXPECT_EQ(out[50], 0);
  EXPECT_EQ(out[100], 10);
  store.clear(&first);
  EXPECT_EQ(store.blocks_used(), 1);
  for (int i = 0; i < 100; ++i) {
    store.append(&first, tokens);
    store.clear(&first);
  }
  EXPECT_EQ(store.blocks_used(), 1);
}

}  // namespace
}  // namespace weir
