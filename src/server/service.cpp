#include "server/service.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <utility>

#include "base/say.h"
#include "server/auth.h"

namespace weir {

namespace {

// Events taken in one turn of the loop, so that a busy engine does not starve sockets.
constexpr int32_t kEventsPerTurn = 4096;
constexpr size_t kRequestIdBytesMax = 128;

// Printable ASCII only: the value goes back into a header.
bool is_clean_id(std::string_view id) {
  if (id.empty() || id.size() > kRequestIdBytesMax) {
    return false;
  }
  for (char c : id) {
    if (c <= ' ' || c > '~') {
      return false;
    }
  }
  return true;
}

std::string join_fields(const std::vector<std::string>& names) {
  constexpr size_t kHeaderNamesMax = 32;  // keeps the header small whatever the request has
  std::string out;
  for (size_t i = 0; i < names.size() && i < kHeaderNamesMax; ++i) {
    out += i == 0 ? "" : ", ";
    for (char c : names[i].substr(0, 64)) {
      out += c > ' ' && c <= '~' && c != ',' ? c : '?';
    }
  }
  return out;
}

int64_t wall_clock_s() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Whether a step is in flight, and how many have come back.
std::pair<bool, int64_t> busy_and_steps(const EngineClient& engine) {
  const EngineStats stats = engine.stats();
  return {stats.busy, stats.steps};
}

// More answers than the queue can ever hold: trying again later would not help.
api::ApiError too_many_answers(const Generation& generation, int32_t queue_requests_max) {
  const int32_t answers = generation.choice_count();
  const int32_t each = generation.answers_per_prompt();
  return api::bad_field(
      each > 1 ? "n" : "prompt",
      fmt::format(
          "{} prompts times n = {} are {} answers, but this server's queue holds {}: send fewer in one request, "
          "or start the server with --max-num-queued-reqs {} or more",
          answers / each, each, answers, queue_requests_max, answers),
      "too_large");
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlank = " \t";
  text.remove_prefix(std::min(text.find_first_not_of(kBlank), text.size()));
  return text.substr(0, text.find_last_not_of(kBlank) + 1);
}

// JSON is UTF-8 (RFC 8259, 8.1): a charset that says something else is refused rather than misread.
bool is_utf8_charset(std::string_view parameter) {
  constexpr std::string_view kName = "charset=";
  if (parameter.size() < kName.size() || !net::iequals(parameter.substr(0, kName.size()), kName)) {
    return true;  // another parameter, or none
  }
  std::string_view value = parameter.substr(kName.size());
  if (value.size() >= 2 && value.front() == '"' && value.back() == '"') {
    value = value.substr(1, value.size() - 2);
  }
  return net::iequals(value, "utf-8") || net::iequals(value, "utf8") || net::iequals(value, "us-ascii");
}

bool accepts_json(std::string_view content_type) {
  const std::string_view type = trimmed(content_type.substr(0, content_type.find(';')));
  if (!type.empty() && !net::iequals(type, "application/json")) {
    return false;
  }
  for (size_t at = content_type.find(';'); at != std::string_view::npos; at = content_type.find(';', at + 1)) {
    const size_t end = content_type.find(';', at + 1);
    const std::string_view rest = content_type.substr(at + 1);
    if (!is_utf8_charset(trimmed(end == std::string_view::npos ? rest : rest.substr(0, end - at - 1)))) {
      return false;
    }
  }
  return true;
}

}  // namespace

Service::Service(const ServerConfig* config, const Clock* clock)
    : config_(config),
      clock_(clock),
      created_s_(wall_clock_s()),
      metrics_(1 << 20),
      random_(std::random_device()()),
      pool_(std::make_unique<net::WorkPool>(config->work_threads, config->work_queue_max)) {
  random_.seed((static_cast<uint64_t>(std::random_device()()) << 32U) ^ std::random_device()());
}

Service::~Service() {
  pool_.reset();
}

void Service::attach(const ModelText* model, EngineClient* engine) {
  model_ = model;
  engine_ = engine;
  prepare_.config = config_;
  prepare_.model = model_;
  std::random_device random;
  for (uint64_t& key : prepare_.salt_key) key = (static_cast<uint64_t>(random()) << 32U) ^ random();
  prepare_.context_tokens = std::min(model->context_tokens, engine->sequence_tokens_max());
  metrics_ = ServerMetrics(prepare_.context_tokens);
  progress_us_ = clock_->now_us();
}

std::string Service::random_hex() {
  return fmt::format("{:016x}{:08x}", random_(), random_() >> 32U);
}

std::vector<net::HttpHeader> Service::base_headers(const net::HttpRequest& request) {
  std::vector<net::HttpHeader> headers;
  const std::string_view given = request.header("x-request-id").value_or("");
  headers.push_back({"x-request-id", is_clean_id(given) ? std::string(given) : random_hex()});
  const std::string_view origin = request.header("Origin").value_or("");
  for (const std::string& allowed : config_->allowed_origins) {
    if (!origin.empty() && (allowed == "*" || allowed == origin)) {
      headers.push_back({"Access-Control-Allow-Origin", allowed == "*" ? "*" : std::string(origin)});
      headers.push_back({"Vary", "Origin"});
      break;
    }
  }
  return headers;
}

net::HttpResponse Service::error_response(const api::ApiError& error, std::vector<net::HttpHeader> headers) {
  ++metrics_.http_refused_total;
  net::HttpResponse response;
  response.status = error.status;
  response.headers = std::move(headers);
  if (error.retry_after_s > 0) {
    response.headers.push_back({"Retry-After", std::to_string(error.retry_after_s)});
  }
  if (error.status == 401) {
    response.headers.push_back({"WWW-Authenticate", "Bearer"});
  }
  response.close = refusing_;
  response.body = api::error_json(error);
  return response;
}

net::HttpResponse Service::on_protocol_error(int status, std::string_view reason) {
  ++metrics_.http_requests_total;
  api::ApiError error{status, std::string(reason), {}, {}, 0};
  error.code = status == 413 ? "request_too_large" : status == 408 ? "request_timeout" : "bad_http";
  if (status == 503) {
    error.code = "overloaded";
    error.retry_after_s = 1;
  }
  return error_response(error, {{"x-request-id", random_hex()}});
}

std::optional<net::HttpResponse> Service::on_header(const net::HttpRequest& request) {
  ++metrics_.http_requests_total;
  if (request.method == "OPTIONS") {
    return answer_options(request);
  }
  if (!has_valid_key(request, config_->api_keys)) {
    const RouteMatch match = match_route(request.method, request.path);
    if (match.route == nullptr || !match.route->open) {
      return error_response({401,
                             "The API key is missing or wrong: send 'Authorization: Bearer KEY' or 'x-api-key: KEY'",
                             {},
                             "invalid_api_key",
                             0},
                            base_headers(request));
    }
  }
  const RouteMatch match = match_route(request.method, request.path);
  if (match.route == nullptr) {
    auto headers = base_headers(request);
    if (match.allowed.empty()) {
      return error_response({404, "There is no such path here", {}, "unknown_path", 0}, std::move(headers));
    }
    headers.push_back({"Allow", match.allowed});
    return error_response({405, fmt::format("This path allows {}", match.allowed), {}, "method_not_allowed", 0},
                          std::move(headers));
  }
  if (auto problem = check_door(request, *match.route)) {
    return error_response(*problem, base_headers(request));
  }
  return std::nullopt;
}

std::optional<api::ApiError> Service::check_door(const net::HttpRequest& request, const Route& route) {
  if (route.method == "POST" && (!accepts_json(request.header("Content-Type").value_or("")) ||
                                 request.header("Content-Encoding").value_or("identity") != "identity")) {
    return api::ApiError{415,
                         "The body must be plain JSON in UTF-8: send 'Content-Type: application/json'",
                         {},
                         "unsupported_media_type",
                         0};
  }
  if (!route.work) {
    return std::nullopt;
  }
  if (refusing_) {
    return api::from_error({ErrorCode::kUnavailable, "The server is shutting down", {}});
  }
  if (engine_ == nullptr) {
    return api::from_error(
        {ErrorCode::kUnavailable, fmt::format("The model is loading ({:.0f} %)", load_progress_ * 100), {}});
  }
  return std::nullopt;
}

std::optional<net::HttpResponse> Service::answer_options(const net::HttpRequest& request) {
  net::HttpResponse response;
  response.status = 204;
  response.content_type.clear();
  response.headers = base_headers(request);
  const RouteMatch match = match_route("OPTIONS", request.path);
  const std::string methods = match.allowed.empty() ? "GET, HEAD, POST, OPTIONS" : match.allowed;
  response.headers.push_back({"Allow", methods});
  if (response.headers.size() > 2 && response.headers[1].name == "Access-Control-Allow-Origin") {
    response.headers.push_back({"Access-Control-Allow-Methods", methods});
    response.headers.push_back(
        {"Access-Control-Allow-Headers", "Authorization, Content-Type, X-Api-Key, X-Request-Id"});
    response.headers.push_back({"Access-Control-Max-Age", "600"});
  }
  return response;
}

void Service::on_request(std::shared_ptr<net::HttpExchange> exchange) {
  const net::HttpRequest& request = exchange->request();
  const RouteMatch match = match_route(request.method, request.path);
  WEIR_CHECK(match.route != nullptr, "a request without a route passed the door");
  if (match.route->work) {
    start_work(exchange, match.route->id, base_headers(request));
  } else {
    answer_info(exchange.get(), match.route->id, base_headers(request));
  }
}

// Reserves a place in the queue before anything costly is done, then hands the body to the pool.
void Service::start_work(std::shared_ptr<net::HttpExchange> exchange, RouteId route,
                         std::vector<net::HttpHeader> headers) {
  Job job;
  job.arrival_us = clock_->now_us();
  job.route = route;
  if (route == RouteId::kChat || route == RouteId::kCompletions) {
    auto ticket = engine_->try_reserve(1);
    if (!ticket.ok()) {
      exchange->respond(error_response(api::from_error(ticket.error()), std::move(headers)));
      return;
    }
    job.ticket = std::move(ticket).value();
  }
  const int64_t job_id = next_id_++;
  job.body_bytes = static_cast<int64_t>(exchange->request().body.size());
  if (preparing_bytes_ + job.body_bytes > config_->http.bodies_bytes_max) {
    exchange->respond(error_response(
        api::from_error({ErrorCode::kUnavailable, "Too many large requests are being prepared", {}}), headers));
    return;
  }
  // Shared because the pool's tasks are copyable functions.
  auto body = std::make_shared<std::string>(std::move(exchange->mutable_request().body));
  const bool queued = pool_->submit([this, job_id, route, body] {
    auto outcome = std::make_shared<Outcome>(prepare(route, *body));
    loop_->post([this, job_id, outcome] { on_prepared(job_id, std::move(*outcome)); });
  });
  if (!queued) {
    exchange->respond(
        error_response(api::from_error({ErrorCode::kExhausted, "Too many requests are being prepared", {}}), headers));
    return;
  }
  preparing_bytes_ += job.body_bytes;
  job.exchange = std::move(exchange);
  job.headers = std::move(headers);
  jobs_.emplace(job_id, std::move(job));
}

Service::Outcome Service::prepare(RouteId route, const std::string& body) const {
  const auto widen = [](auto parsed) {
    return std::visit([](auto&& value) { return Outcome(std::move(value)); }, std::move(parsed));
  };
  const auto rendered = [this](api::Parsed<Prepared> parsed) {
    if (const auto* prepared = std::get_if<Prepared>(&parsed)) {
      return Outcome(render_json(*prepared, config_->served_model_names.front()));
    }
    return Outcome(std::get<api::ApiError>(std::move(parsed)));
  };
  try {
    switch (route) {
      case RouteId::kChat:
        return widen(prepare_chat(body, prepare_));
      case RouteId::kCompletions:
        return widen(prepare_completion(body, prepare_));
      case RouteId::kChatRender:
        return rendered(prepare_chat(body, prepare_));
      case RouteId::kCompletionsRender:
        return rendered(prepare_completion(body, prepare_));
      case RouteId::kTokenize:
        return widen(answer_tokenize(body, prepare_));
      default:
        return widen(answer_detokenize(body, prepare_));
    }
  } catch (const std::exception&) {
    // Out of memory, or a fault of ours: this request fails, the others go on.
    return api::from_error({ErrorCode::kInternal, "The request could not be prepared", {}});
  }
}

// What is ignored is said once per process, whatever clients send.
void Service::log_once(const api::GenerationOptions& options) {
  if (options.has_accepted_fields && !std::exchange(logged_accepted_, true)) {
    say(stderr, "note: requests carry fields that have no effect here, such as user or metadata\n");
  }
  if (!options.unknown_fields.empty() && !std::exchange(logged_unknown_, true)) {
    say(stderr, "note: requests carry unknown fields, such as {}; they are ignored\n",
        join_fields({options.unknown_fields.front()}));
  }
}

void Service::on_prepared(int64_t job_id, Outcome outcome) {
  const auto found = jobs_.find(job_id);
  if (found == jobs_.end()) {
    return;
  }
  Job job = std::move(found->second);
  jobs_.erase(found);
  preparing_bytes_ -= job.body_bytes;
  if (!job.exchange->alive()) {
    return;
  }
  if (auto* error = std::get_if<api::ApiError>(&outcome)) {
    job.exchange->respond(error_response(*error, std::move(job.headers)));
  } else if (auto* body = std::get_if<std::string>(&outcome)) {
    net::HttpResponse response;
    response.headers = std::move(job.headers);
    response.body = std::move(*body);
    job.exchange->respond(response);
  } else {
    start_generation(std::move(job), std::get<Prepared>(std::move(outcome)));
  }
}

void Service::start_generation(Job job, Prepared prepared) {
  GenerationSetup setup;
  const api::GenerationOptions& options = prepared.options;
  log_once(options);
  const std::optional<int64_t> seed = options.seed;
  const int32_t priority = options.priority;
  setup.headers = job.headers;
  if (!options.unknown_fields.empty()) {
    setup.headers.push_back({"x-weir-ignored-fields", join_fields(options.unknown_fields)});
  }
  setup.response_id = (prepared.kind == api::ResponseKind::kChat ? "chatcmpl-" : "cmpl-") +
                      (options.request_id.empty() ? random_hex() : options.request_id);
  setup.model_name = options.model.empty() ? config_->served_model_names.front() : options.model;
  setup.created_s = wall_clock_s();
  setup.arrival_us = job.arrival_us;
  setup.exchange = job.exchange;
  setup.force_include_usage = config_->force_include_usage;
  setup.tokenizer = model_->tokenizer;
  setup.metrics = &metrics_;
  setup.prepared = std::move(prepared);
  const int64_t id = next_id_++;
  auto generation = std::make_unique<Generation>(std::move(setup));
  if (auto problem = submit_all(generation.get(), id, std::move(job.ticket), seed, priority, job.arrival_us)) {
    job.exchange->respond(error_response(*problem, std::move(job.headers)));
    return;
  }
  generation->count_start();
  // Posted: the call may come from within a write of the generation itself.
  job.exchange->on_disconnect([this, id] { loop_->post([this, id] { client_gone(id); }); });
  generations_.emplace(id, std::move(generation));
}

std::optional<api::ApiError> Service::submit_all(Generation* generation, int64_t generation_id, Ticket ticket,
                                                 std::optional<int64_t> seed, int32_t priority, int64_t arrival_us) {
  Ticket more;
  std::optional<api::ApiError> problem;
  if (generation->choice_count() > engine_->queue_requests_max()) {
    return too_many_answers(*generation, engine_->queue_requests_max());
  }
  if (generation->choice_count() > 1) {
    auto reserved = engine_->try_reserve(generation->choice_count() - 1);
    if (!reserved.ok()) {
      return api::from_error(reserved.error());
    }
    more = std::move(reserved).value();
  }
  const uint64_t request_seed = seed.has_value() ? static_cast<uint64_t>(*seed) : random_();
  int32_t submitted = 0;
  for (; submitted < generation->choice_count() && !problem.has_value(); ++submitted) {
    const PreparedPrompt& prompt = generation->prompt_of(submitted);
    GenerateHeader header;
    header.id = engine_->next_id();
    header.arrival_us = arrival_us;
    header.priority = priority;
    header.suffix_count = prompt.suffix_count;
    header.salt = generation->salt();
    header.sampling = prompt.sampling;
    header.sampling.seed = api::choice_seed(request_seed, generation->choice_in_prompt(submitted));
    const Status status = engine_->submit(submitted == 0 ? &ticket : &more, header, prompt.ids);
    if (!status.ok()) {
      problem = api::from_error(status.error());
      break;
    }
    generation->set_sequence(submitted, header.id);
    owners_[header.id] = {generation_id, submitted};
  }
  if (problem.has_value()) {
    for (int32_t i = 0; i < submitted; ++i) {
      owners_.erase(generation->sequence(i));
      engine_->cancel(generation->sequence(i));
    }
  }
  return problem;
}

void Service::on_engine_events() {
  for (int32_t i = 0; i < kEventsPerTurn; ++i) {
    if (!engine_->poll(&event_)) {
      return;
    }
    const auto found = owners_.find(event_.header.id);
    if (found == owners_.end()) {
      continue;  // cancelled before
    }
    const SequenceOwner owner = found->second;
    Generation* generation = generations_.at(owner.generation).get();
    if (generation->on_event(owner.choice, event_)) {
      engine_->cancel(event_.header.id);
    }
    if (generation->choice_done(owner.choice)) {
      owners_.erase(event_.header.id);
    }
    if (generation->complete()) {
      retire(owner.generation);
    }
  }
  loop_->post([this] { on_engine_events(); });
}

// Forgets a generation whose response is complete; what still runs for it is cancelled.
void Service::retire(int64_t generation_id) {
  const auto found = generations_.find(generation_id);
  if (found == generations_.end()) {
    return;
  }
  Generation* generation = found->second.get();
  for (int32_t i = 0; i < generation->choice_count(); ++i) {
    if (owners_.erase(generation->sequence(i)) > 0) {
      engine_->cancel(generation->sequence(i));
    }
  }
  metrics_.slow_readers_total += generation->exchange().cut_off() ? 1 : 0;
  generation->abandon(clock_->now_us());
  generations_.erase(found);
}

void Service::client_gone(int64_t generation_id) {
  const auto found = generations_.find(generation_id);
  if (found != generations_.end()) {
    retire(generation_id);
  }
}

void Service::tick() {
  const int64_t now_us = clock_->now_us();
  watch_progress(now_us);
  const int64_t before_us = now_us - int64_t{config_->keep_alive_comment_ms} * 1000;
  std::vector<int64_t> ended;
  for (auto& [id, generation] : generations_) {
    generation->keep_alive(before_us, now_us);
    if (generation->complete()) {
      ended.push_back(id);
    }
  }
  for (int64_t id : ended) {
    retire(id);
  }
}

// A step in flight must come back: the time since the last one did, or since there was none, is what the watchdog sees.
void Service::watch_progress(int64_t now_us) {
  if (engine_ == nullptr) {
    return;
  }
  if (const auto [busy, steps] = busy_and_steps(*engine_); !busy || steps != steps_seen_) {
    steps_seen_ = steps;
    progress_us_ = now_us;
  }
  stalled_ = now_us - progress_us_ > int64_t{config_->watchdog_ms} * 1000;
}

void Service::fail_all(const api::ApiError& error) {
  for (auto& [id, job] : jobs_) {
    if (job.exchange->alive()) {
      job.exchange->respond(error_response(error, job.headers));
    }
  }
  jobs_.clear();
  preparing_bytes_ = 0;
  std::vector<int64_t> ids;
  for (auto& [id, generation] : generations_) {
    generation->fail(error);
    ids.push_back(id);
  }
  for (int64_t id : ids) {
    retire(id);
  }
}

}  // namespace weir
