#include "server/server.h"

#include <utility>

#include "base/say.h"
#include "net/http_server.h"
#include "server/service.h"

namespace weir {

namespace {

// Keep-alive comments and drain steps are looked at this often; both are about seconds.
constexpr int32_t kTickMs = 50;
// The last responses of a drain are flushed within this.
constexpr int32_t kFlushMs = 2'000;

enum class Phase : uint8_t {
  kServing,
  kDelay,      // not ready, still accepting
  kFinishing,  // new work refused, streams run out
  kStopped,
};

}  // namespace

class Server::Impl {
 public:
  Impl(ServerConfig config, const Clock* clock)
      : config_(std::move(config)), clock_(clock), http_(config_.http, &service_), service_(&config_, clock) {
    WEIR_CHECK(!config_.served_model_names.empty(), "a server needs the name of its model");
    service_.set_loop(&http_);
  }

  // All on the loop's thread.
  void request_drain();
  void announce_drain() const;
  void tick();

  void enter_finishing();
  void stop();

  ServerConfig config_;
  const Clock* clock_;
  ModelText model_;
  EngineClient* engine_ = nullptr;
  net::HttpServer http_;
  Service service_;  // behind http_, to which its threads post until they have ended
  Phase phase_ = Phase::kServing;
  int64_t phase_end_us_ = 0;
};

void Server::Impl::request_drain() {
  if (phase_ == Phase::kServing) {
    phase_ = Phase::kDelay;
    phase_end_us_ = clock_->now_us() + int64_t{config_.drain_delay_ms} * 1000;
    service_.set_draining();
    if (config_.drain_delay_ms == 0) {
      enter_finishing();
    }
    return;
  }
  stop();
}

void Server::Impl::announce_drain() const {
  if (phase_ == Phase::kServing) {
    say(stderr,
        "draining: {} open requests; new ones are refused in {} ms, what is then open has {} ms to end; a second "
        "signal ends it at once\n",
        service_.open_count(), config_.drain_delay_ms, config_.shutdown_timeout_ms);
  } else {
    say(stderr, "ending at once\n");
  }
}

void Server::Impl::enter_finishing() {
  phase_ = Phase::kFinishing;
  phase_end_us_ = clock_->now_us() + int64_t{config_.shutdown_timeout_ms} * 1000;
  service_.set_refusing();
  http_.stop_keep_alive();
}

void Server::Impl::stop() {
  if (phase_ == Phase::kStopped) {
    return;
  }
  phase_ = Phase::kStopped;
  service_.set_draining();
  service_.set_refusing();
  service_.fail_all(api::from_error({ErrorCode::kUnavailable, "The server is shutting down", {}}));
  http_.stop(kFlushMs);
}

void Server::Impl::tick() {
  service_.tick();
  const int64_t now_us = clock_->now_us();
  if (phase_ == Phase::kDelay && now_us >= phase_end_us_) {
    enter_finishing();
  }
  if (phase_ == Phase::kFinishing && (service_.open_count() == 0 || now_us >= phase_end_us_)) {
    stop();
  }
}

Server::Server(ServerConfig config, const Clock* clock) : impl_(std::make_unique<Impl>(std::move(config), clock)) {}
Server::~Server() = default;

Status Server::listen() {
  return impl_->http_.listen(impl_->config_.host, impl_->config_.port);
}
int Server::port() const {
  return impl_->http_.port();
}

void Server::set_load_progress(double share) {
  impl_->http_.post([this, share] { impl_->service_.set_load_progress(share); });
}

void Server::attach(ModelText model, EngineClient* engine) {
  impl_->http_.post([this, engine, shared = std::make_shared<ModelText>(std::move(model))] {
    WEIR_CHECK(impl_->engine_ == nullptr, "a model is attached already");
    impl_->model_ = std::move(*shared);
    impl_->engine_ = engine;
    impl_->service_.attach(&impl_->model_, engine);
    impl_->http_.on_readable(engine->event_fd(), [this] { impl_->service_.on_engine_events(); });
  });
}

void Server::run() {
  impl_->http_.every(kTickMs, [this] { impl_->tick(); });
  if (impl_->config_.handle_signals) {
    impl_->http_.on_signals([this] {
      impl_->announce_drain();
      impl_->request_drain();
    });
  }
  impl_->http_.run();
}

void Server::request_drain() {
  impl_->http_.post([this] { impl_->request_drain(); });
}

}  // namespace weir
