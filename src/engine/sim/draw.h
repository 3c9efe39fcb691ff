// What a schedule is drawn from: a generator of random numbers, and the world that it makes.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/engine.h"
#include "engine/sim/script.h"
#include "engine/sim/validator.h"
#include "plan/layout.h"

namespace weir::sim {

// splitmix64: one number of state, and any seed is a good one.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(mix(seed + kScriptStart)) {}
  uint64_t next() { return mix(state_ += kScriptStart); }
  // Uniform in [low, high].
  int64_t between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(next() % static_cast<uint64_t>(high - low + 1));
  }
  bool one_in(int64_t count) { return between(1, count) == 1; }
  template <class T>
  T pick(std::initializer_list<T> values) {
    return *(values.begin() + between(0, static_cast<int64_t>(values.size()) - 1));
  }

 private:
  uint64_t state_;
};

// The machine of one schedule.
struct World {
  EngineConfig config;
  CacheLayout layout;
  RunnerLimits limits;
  int64_t latency_max_us = 0;
  int64_t turn_max_us = 0;  // time between two turns
  bool late = false;        // the server reads events rarely
  bool tight = false;       // long prompts in small chunks, pages of one token: decodes preempt what is in prefill
  int64_t fault_turn = -1;
  int64_t drain_turn = -1;
};

// One request and what will happen to it.
struct Request {
  GenerateHeader header;
  std::vector<TokenId> prompt;
  int32_t follows = -1;  // the prompt goes on behind that request's prompt and answer, if it has been sent by then
  int64_t generated_from = -1;  // prompt tokens from here on came from another request's answer
  int64_t arrival_us = 0;
  bool cancels = false;
  View cancel_in = View::kQueued;
  int64_t cancel_after = 0;  // turns in that view
};

World draw_world(Random* random);
std::vector<Request> draw_requests(Random* random, const World& world);

}  // namespace weir::sim
