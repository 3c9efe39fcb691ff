// An engine over a model, turned by the test that owns it.
#pragma once

#include <memory>
#include <span>

#include "base/check.h"
#include "base/clock.h"
#include "base/wake.h"
#include "engine/engine.h"
#include "runner/cpu_caches.h"
#include "runner/model_runner.h"

namespace weir::equality {

struct World {
  bool tight = false;  // few pages, many long answers at once
  bool crowd = false;  // 64 requests at once, with room for all
  EngineConfig config;
  RunnerLimits limits;  // pages: of each class
  // Above 0: pages and slots share their memory. limits.pages then says how many pages a sequence is to have at least.
  int32_t pages_a_slot = 0;
};

class Served {
 public:
  // Borrows the model.
  Served(Model* model, World world)
      : layout_(cache_layout(model->config, model->cache_sizes(), world.limits.drafts_max > 0)) {
    world.limits.pages.resize(layout_.classes.size(), world.limits.pages.front());
    if (layout_.state_slot_bytes == 0) world.limits.state_slots = 0;
    if (layout_.state_slot_bytes > 0 && world.pages_a_slot > 0) share_memory(&world);
    auto runner = ModelRunner::create(model, layout_, world.limits, [this] { wake_.notify(); });
    WEIR_CHECK(runner.ok(), "{}", runner.error().text());
    runner_ = std::move(*runner);
    auto engine = Engine::create(world.config, layout_, runner_.get(), &clock_, &wake_);
    WEIR_CHECK(engine.ok(), "{}", engine.error().text());
    engine_ = std::make_unique<Engine>(std::move(*engine));
  }
  // Plans live in the engine: none may be in flight when it goes.
  ~Served() {
    while (client().stats().steps_in_flight > 0) turn();
  }
  Served(const Served&) = delete;
  Served& operator=(const Served&) = delete;

  EngineClient client() { return engine_->client(); }
  const CacheLayout& layout() const { return layout_; }
  void turn() {
    if (!engine_->step()) wake_.wait(200);
  }
  SequenceId submit(std::span<const TokenId> prompt, const SamplingParams& sampling, const CacheSalt& salt,
                    int32_t suffix_count) {
    auto ticket = client().try_reserve(1);
    WEIR_CHECK(ticket.ok(), "{}", ticket.error().text());
    GenerateHeader header;
    header.id = client().next_id();
    header.arrival_us = clock_.now_us();
    header.sampling = sampling;
    header.salt = salt;
    header.suffix_count = suffix_count;
    const Status status = client().submit(&*ticket, header, prompt);
    WEIR_CHECK(status.ok(), "{}", status.error().text());
    return header.id;
  }

 private:
  void share_memory(World* world) {
    RunnerLimits& limits = world->limits;
    layout_.pages_a_slot = world->pages_a_slot;
    const int32_t pages = limits.pages.front();
    do {
      ++limits.state_slots;
      for (int32_t& count : limits.pages) count = limits.state_slots * layout_.pages_a_slot;
    } while (pages_alone_max(layout_, limits, 0) < pages);
  }

  CacheLayout layout_;
  SteadyClock clock_;
  Wake wake_;
  std::unique_ptr<ModelRunner> runner_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace weir::equality
