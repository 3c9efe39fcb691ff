// Everything is reserved at start: turns allocate nothing. Counts every operator new of the program.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "engine/engine.h"

namespace {
std::atomic<int64_t> allocations{0};
}  // namespace

// Not inlined: g++ would see malloc and free through one of a pair only, and warn.
[[gnu::noinline]] void* operator new(size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* memory = std::malloc(size > 0 ? size : 1)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}

namespace weir {
namespace {

// Gives every row that samples the same token, and is always done.
class ConstantRunner final : public StepRunner {
 public:
  explicit ConstantRunner(const RunnerLimits& limits) : limits_(limits) {}
  const RunnerLimits& limits() const override { return limits_; }
  void submit(const StepPlan* plan, StepResult* result) override {
    result->clear();
    result->id = plan->id;
    for (const SequenceWork& work : plan->work) {
      SequenceResult yielded;
      yielded.row = work.row;
      yielded.token_count = work.sample ? 1 : 0;
      yielded.first_token = static_cast<int32_t>(result->tokens.size());
      if (work.sample) result->tokens.push_back(1);
      result->sequences.push_back(yielded);
    }
    last_ = plan->id;
  }
  StepId poll() override { return polled_ < last_ ? ++polled_ : 0; }

 private:
  RunnerLimits limits_;
  StepId last_ = 0;
  StepId polled_ = 0;
};

class EngineMemory : public testing::TestWithParam<bool> {};

TEST_P(EngineMemory, TurnsAllocateNothing) {
  const bool reuse = GetParam();
  RunnerLimits limits;
  limits.rows_max = 8;
  limits.step_tokens_max = 64;
  limits.state_slots = reuse ? 14 : 8;
  limits.drafts_max = reuse ? 3 : 0;
  limits.pages = {60};  // eight sequences want 128: preemption happens
  limits.sequence_tokens_max = 256;
  limits.vocabulary = 10;
  ManualClock clock;
  Wake wake;
  ConstantRunner runner(limits);
  EngineConfig config;
  config.prefix_caching = reuse;
  config.reuse_generated = true;
  config.checkpoint_interval = 64;
  Engine engine = std::move(Engine::create(config, {{{"kv", 1, 16}}, 1, 0}, &runner, &clock, &wake)).value();
  EngineClient client = engine.client();
  Event event;
  event.tokens.reserve(8);
  std::vector<TokenId> prompt(100, 3);

  const int64_t before = allocations.load();
  for (int32_t i = 0; i < 40; ++i) {
    GenerateHeader header;
    header.id = client.next_id();
    header.sampling.max_tokens = 100;
    prompt[static_cast<size_t>(i) % 90] = 4;  // most have a beginning in common with others
    Result<Ticket> ticket = client.try_reserve(1);
    ASSERT_TRUE(client.submit(&*ticket, header, prompt).ok());
    if (i % 5 == 0) client.cancel(header.id);
  }
  for (int i = 0; i < 20'000 && !client.idle(); ++i) {
    engine.step();
    while (client.poll(&event)) {
    }
  }
  const int64_t after = allocations.load();
  EXPECT_TRUE(client.idle());
  EXPECT_GT(client.stats().preemptions, 0);
  EXPECT_EQ(client.stats().cached_tokens > 0 && client.stats().evicted_blocks > 0, reuse);
  EXPECT_EQ(after - before, 0);
}

INSTANTIATE_TEST_SUITE_P(Engines, EngineMemory, testing::Bool(),
                         [](const auto& info) { return info.param ? "WithReuseAndDrafts" : "Plain"; });

}  // namespace
}  // namespace weir
