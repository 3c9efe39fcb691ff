// The server's requests: checks them at the door, prepares them off the loop, feeds the engine and answers.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "engine/engine.h"
#include "net/http_server.h"
#include "net/work_pool.h"
#include "server/config.h"
#include "server/generation.h"
#include "server/metrics.h"
#include "server/prepare.h"
#include "server/routes.h"

namespace weir {

// Belongs to the event loop's thread, but for what the work pool runs.
class Service final : public net::HttpHandler {
 public:
  Service(const ServerConfig* config, const Clock* clock);
  ~Service() override;

  // The loop that runs the service; set once before the first request.
  void set_loop(net::HttpServer* loop) { loop_ = loop; }
  // From now on requests are served; both are borrowed.
  void attach(const ModelText* model, EngineClient* engine);
  void set_load_progress(double share) { load_progress_ = share; }

  // --- net::HttpHandler ---
  std::optional<net::HttpResponse> on_header(const net::HttpRequest& request) override;
  void on_request(std::shared_ptr<net::HttpExchange> exchange) override;
  net::HttpResponse on_protocol_error(int status, std::string_view reason) override;

  // Takes what the engine has to say.
  void on_engine_events();
  // Keep-alive comments.
  void tick();

  // --- drain ---
  void set_draining() { draining_ = true; }  // not ready, still accepting
  void set_refusing() { refusing_ = true; }  // new work is 503
  bool refusing() const { return refusing_; }
  // Requests whose response is not complete.
  int64_t open_count() const { return static_cast<int64_t>(jobs_.size() + generations_.size()); }
  // Ends every open response with `error`.
  void fail_all(const api::ApiError& error);

 private:
  // A request between the door and the engine.
  struct Job {
    // Shared: the connection and the work under way may each outlive the other.
    std::shared_ptr<net::HttpExchange> exchange;
    Ticket ticket;
    std::vector<net::HttpHeader> headers;
    int64_t arrival_us = 0;
    int64_t body_bytes = 0;
    RouteId route = RouteId::kChat;
  };
  struct SequenceOwner {
    int64_t generation = 0;
    int32_t choice = 0;
  };
  // What the work pool hands back: something to generate, or a body to answer with.
  using Outcome = std::variant<Prepared, std::string, api::ApiError>;

  std::optional<api::ApiError> check_door(const net::HttpRequest& request, const Route& route);
  std::optional<net::HttpResponse> answer_options(const net::HttpRequest& request);
  std::vector<net::HttpHeader> base_headers(const net::HttpRequest& request);
  net::HttpResponse error_response(const api::ApiError& error, std::vector<net::HttpHeader> headers);
  void answer_info(net::HttpExchange* exchange, RouteId route, std::vector<net::HttpHeader> headers);
  void start_work(std::shared_ptr<net::HttpExchange> exchange, RouteId route, std::vector<net::HttpHeader> headers);
  // On a thread of the pool.
  Outcome prepare(RouteId route, const std::string& body) const;
  void on_prepared(int64_t job_id, Outcome outcome);
  void log_once(const api::GenerationOptions& options);
  void start_generation(Job job, Prepared prepared);
  std::optional<api::ApiError> submit_all(Generation* generation, int64_t generation_id, Ticket ticket,
                                          std::optional<int64_t> seed, int32_t priority, int64_t arrival_us);
  void watch_progress(int64_t now_us);
  void retire(int64_t generation_id);
  void client_gone(int64_t generation_id);
  std::string random_hex();

  std::string models_json() const;
  std::string model_json(const std::string& name) const;
  std::string tokenizer_info_json() const;
  std::string load_json() const;
  std::string metrics_body() const;
  // Empty: ready. Otherwise why not.
  std::string not_ready_reason() const;
  net::HttpResponse health_response() const;

  const ServerConfig* config_;
  const Clock* clock_;
  net::HttpServer* loop_ = nullptr;
  const ModelText* model_ = nullptr;
  EngineClient* engine_ = nullptr;
  PrepareContext prepare_;
  double load_progress_ = 0;
  int64_t created_s_;
  bool draining_ = false;
  bool refusing_ = false;
  bool stalled_ = false;
  int64_t steps_seen_ = 0;
  int64_t progress_us_ = 0;
  bool logged_accepted_ = false;
  bool logged_unknown_ = false;
  int64_t preparing_bytes_ = 0;  // bodies with the pool
  ServerMetrics metrics_;
  Event event_;
  std::mt19937_64 random_;
  int64_t next_id_ = 1;
  std::unordered_map<int64_t, Job> jobs_;
  std::unordered_map<int64_t, std::unique_ptr<Generation>> generations_;
  std::unordered_map<SequenceId, SequenceOwner> owners_;
  // Last: its threads end before what they use.
  std::unique_ptr<net::WorkPool> pool_;
};

}  // namespace weir
