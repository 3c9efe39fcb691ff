// Row invariance through the whole engine: the same request gives the same bits alone, in a crowd, at any chunk size
// and after preemption.
#include <gtest/gtest.h>
#include <poll.h>

#include <bit>
#include <map>
#include <random>

#include "base/planted.h"
#include "base/wake.h"
#include "engine/engine.h"
#include "runner/cpu_caches.h"
#include "runner/model_runner.h"
#include "runner/test_model.h"

namespace weir {
namespace {

struct Request {
  std::vector<TokenId> prompt;
  SamplingParams sampling;
};

// Everything a client could see of one sequence, bit for bit.
struct Outcome {
  std::vector<TokenId> tokens;
  std::vector<uint32_t> prompt_logprobs;
  std::vector<uint32_t> logprobs;
  FinishReason finish = FinishReason::kNone;
  friend bool operator==(const Outcome&, const Outcome&) = default;
};

struct Setting {
  int32_t rows = 32;
  int32_t budget = 256;
  int32_t chunk = 0;
  int32_t pages = 4096;
};

std::unique_ptr<Model> load(const std::string& name) {
  auto model = load_golden_model(name, 4096);
  EXPECT_TRUE(model.ok()) << model.error().text();
  return std::move(*model);
}

// Runs the requests at once under a setting. `preemptions`, if given, receives how many there were.
std::vector<Outcome> run(Model* model, const std::vector<Request>& requests, const Setting& setting,
                         int64_t* preemptions = nullptr) {
  const CacheLayout layout = cache_layout(model->config, model->cache_sizes(), false);
  RunnerLimits limits;
  limits.rows_max = setting.rows;
  limits.step_tokens_max = setting.budget;
  limits.state_slots = setting.rows;
  limits.pages = {setting.pages};
  limits.sequence_tokens_max = 2048;
  limits.vocabulary = static_cast<int32_t>(model->config.vocabulary);
  SteadyClock clock;
  Wake wake;
  auto runner = ModelRunner::create(model, layout, limits, [&] { wake.notify(); });
  EXPECT_TRUE(runner.ok());
  EngineConfig config;
  config.prefill_chunk_max = setting.chunk;
  auto engine = Engine::create(config, layout, runner->get(), &clock, &wake);
  EXPECT_TRUE(engine.ok()) << engine.error().text();
  EngineClient client = engine->client();

  std::map<SequenceId, size_t> index;
  for (size_t i = 0; i < requests.size(); ++i) {
    auto ticket = client.try_reserve(1);
    EXPECT_TRUE(ticket.ok()) << ticket.error().text();
    GenerateHeader header;
    header.id = client.next_id();
    header.sampling = requests[i].sampling;
    index[header.id] = i;
    const Status status = client.submit(&*ticket, header, requests[i].prompt);
    EXPECT_TRUE(status.ok()) << status.error().text();
  }
  std::vector<Outcome> outcomes(requests.size());
  size_t finished = 0;
  Event event;
  const int64_t limit_us = clock.now_us() + 600'000'000;  // ends a hang
  while (finished < requests.size() && clock.now_us() < limit_us) {
    if (!engine->step()) wake.wait(1000);
    while (client.poll(&event)) {
      Outcome& outcome = outcomes[index.at(event.header.id)];
      outcome.tokens.insert(outcome.tokens.end(), event.tokens.begin(), event.tokens.end());
      for (size_t row = 0; row < event.rows.size(); ++row) {
        auto& target =
            static_cast<int32_t>(row) < event.header.prompt_row_count ? outcome.prompt_logprobs : outcome.logprobs;
        for (int32_t i = 0; i <= event.rows[row].top_count; ++i) {
          const TokenLogprob& entry = event.logprobs[static_cast<size_t>(event.rows[row].first + i)];
          target.push_back(std::bit_cast<uint32_t>(entry.logprob));
          target.push_back(static_cast<uint32_t>(entry.token));
        }
      }
      if (event.header.finish != FinishReason::kNone) {
        outcome.finish = event.header.finish;
        ++finished;
      }
    }
  }
  EXPECT_EQ(finished, requests.size());
  while (client.stats().steps_in_flight > 0) engine->step();  // plans live in the engine
  if (preemptions != nullptr) *preemptions = client.stats().preemptions;
  return outcomes;
}

// Prompts of lengths around the grid, greedy and sampled, every other with prompt log-probabilities.
std::vector<Request> mixed_requests(const ModelConfig& config, size_t count) {
  std::mt19937 random(20260921);
  const int64_t lengths[] = {1, 7, 63, 64, 65, 127, 130, 300, 511, 700};
  std::vector<Request> requests(count);
  for (size_t i = 0; i < count; ++i) {
    Request& request = requests[i];
    const int64_t length = lengths[i % std::size(lengths)];
    for (int64_t t = 0; t < length; ++t) {
      request.prompt.push_back(static_cast<TokenId>(random() % static_cast<uint32_t>(config.vocabulary)));
    }
    request.sampling.temperature = i % 2 == 0 ? 0.0F : 0.9F;
    request.sampling.top_p = i % 4 == 1 ? 0.9F : 1.0F;
    request.sampling.top_k = i % 4 == 3 ? 20 : 0;
    request.sampling.frequency_penalty = i % 5 == 0 ? 0.3F : 0.0F;
    request.sampling.seed = 1000 + i;
    request.sampling.max_tokens = i % 3 == 0 ? 200 : 80;  // some fill several pages while others run
    request.sampling.logprobs = 2;
    request.sampling.prompt_logprobs = i % 2 == 0 ? 0 : -1;
  }
  return requests;
}

class Invariance : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (golden_name(GetParam()).w8a8 && !tests_use_gpu()) GTEST_SKIP() << "the CPU has no kernels for it";
    model_ = load(GetParam());
    requests_ = mixed_requests(model_->config, 32);
    for (size_t i = 0; i < requests_.size(); ++i) alone_.push_back(run(model_.get(), {requests_[i]}, {}).front());
  }
  void expect_same(const std::vector<Outcome>& outcomes) {
    for (size_t i = 0; i < outcomes.size(); ++i) EXPECT_EQ(outcomes[i], alone_[i]) << "request " << i;
  }

