// For tests of the engine: one over the scripted runner, with what came out of it.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/sim/runners.h"
#include "engine/sim/script.h"

namespace weir {

inline constexpr int32_t kVocabulary = 500;
inline constexpr int64_t kContext = 256;

inline RunnerLimits small_limits() {
  RunnerLimits limits;
  limits.rows_max = 4;
  limits.step_tokens_max = 32;
  limits.state_slots = 4;
  limits.pages = {40};
  limits.sequence_tokens_max = kContext;
  limits.vocabulary = kVocabulary;
  return limits;
}

inline CacheLayout small_layout() {
  return {{{"kv", 1024, 16}}, 4096};
}

// What one sequence received.
struct Output {
  std::vector<TokenId> tokens;
  std::vector<TokenLogprob> prompt_logprobs;
  std::vector<TokenLogprob> top;  // everything behind a token's own
  EventHeader last;
  std::string message;
  int32_t ends = 0;
};

// An engine, its script and what came out of it.
struct Bench {
  explicit Bench(const RunnerLimits& limits = small_limits(), const EngineConfig& config = {},
                 const CacheLayout& layout = small_layout())
      : runner(layout, limits, &clock),
        engine(std::move(Engine::create(config, layout, &runner, &clock, &wake)).value()),
        client(engine.client()) {
    runner.set_latency_us(1000);
  }

  static GenerateHeader request(int32_t max_tokens) {
    GenerateHeader header;
    header.sampling.max_tokens = max_tokens;
    return header;
  }

  Status try_submit(GenerateHeader* header, const std::vector<TokenId>& prompt) {
    header->id = client.next_id();
    header->arrival_us = clock.now_us();
    header->sampling.seed = header->id;
    Result<Ticket> ticket = client.try_reserve(1);
    if (!ticket.ok()) return ticket.error();
    return client.submit(&*ticket, *header, prompt);
  }
  SequenceId submit(const std::vector<TokenId>& prompt, GenerateHeader header) {
    const Status status = try_submit(&header, prompt);
    EXPECT_TRUE(status.ok());
    return header.id;
  }
  SequenceId submit(const std::vector<TokenId>& prompt, int32_t max_tokens) {
    return submit(prompt, request(max_tokens));
  }

  void read() {
    Event event;
    while (client.poll(&event)) {
      Output& out = outputs[event.header.id];
      EXPECT_EQ(event.header.first_index, static_cast<int32_t>(out.tokens.size()));
      out.tokens.insert(out.tokens.end(), event.tokens.begin(), event.tokens.end());
      for (size_t i = 0; i < event.rows.size(); ++i) {
        const auto first = event.logprobs.begin() + event.rows[i].first;
        if (i < static_cast<size_t>(event.header.prompt_row_count))
          out.prompt_logprobs.push_back(*first);
        else
          out.top.insert(out.top.end(), first + 1, first + 1 + event.rows[i].top_count);
      }
      out.last = event.header;
      out.message = event.message;
      out.ends += event.header.finish == FinishReason::kNone ? 0 : 1;
    }
  }
  void turn() {
    engine.step();
    read();
    clock.advance_us(500);
  }
  void turns(int count) {
    for (int i = 0; i < count; ++i) turn();
  }
  void run_until_idle() {
    for (int i = 0; i < 10'000 && !client.idle(); ++i) turn();
    EXPECT_TRUE(client.idle());
    EXPECT_EQ(runner.executor().violations(), std::vector<std::string>());
  }

  ManualClock clock;
  Wake wake;
  sim::ScriptedRunner runner;
  Engine engine;
  EngineClient client;
  std::map<SequenceId, Output> outputs;
};

inline std::vector<TokenId> tokens_of(int32_t count, int32_t first = 1) {
  std::vector<TokenId> tokens;
  for (int32_t i = 0; i < count; ++i) tokens.push_back((first + i * 7) % kVocabulary);
  return tokens;
}

inline std::vector<TokenId> alone(const std::vector<TokenId>& prompt, int32_t max_tokens, SequenceId id) {
  SamplingParams sampling;
  sampling.seed = id;
  sampling.max_tokens = max_tokens;
  return sim::answer(prompt, sampling, kContext, kVocabulary).tokens;
}

}  // namespace weir
