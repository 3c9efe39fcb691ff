#include "engine/engine.h"

#include <gtest/gtest.h>

#include <map>

#include "engine/sim/runners.h"
#include "engine/sim/script.h"

namespace weir {
namespace {

using sim::ScriptedRunner;

RunnerLimits small_limits() {
  RunnerLimits limits;
  limits.rows_max = 4;
  limits.step_tokens_max = 32;
  limits.state_slots = 4;
  limits.pages = {40};
  limits.sequence_tokens_max = 256;
  limits.vocabulary = 500;
  return limits;
}

CacheLayout small_layout() { return {{{"kv", 1024, 16}}, 4096}; }

// An engine, its script and what came out of it.
struct Bench {
  explicit Bench(const RunnerLimits& limits = small_limits(), const EngineConfig& config = {})
      : runner(small_layout(), limits, &clock),
        engine(std::move(Engine::create(config, small_layout(), &runner, &clock, &wake)).value()),
        client(engine.client()) {
    runner.set_latency_us(1000);
  }

  SequenceId submit(const std::vector<TokenId>& prompt, int32_t max_tokens) {
    GenerateHeader header;
    header.id = client.next_id();
    header.arrival_us = clock.now_us();
    header.sampling.max_tokens = max_tokens;
    header.sampling.seed = header.id;
    Ticket ticket = std::move(client.try_reserve(1)).value();
    const Status status = client.submit(&ticket, header, prompt);
    EXPECT_TRUE(status.ok());
    return header.id;
  }

  void turn() {
    engine.step();
    Event event;
    while (client.poll(&event)) {
      auto& out = outputs[event.header.id];
      EXPECT_EQ(event.header.first_index, static_cast<int32_t>(out.size()));
      out.insert(out.end(), event.tokens.begin(), event.tokens.end());
      if (event.header.finish != FinishReason::kNone) ends[event.header.id] = event.header.finish;
    }
    clock.advance_us(500);
  }

  void run_until_idle() {
    for (int i = 0; i < 10'000 && !client.idle(); ++i) turn();
    EXPECT_TRUE(client.idle());
    EXPECT_EQ(runner.executor().violations(), std::vector<std::string>());
  }

  ManualClock clock;
  Wake wake;
  ScriptedRunner runner;
  Engine engine;
  EngineClient client;
  std::map<SequenceId, std::vector<TokenId>> outputs;
  std::map<SequenceId, FinishReason> ends;
};

std::vector<TokenId> tokens_of(int32_t count, int32_t first) {
  std::vector<TokenId> tokens;
  for (int32_t i = 0; i < count; ++i) tokens.push_back((first + i * 7) % 500);
  return tokens;
}

TEST(Engine, EverySequenceGetsTheAnswerThatItGetsAlone) {
  Bench bench;
  std::map<SequenceId, std::vector<TokenId>> prompts;
  for (int32_t i = 0; i < 12; ++i) {
    const auto prompt = tokens_of(1 + i * 11, i);
    prompts[bench.submit(prompt, 20 + i)] = prompt;
  }
  bench.run_until_idle();
  for (const auto& [id, prompt] : prompts) {
    SamplingParams sampling;
    sampling.seed = id;
    sampling.max_tokens = 20 + static_cast<int32_t>(id) - 1;
    EXPECT_EQ(bench.outputs[id], sim::answer(prompt, sampling, 256, 500).tokens);
    EXPECT_EQ(bench.ends[id], FinishReason::kLength);
  }
  const EngineStats stats = bench.client.stats();
  EXPECT_EQ(stats.pages_used, 0);
  EXPECT_EQ(stats.slots_used, 0);
  EXPECT_EQ(stats.waiting, 0);
}

}  // namespace
}  // namespace weir
