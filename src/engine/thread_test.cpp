// The engine on its own thread, a runner on another, servers on more: run under ThreadSanitizer by the full check.
#include <gtest/gtest.h>
#include <poll.h>

#include <atomic>
#include <map>
#include <mutex>
#include <thread>

#include "engine/engine.h"
#include "engine/sim/draw.h"
#include "engine/sim/runners.h"
#include "engine/sim/script.h"

namespace weir {
namespace {

constexpr int32_t kVocabulary = 400;
constexpr int64_t kContext = 200;

struct Sent {
  std::vector<TokenId> prompt;
  SamplingParams sampling;
  bool cancelled = false;
};

struct Received {
  std::vector<TokenId> tokens;
  FinishReason finish = FinishReason::kNone;
  int32_t ends = 0;
};

RunnerLimits limits() {
  RunnerLimits limits;
  limits.rows_max = 24;
  limits.step_tokens_max = 128;
  limits.state_slots = 24;
  limits.pages = {150};  // a third of what 24 rows could use: some are preempted
  limits.sequence_tokens_max = kContext;
  limits.vocabulary = kVocabulary;
  return limits;
}

class Service {
 public:
  explicit Service(const EngineConfig& config)
      : runner_(layout(), limits(), 50, [this] { wake_.notify(); }),
        engine_(std::move(Engine::create(config, layout(), &runner_, &clock_, &wake_)).value()),
        client(engine_.client()),
        engine_thread_([this] { engine_.run(stop_); }),
        reader_([this] { read(); }) {}

  ~Service() { stop(); }

  void stop() {
    if (!engine_thread_.joinable()) return;
    stop_.store(true);
    wake_.notify();
    engine_thread_.join();
    reader_.join();
  }

  std::vector<std::string> violations() { return runner_.violations(); }

 private:
  static CacheLayout layout() { return {{{"kv", 1, 8}}, 1}; }

  // The server's event loop: sleeps on the descriptor, reads until there is nothing.
  void read() {
    Event event;
    while (!stop_.load() || !client.idle()) {
      pollfd entry{client.event_fd(), POLLIN, 0};
      poll(&entry, 1, 10);
      while (client.poll(&event)) {
        Received& got = received[event.header.id];
        got.tokens.insert(got.tokens.end(), event.tokens.begin(), event.tokens.end());
        if (event.header.finish == FinishReason::kNone) continue;
        got.finish = event.header.finish;
        ++got.ends;
      }
    }
  }

  SteadyClock clock_;
  Wake wake_;
  sim::ThreadRunner runner_;
  Engine engine_;
  std::atomic<bool> stop_{false};

 public:
  EngineClient client;
  std::map<SequenceId, Received> received;  // the reader's until stop()

 private:
  std::thread engine_thread_;
  std::thread reader_;
};

// One server thread: submits its share, cancels some of it.
void serve(EngineClient* client, uint64_t seed, int32_t count, std::mutex* mutex, std::map<SequenceId, Sent>* sent) {
  sim::Random random(seed);
  std::vector<SequenceId> mine;
  while (count > 0) {
    Result<Ticket> ticket = client->try_reserve(1);
    if (!ticket.ok()) {
      std::this_thread::yield();
      continue;
    }
    Sent request;
    request.prompt.resize(static_cast<size_t>(random.between(1, 60)));
    for (TokenId& token : request.prompt) token = static_cast<TokenId>(random.between(0, kVocabulary - 1));
    GenerateHeader header;
    header.id = client->next_id();
    header.sampling.max_tokens = static_cast<int32_t>(random.between(1, 60));
    header.sampling.seed = header.id;
    header.sampling.stop_id_count = 1;
    header.sampling.stop_ids[0] = 7;
    request.sampling = header.sampling;
    ASSERT_TRUE(client->submit(&*ticket, header, request.prompt).ok());
    mine.push_back(header.id);
    --count;
    const bool cancels = random.one_in(4);
    const SequenceId victim = mine[static_cast<size_t>(random.between(0, static_cast<int64_t>(mine.size()) - 1))];
    if (cancels) client->cancel(victim);
    const std::scoped_lock lock(*mutex);
    (*sent)[header.id] = std::move(request);
    if (cancels) (*sent)[victim].cancelled = true;
  }
}

TEST(EngineThread, TwoHundredFiftySixSequencesWithCancelsLoseNothing) {
  EngineConfig config;
  config.queue_requests_max = 64;
  Service service(config);
  std::mutex mutex;
  std::map<SequenceId, Sent> sent;
  std::vector<std::thread> servers;
  for (uint64_t i = 0; i < 4; ++i) {
    servers.emplace_back([&, i] { serve(&service.client, i + 1, 64, &mutex, &sent); });
  }
  for (std::thread& server : servers) server.join();
  service.client.begin_drain();
  EXPECT_FALSE(service.client.try_reserve(1).ok());
  // Ten minutes: ends a hang, on a busy machine too.
  for (int i = 0; i < 60000 && !service.client.idle(); ++i) {
    pollfd none{-1, 0, 0};
    poll(&none, 1, 10);
  }
  ASSERT_TRUE(service.client.idle());
  const EngineStats stats = service.client.stats();
  service.stop();
  EXPECT_EQ(service.violations(), std::vector<std::string>());
  ASSERT_EQ(service.received.size(), 256U);
  for (const auto& [id, request] : sent) {
    const Received& got = service.received.at(id);
    const sim::ScriptAnswer alone = sim::answer(request.prompt, request.sampling, kContext, kVocabulary);
    EXPECT_EQ(got.ends, 1);
    if (got.finish == FinishReason::kAbort) {
      EXPECT_TRUE(request.cancelled);
      ASSERT_LE(got.tokens.size(), alone.tokens.size());
      EXPECT_TRUE(std::equal(got.tokens.begin(), got.tokens.end(), alone.tokens.begin()));
    } else {
      EXPECT_EQ(got.tokens, alone.tokens);
    }
  }
  EXPECT_EQ(stats.finished_stop + stats.finished_length + stats.finished_abort, 256);
  EXPECT_EQ(stats.waiting + stats.reserved + stats.waiting_tokens, 0);
}

TEST(EngineThread, StoppingEndsEverySequenceWithAnAbort) {
  EngineConfig config;
  Service service(config);
  std::mutex mutex;
  std::map<SequenceId, Sent> sent;
  serve(&service.client, 9, 100, &mutex, &sent);
  service.stop();
  EXPECT_EQ(service.received.size(), 100U);
  for (const auto& [id, got] : service.received) EXPECT_EQ(got.ends, 1) << id;
  EXPECT_EQ(service.client.stats().pages_used, 0);
  EXPECT_EQ(service.client.stats().steps_in_flight, 0);
}

}  // namespace
}  // namespace weir