  std::unique_ptr<Model> model_;
  std::vector<Request> requests_;
  std::vector<Outcome> alone_;
};

TEST_P(Invariance, EveryRequestHasItsAnswer) {
  for (size_t i = 0; i < alone_.size(); ++i) {
    EXPECT_EQ(alone_[i].tokens.size(), static_cast<size_t>(requests_[i].sampling.max_tokens));
    EXPECT_EQ(alone_[i].logprobs.size(), alone_[i].tokens.size() * 6);
    const size_t expected = requests_[i].sampling.prompt_logprobs >= 0 ? (requests_[i].prompt.size() - 1) * 2 : 0;
    EXPECT_EQ(alone_[i].prompt_logprobs.size(), expected);
  }
}

TEST_P(Invariance, AloneEqualsInABatchOf32) {
  expect_same(run(model_.get(), requests_, {}));
}

TEST_P(Invariance, TheChunkSizeDoesNotMatter) {
  for (const int32_t chunk : {64, 256, 1024}) {
    Setting setting;
    setting.budget = 1024;
    setting.chunk = chunk;
    expect_same(run(model_.get(), requests_, setting));
  }
  Setting odd;
  odd.budget = 77;
  odd.chunk = 29;
  expect_same(run(model_.get(), requests_, odd));
}

TEST_P(Invariance, PreemptionDoesNotMatter) {
  Setting tight;
  tight.pages = 16;  // the longest request needs 15
  int64_t preemptions = 0;
  expect_same(run(model_.get(), requests_, tight, &preemptions));
  EXPECT_GT(preemptions, 5);
}

INSTANTIATE_TEST_SUITE_P(Models, Invariance,
                         testing::Values("moe-odd", "moe-real", "next", "moe-fp8", "moe-fit", "moe-fit fp8",
                                         "moe-fit w8a8", "share/weir-xs w8a8"),
                         ModelTestName());

#ifdef WEIR_PLANTED_BUGS

// Each bug must change what some request sees; the comparison above would fail.
class Planted : public testing::Test {
 protected:
  void SetUp() override {
    model_ = load("moe-real");
    requests_ = mixed_requests(model_->config, 32);
    for (const Request& request : requests_) alone_.push_back(run(model_.get(), {request}, {}).front());
  }
  void TearDown() override { planted_bug = PlantedBug::kNone; }
  int64_t differing(PlantedBug bug, const Setting& setting) {
    planted_bug = bug;
    const auto outcomes = run(model_.get(), requests_, setting);
    int64_t count = 0;
    for (size_t i = 0; i < outcomes.size(); ++i) count += outcomes[i] == alone_[i] ? 0 : 1;
    return count;
  }
  std::unique_ptr<Model> model_;
  std::vector<Request> requests_;
  std::vector<Outcome> alone_;
};

TEST_F(Planted, OffByOneResumeIsSeen) {
  Setting tight;
  tight.pages = 16;
  EXPECT_EQ(differing(PlantedBug::kNone, tight), 0);
  // The batch table sees it before the outcomes could differ.
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(differing(PlantedBug::kResumeOffByOne, tight), "stands at 0, its work begins at 1");
}

TEST_F(Planted, BatchDependentSplitIsSeen) {
  EXPECT_GT(differing(PlantedBug::kBatchDependentSplit, {}), 0);
}

TEST_F(Planted, StaleSlotIsSeen) {
  Setting few;
  few.rows = 4;
  EXPECT_EQ(differing(PlantedBug::kNone, few), 0);
  EXPECT_GT(differing(PlantedBug::kStateNotZeroed, few), 0);
}

#endif

}  // namespace
}  // namespace weir
