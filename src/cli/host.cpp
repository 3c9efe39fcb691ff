#include "cli/host.h"

#include <chrono>
#include <random>

namespace weir {

Result<std::unique_ptr<EngineHost>> EngineHost::start(const Options& options, LoadedModel* model) {
  std::unique_ptr<EngineHost> host(new EngineHost());
  Wake* wake = &host->wake_;
  WEIR_ASSIGN_OR_RETURN(host->runner_, ModelRunner::create(model->model.get(), model->memory.layout,
                                                           model->memory.limits, [wake] { wake->notify(); }));
  EngineConfig config;
  if (options.max_num_queued_reqs > 0) config.queue_requests_max = static_cast<int32_t>(options.max_num_queued_reqs);
  if (options.max_num_queued_tokens > 0) config.queue_tokens_max = options.max_num_queued_tokens;
  if (options.priority_aging_ms > 0) config.aging_us = options.priority_aging_ms * 1000;
  config.prefill_chunk_max = static_cast<int32_t>(options.long_prefill_token_threshold);
  config.prefix_caching = model->memory.prefix_caching;
  config.checkpoint_interval = model->memory.checkpoint_interval;
  config.reuse_generated = reuses_generated(options);
  config.adaptive_drafts = options.adaptive_drafts;
  std::random_device random;
  config.cache_seed = (static_cast<uint64_t>(random()) << 32U) ^ random();
  WEIR_ASSIGN_OR_RETURN(Engine engine,
                        Engine::create(config, model->memory.layout, host->runner_.get(), &host->clock_, wake));
  host->engine_ = std::make_unique<Engine>(std::move(engine));
  host->thread_ = std::thread([raw = host.get()] { raw->engine_->run(raw->stop_); });
  return host;
}

void EngineHost::settle() {
  while (client().stats().steps_in_flight > 0) std::this_thread::sleep_for(std::chrono::microseconds(100));
}

EngineHost::~EngineHost() {
  stop_ = true;
  wake_.notify();
  if (thread_.joinable()) thread_.join();
}

}  // namespace weir
