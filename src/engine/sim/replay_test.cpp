#include "engine/sim/replay.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <fstream>

namespace weir::sim {
namespace {

const char* const kTrace = "tests/data/traces/mooncake_conversation.jsonl";

Trace trace_of(TraceTurns turns) {
  return std::move(Trace::read(kTrace, INT64_MAX, turns)).value();
}

ReplayReport replayed(const Trace& trace, const ReplayConfig& config) {
  return std::move(replay(trace, config)).value();
}

double share(int64_t part, int64_t whole) {
  return static_cast<double>(part) / static_cast<double>(whole);
}

int64_t known(const Trace& trace) {
  int64_t tokens = 0;
  for (const TraceRequest& request : trace.requests()) tokens += request.known;
  return tokens;
}

// Counted once by a script that shares nothing with trace.cpp.
TEST(Trace, KnowsWhatEarlierPromptsBeganWith) {
  const Trace blocks = trace_of(TraceTurns::kBlocks);
  EXPECT_EQ(blocks.requests().size(), 600U);
  EXPECT_EQ(known(blocks), 1'423'187);
  EXPECT_EQ(known(trace_of(TraceTurns::kPrompts)), 1'444'375);
}

// What `known` says holds for the tokens that are made up, and the token behind them is another one.
TEST(Trace, ANextTurnBeginsWithThePromptAndTheAnswer) {
  const Trace trace = trace_of(TraceTurns::kAnswers);
  std::vector<TokenId> tokens;
  std::vector<TokenId> earlier;
  int32_t turns = 0;
  for (size_t r = 0; r < trace.requests().size(); ++r) {
    const TraceRequest& request = trace.requests()[r];
    if (request.goes_on < 0) continue;
    ++turns;
    const TraceRequest& before = trace.requests()[static_cast<size_t>(request.goes_on)];
    trace.prompt(static_cast<int32_t>(r), &tokens);
    trace.prompt(request.goes_on, &earlier);
    ASSERT_EQ(earlier.size(), static_cast<size_t>(before.input_length));
    if (before.next == static_cast<int32_t>(r)) {
      for (int32_t i = 0; i < before.output_length; ++i) earlier.push_back(trace.answer(request.goes_on, i));
    }
    const auto common = std::mismatch(tokens.begin(), tokens.end(), earlier.begin(), earlier.end()).first;
    ASSERT_GE(std::min<int64_t>(common - tokens.begin(), request.input_length - 1), request.known) << "request " << r;
  }
  EXPECT_GT(turns, 50);
}

TEST(Trace, ALineThatIsNotARequestIsRefusedByItsNumber) {
  const std::string path = testing::TempDir() + "weir_bad_trace.jsonl";
  std::ofstream(path) << R"({"timestamp": 0, "input_length": 600, "output_length": 1, "hash_ids": [0, 1]})"
                      << "\n"
                      << R"({"timestamp": 0, "input_length": 600, "output_length": 1, "hash_ids": [0]})"
                      << "\n";
  const Result<Trace> trace = Trace::read(path, INT64_MAX, TraceTurns::kBlocks);
  ASSERT_FALSE(trace.ok());
  EXPECT_EQ(trace.error().message, "line 2: hash_ids are not one for every 512 tokens");
  EXPECT_TRUE(Trace::read(path, 1, TraceTurns::kBlocks).ok());
}

TEST(Replay, CachesWithoutBoundsMatchWhatIsKnownAndReuseAllButTheWayFromAState) {
  const Trace trace = trace_of(TraceTurns::kPrompts);
  const ReplayReport report = replayed(trace, {});
  EXPECT_EQ(report.requests, 600);
  EXPECT_EQ(report.known_tokens, known(trace));
  EXPECT_LE(report.matched_tokens, report.known_tokens);
  EXPECT_GE(share(report.matched_tokens, report.known_tokens), 0.998);  // less where turns overlap in time
  EXPECT_GE(share(report.reused_tokens, report.known_tokens), 0.97);
  EXPECT_EQ(report.reused_tokens + report.lost_to_checkpoint, report.matched_tokens);
  EXPECT_EQ(report.lost_to_eviction, 0);
  EXPECT_EQ(report.evicted_blocks, 0);
  EXPECT_EQ(report.evicted_checkpoints, 0);
}

TEST(Replay, AModelWithoutStatesReusesWhatItMatches) {
  ReplayConfig config;
  config.has_states = false;
  const ReplayReport report = replayed(trace_of(TraceTurns::kPrompts), config);
  EXPECT_GE(share(report.reused_tokens, report.known_tokens), 0.995);  // whole pages alone
  EXPECT_EQ(report.lost_to_checkpoint, 0);
}

// 96 GiB where a page is 1.25 MiB and a state 80 MiB, a quarter of them states: about one for each conversation in the
// pages, while each leaves three on its way. Those that a later one has made useless must go first: if the oldest of
// all went, a quarter of what is known would be reused.
TEST(Replay, FewStatesServeManyConversations) {
  ReplayConfig config;
  config.pages = 58'982;
  config.states = 307;
  const ReplayReport report = replayed(trace_of(TraceTurns::kPrompts), config);
  EXPECT_GT(report.evicted_checkpoints, 1000);
  EXPECT_GE(share(report.reused_tokens, report.known_tokens), 0.68);
}

// The cache has pages for a tenth of what 256 rows would hold. However much of it is in use, a plan evicts a block for
// each page or slot that it takes and none beyond, and nothing is evicted between plans.
TEST(EvictionStorms, APlanOfATenfoldOversubscribedCacheEvictsNoMoreThanItTakes) {
  ReplayConfig config;
  config.rows = 256;
  config.pages = 5'000;
  config.states = 100;
  const ReplayReport report = replayed(trace_of(TraceTurns::kPrompts), config);
  EXPECT_EQ(report.requests + report.refused, 600);
  EXPECT_GE(report.requests, 595);
  EXPECT_GT(report.evicted_blocks, 20 * config.pages);
  EXPECT_GT(report.lost_to_eviction, 0);
  EXPECT_LE(report.plan_evicted_excess, 0);
  EXPECT_EQ(report.evicted_between_plans, 0);
}

TEST(EvictionStorms, PagesThatBecomeStatesCostAsManyBlocksAsAPlanTakesPages) {
  ReplayConfig config;
  config.rows = 256;
  config.units = 256 + 180;
  const ReplayReport report = replayed(trace_of(TraceTurns::kPrompts), config);
  EXPECT_EQ(report.requests + report.refused, 600);
  EXPECT_GT(report.evicted_blocks, 20'000);
  EXPECT_GT(report.evicted_checkpoints, 100);
  EXPECT_LE(report.plan_evicted_excess, 0);
  EXPECT_EQ(report.evicted_between_plans, 0);
}

// 48 GiB beside the rows' states. Fixed shares of a tenth of pages or of states reuse a fraction of what the best does.
TEST(Replay, SharedMemoryFindsNearlyTheBestShareOfPagesAndStates) {
  const Trace trace = trace_of(TraceTurns::kPrompts);
  const auto fixed = [&](int32_t tenths) {
    ReplayConfig config;
    config.pages = 614 * tenths / 10 * 64;
    config.states = 614 - 614 * tenths / 10;
    return replayed(trace, config).reused_tokens;
  };
  ReplayConfig config;
  config.units = config.rows + 614;
  const int64_t shared = replayed(trace, config).reused_tokens;
  int64_t best = 0;
  for (const int32_t tenths : {2, 3, 4, 5, 6, 7, 8}) best = std::max(best, fixed(tenths));
  std::printf("shared %lld, best %lld, 10 %% pages %lld, 90 %% pages %lld\n", static_cast<long long>(shared),
              static_cast<long long>(best), static_cast<long long>(fixed(1)), static_cast<long long>(fixed(9)));
  EXPECT_GE(share(shared, best), 0.9);
  EXPECT_LE(share(fixed(1), best), 0.8);
  EXPECT_LE(share(fixed(9), best), 0.8);
}

}  // namespace
}  // namespace weir::sim
