// The server: an HTTP front for one engine. Wired up by the command line and by tests.
#pragma once

#include <memory>

#include "base/clock.h"
#include "base/result.h"
#include "engine/engine.h"
#include "server/config.h"

namespace weir {

class Server {
 public:
  // `clock` is the engine's clock and must outlive the server.
  Server(ServerConfig config, const Clock* clock);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Binds and listens at once, so that probes are answered while the model loads. Errors: kInvalidArgument, kIo.
  Status listen();
  // The bound port (of use with port 0).
  int port() const;

  // How much of the model is loaded, in [0, 1]; shown by /ready. Callable from any thread while run() runs.
  void set_load_progress(double share);
  // From now on requests are served. `engine` must outlive run() and is polled by it alone. Callable from any thread,
  // before run() or while it runs, once.
  void attach(ModelText model, EngineClient* engine);

  // Serves on the calling thread until a drain has ended.
  void run();

  // First call: /ready answers 503 at once; after drain_delay_ms new work is refused, streams finish within
  // shutdown_timeout_ms, the rest end with an error frame, and run() returns. Second call: all that now.
  // Callable from any thread while run() runs; SIGTERM and SIGINT do the same.
  void request_drain();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace weir
