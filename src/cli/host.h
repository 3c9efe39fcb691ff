// The engine in this process: runner, engine thread, and the client that server and terminal commands use.
#pragma once

#include <atomic>
#include <memory>
#include <thread>

#include "base/clock.h"
#include "base/wake.h"
#include "cli/loading.h"
#include "engine/engine.h"
#include "runner/model_runner.h"

namespace weir {

// Whether later prompts reuse generated tokens: on the CPU they have the bits that prompts have.
inline bool reuses_generated(const Options& options) {
  return options.reuse_generated || options.device == "cpu";
}

class EngineHost {
 public:
  // Borrows the model. Starts the engine's thread.
  static Result<std::unique_ptr<EngineHost>> start(const Options& options, LoadedModel* model);
  // Stops the engine; live sequences end with kAbort.
  ~EngineHost();

  EngineClient client() { return engine_->client(); }
  // Waits until no step is under way, when all sequences have ended: their last step may have others behind it. The
  // model's threads are free then.
  void settle();
  const Clock& clock() const { return clock_; }
  const ModelRunner& runner() const { return *runner_; }

 private:
  EngineHost() = default;

  SteadyClock clock_;
  Wake wake_;
  std::unique_ptr<ModelRunner> runner_;
  std::unique_ptr<Engine> engine_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace weir
