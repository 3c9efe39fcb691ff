#include "engine/engine_test.h"

#include "engine/shared.h"

namespace weir {
namespace {

TEST(Engine, EverySequenceGetsTheAnswerThatItGetsAlone) {
  Bench bench;
  std::map<SequenceId, std::vector<TokenId>> prompts;
  for (int32_t i = 0; i < 12; ++i) {
    const auto prompt = tokens_of(1 + i * 11, i);
    prompts[bench.submit(prompt, 20)] = prompt;
  }
  bench.run_until_idle();
  for (const auto& [id, prompt] : prompts) {
    EXPECT_EQ(bench.outputs[id].tokens, alone(prompt, 20, id));
    EXPECT_EQ(bench.outputs[id].last.finish, FinishReason::kLength);
    EXPECT_EQ(bench.outputs[id].ends, 1);
  }
  const EngineStats stats = bench.client.stats();
  EXPECT_EQ(stats.pages_used + stats.slots_used + stats.waiting + stats.token_blocks_used, 0);
  EXPECT_EQ(stats.generated_tokens, 240);
}

TEST(Engine, StopIdEndsAndIsDelivered) {
  Bench bench;
  const auto prompt = tokens_of(5);
  GenerateHeader header = Bench::request(30);
  const auto expected = alone(prompt, 30, 1);
  header.sampling.stop_id_count = 1;
  header.sampling.stop_ids[0] = expected[10];
  const SequenceId id = bench.submit(prompt, header);
  bench.run_until_idle();
  EXPECT_EQ(bench.outputs[id].tokens, std::vector<TokenId>(expected.begin(), expected.begin() + 11));
  EXPECT_EQ(bench.outputs[id].last.finish, FinishReason::kStop);
}

TEST(Engine, MaxTokensZeroComputesThePromptAndItsLogProbabilities) {
  Bench bench;
  const auto prompt = tokens_of(100);
  GenerateHeader header = Bench::request(0);
  header.sampling.prompt_logprobs = 3;
  const SequenceId id = bench.submit(prompt, header);
  bench.run_until_idle();
  const Output& out = bench.outputs[id];
  EXPECT_TRUE(out.tokens.empty());
  EXPECT_EQ(out.last.finish, FinishReason::kLength);
  const auto expected = sim::answer(prompt, header.sampling, kContext, kVocabulary);
  ASSERT_EQ(out.prompt_logprobs.size(), 99U);
  for (size_t i = 0; i < 99; ++i) EXPECT_EQ(out.prompt_logprobs[i].token, prompt[i + 1]);
}

TEST(Engine, LogProbabilitiesComeWithTheirToken) {
  Bench bench;
  GenerateHeader header = Bench::request(8);
  header.sampling.logprobs = 5;
  const SequenceId id = bench.submit(tokens_of(3), header);
  const SequenceId other = bench.submit(tokens_of(4), 8);
  bench.run_until_idle();
  EXPECT_EQ(bench.outputs[id].top.size(), 40U);
  EXPECT_TRUE(bench.outputs[other].top.empty());
}

TEST(Engine, TheEndOfTheContextEndsWithLength) {
  Bench bench;
  const auto prompt = tokens_of(250);
  const SequenceId id = bench.submit(prompt, 1000);
  bench.run_until_idle();
  EXPECT_EQ(bench.outputs[id].tokens.size(), 6U);
  EXPECT_EQ(bench.outputs[id].last.finish, FinishReason::kLength);
}

TEST(Engine, WhatCanNeverRunIsRefusedWithNumbers) {
  RunnerLimits limits = small_limits();
  limits.pages = {10};  // 160 tokens, less than the context
  Bench bench(limits);
  EXPECT_EQ(bench.client.sequence_tokens_max(), 160);
  GenerateHeader header = Bench::request(1);
  const Status status = bench.try_submit(&header, tokens_of(160));
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kInvalidArgument);
  EXPECT_NE(status.error().message.find("160"), std::string::npos);
  EXPECT_EQ(bench.client.stats().waiting + bench.client.stats().reserved, 0);
  header.sampling.max_tokens = 0;
  EXPECT_TRUE(bench.try_submit(&header, tokens_of(160)).ok());
  bench.run_until_idle();
}

TEST(Engine, AFullQueueRefusesBeforeAnyWork) {
  EngineConfig config;
  config.queue_requests_max = 3;
  Bench bench(small_limits(), config);
  Ticket two = std::move(bench.client.try_reserve(2)).value();
  Ticket one = std::move(bench.client.try_reserve(1)).value();
  EXPECT_EQ(bench.client.try_reserve(1).error().code, ErrorCode::kExhausted);
  EXPECT_EQ(bench.client.try_reserve(4).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(bench.client.stats().refused_full, 1);
  two = Ticket();
  EXPECT_TRUE(bench.client.try_reserve(2).ok());
  one = Ticket();
  EXPECT_EQ(bench.client.stats().reserved, 0);
}

TEST(Engine, QueuedPromptTokensAreBounded) {
  EngineConfig config;
  config.queue_tokens_max = 100;
  Bench bench(small_limits(), config);
  GenerateHeader header = Bench::request(1);
  EXPECT_TRUE(bench.try_submit(&header, tokens_of(60)).ok());
  EXPECT_EQ(bench.try_submit(&header, tokens_of(60)).error().code, ErrorCode::kExhausted);
  bench.turn();
  EXPECT_EQ(bench.client.stats().waiting_tokens, 0);
  EXPECT_TRUE(bench.try_submit(&header, tokens_of(60)).ok());
  bench.run_until_idle();
}

TEST(Engine, ACancelFreesPagesWithinATurnInEveryPhase) {
  Bench bench;
  // Four decode, one waits; a sixth is cancelled before the engine ever saw it.
  std::vector<SequenceId> ids;
  for (int32_t i = 0; i < 5; ++i) ids.push_back(bench.submit(tokens_of(10, i), 100));
  bench.turns(8);
  EXPECT_EQ(bench.client.stats().running, 4);
  ids.push_back(bench.submit(tokens_of(10), 100));
  for (const SequenceId id : ids) bench.client.cancel(id);
  bench.turn();
  EXPECT_EQ(bench.client.stats().pages_used, 0);
  EXPECT_EQ(bench.client.stats().running + bench.client.stats().waiting, 0);
  for (const SequenceId id : ids) EXPECT_EQ(bench.outputs[id].last.finish, FinishReason::kAbort);
  // A prompt that takes several steps is cancelled between two of them.
  const SequenceId prefilling = bench.submit(tokens_of(200), 1);
  bench.turn();
  EXPECT_GT(bench.client.stats().pages_used, 0);
  bench.client.cancel(prefilling);
  bench.turn();
  EXPECT_EQ(bench.client.stats().pages_used, 0);
  bench.run_until_idle();
}

TEST(Engine, CancelsWithoutRoomAreKeptAndSentLater) {
  EngineConfig config;
  config.queue_requests_max = 1;
  Bench bench(small_limits(), config);
  const SequenceId id = bench.submit(tokens_of(3), 50);
  // More than any ring of commands holds, with no turn between.
  for (int i = 0; i < 400'000; ++i) bench.client.cancel(bench.client.next_id() % 3 + 1'000'000);
  bench.client.cancel(id);
  bench.turns(3);
  EXPECT_EQ(bench.outputs[id].last.finish, FinishReason::kAbort);
  bench.run_until_idle();
}

TEST(Engine, ARankFaultEndsEverythingWithItsText) {
  Bench bench;
  const SequenceId id = bench.submit(tokens_of(3), 50);
  bench.turns(5);
  bench.runner.fail_next();
  bench.turns(10);
  EXPECT_EQ(bench.outputs[id].last.finish, FinishReason::kError);
  EXPECT_NE(bench.outputs[id].message.find("planted fault"), std::string::npos);
  EXPECT_TRUE(bench.client.stats().faulted);
  EXPECT_EQ(bench.client.try_reserve(1).error().code, ErrorCode::kUnavailable);
}

TEST(Engine, AServerThatDoesNotReadStopsTheEngineAndLosesNothing) {
  EngineConfig config;
  config.event_ring_bytes = 1;
  Bench bench(small_limits(), config);
  std::vector<SequenceId> ids;
  for (int32_t i = 0; i < 4; ++i) ids.push_back(bench.submit(tokens_of(2, i), 200));
  for (int i = 0; i < 2000; ++i) {
    bench.engine.step();
    bench.clock.advance_us(500);
  }
  EXPECT_GT(bench.client.stats().event_stalls, 100);
  bench.run_until_idle();
  for (size_t i = 0; i < ids.size(); ++i) {
    EXPECT_EQ(bench.outputs[ids[i]].tokens, alone(tokens_of(2, static_cast<int32_t>(i)), 200, ids[i]));
  }
}

TEST(Engine, LogitBiasesTravelWhole) {
  SamplingParams sampling;
  EXPECT_LT(generate_header_bytes(sampling), 1024);
  sampling.logit_bias_count = kLogitBiasMax;
  EXPECT_LE(generate_header_bytes(sampling), static_cast<int64_t>(sizeof(GenerateHeader)));
  Bench bench;
  GenerateHeader header = Bench::request(2);
  header.sampling.logit_bias_count = kLogitBiasMax;
  header.sampling.logit_bias[kLogitBiasMax - 1] = {42, 1.5F};
  SamplingParams seen;
  bench.runner.set_observer([&](const StepPlan& plan, const StepResult&) {
    if (!plan.sampling.empty()) seen = plan.sampling.front();
  });
  bench.submit(tokens_of(3), header);
  bench.run_until_idle();
  EXPECT_EQ(seen.logit_bias[kLogitBiasMax - 1].token, 42);
  EXPECT_EQ(seen.logit_bias[kLogitBiasMax - 1].bias, 1.5F);
}

TEST(Engine, LimitsThatCannotWorkAreRefusedAtStart) {
  RunnerLimits limits = small_limits();
  limits.step_tokens_max = 3;
  ManualClock clock;
  Wake wake;
  sim::ScriptedRunner runner(small_layout(), limits, &clock);
  const auto engine = Engine::create({}, small_layout(), &runner, &clock, &wake);
  ASSERT_FALSE(engine.ok());
  EXPECT_NE(engine.error().text().find("--max-num-batched-tokens"), std::string::npos);
}

TEST(Engine, DrainingRefusesNewTicketsAndFinishesTheRest) {
  Bench bench;
  Ticket held = std::move(bench.client.try_reserve(1)).value();
  bench.client.begin_drain();
  EXPECT_EQ(bench.client.try_reserve(1).error().code, ErrorCode::kUnavailable);
  EXPECT_FALSE(bench.client.idle());
  GenerateHeader header = Bench::request(3);
  header.id = bench.client.next_id();
  header.sampling.seed = header.id;
  EXPECT_TRUE(bench.client.submit(&held, header, tokens_of(3)).ok());
  bench.run_until_idle();
  EXPECT_EQ(bench.outputs[header.id].tokens.size(), 3U);
}

}  // namespace
}  // namespace weir
