// The endpoints that only report: models, tokenizer, load, health, metrics.
#include <fmt/format.h>

#include "api/json_writer.h"
#include "plan/layout.h"
#include "server/service.h"

namespace weir {

namespace {

std::string json_text(std::string_view text) {
  std::string out;
  api::append_json_string(text, &out);
  return out;
}

}  // namespace

std::string Service::model_json(const std::string& name) const {
  return fmt::format(
      R"({{"id":{},"object":"model","created":{},"owned_by":"weir","root":{},"parent":null,"max_model_len":{}}})",
      json_text(name), created_s_, json_text(model_ == nullptr || model_->root.empty() ? name : model_->root),
      prepare_.context_tokens);
}

std::string Service::models_json() const {
  std::string out = R"({"object":"list","data":[)";
  for (const std::string& name : config_->served_model_names) {
    out += (out.ends_with('[') ? "" : ",") + model_json(name);
  }
  return out + "]}";
}

// The shape of a tokenizer_config.json, which is what remote tokenization reads.
std::string Service::tokenizer_info_json() const {
  std::string out =
      fmt::format(R"({{"tokenizer_class":"PreTrainedTokenizerFast","model_max_length":{},"vocab_size":{})",
                  prepare_.context_tokens, model_->tokenizer->size());
  for (const auto& [name, text] : model_->special_tokens) {
    out += "," + json_text(name) + ":" + json_text(text);
  }
  out += ",\"chat_template\":";
  out += model_->templates == nullptr ? "null" : json_text(model_->templates->choose(false).source());
  return out + "}";
}

std::string Service::load_json() const {
  const EngineStats stats = engine_ == nullptr ? EngineStats() : engine_->stats();
  const double usage =
      stats.pages_total > 0 ? static_cast<double>(stats.pages_used) / static_cast<double>(stats.pages_total) : 0;
  return fmt::format(
      R"({{"server_load":{},"dp_size":1,"loads":[{{"dp_rank":0,"num_running_reqs":{},"num_waiting_reqs":{},)"
      R"("num_waiting_tokens":{},"kv_usage":{:.6f}}}]}})",
      open_count(), stats.running, stats.waiting, stats.waiting_tokens, usage);
}

std::string Service::metrics_body() const {
  MetricsContext context;
  context.model_name = config_->served_model_names.front();
  context.version = WEIR_VERSION;
  context.block_size = kGridTokens;
  context.connections = loop_->connection_count();
  context.open_requests = open_count();
  context.ready = not_ready_reason().empty();
  context.with_vllm = config_->vllm_metrics;
  return metrics_text(metrics_, engine_ == nullptr ? EngineStats() : engine_->stats(), context);
}

std::string Service::not_ready_reason() const {
  if (draining_) {
    return "draining";
  }
  if (engine_ == nullptr) {
    return "loading";
  }
  if (engine_->stats().faulted) {
    return "faulted";
  }
  return stalled_ ? "stalled" : "";
}

net::HttpResponse Service::health_response() const {
  const std::string reason = not_ready_reason();
  net::HttpResponse response;
  if (reason.empty()) {
    response.body = R"({"status":"ready"})";
    return response;
  }
  response.status = 503;
  response.headers.push_back({"Retry-After", "5"});
  response.body = fmt::format(R"({{"status":"{}","load_percent":{:.0f}}})", reason, load_progress_ * 100);
  return response;
}

void Service::answer_info(net::HttpExchange* exchange, RouteId route, std::vector<net::HttpHeader> headers) {
  net::HttpResponse response;
  switch (route) {
    case RouteId::kLive:
    case RouteId::kPing:
      response.body = R"({"status":"ok"})";
      break;
    case RouteId::kHealth:
    case RouteId::kReady:
      response = health_response();
      break;
    case RouteId::kVersion:
      response.body = R"({"version":)" + json_text(WEIR_VERSION) + "}";
      break;
    case RouteId::kModels:
      response.body = models_json();
      break;
    case RouteId::kModel: {
      const std::string& path = exchange->request().path;
      constexpr std::string_view kMark = "/models/";
      const std::string name = path.substr(path.find(kMark) + kMark.size());
      if (auto problem = check_model(name, *config_)) {
        response = error_response(*problem, {});
      } else {
        response.body = model_json(name);
      }
      break;
    }
    case RouteId::kTokenizerInfo:
      if (model_ == nullptr) {
        response = error_response(api::from_error({ErrorCode::kUnavailable, "The model is loading", {}}), {});
      } else {
        response.body = tokenizer_info_json();
      }
      break;
    case RouteId::kLoad:
      response.body = load_json();
      break;
    case RouteId::kMetrics:
      response.content_type = "text/plain; version=0.0.4; charset=utf-8";
      response.body = metrics_body();
      break;
    default:
      WEIR_CHECK(false, "route {} is not one that reports", static_cast<int>(route));
  }
  response.headers.insert(response.headers.end(), headers.begin(), headers.end());
  exchange->respond(response);
}

}  // namespace weir
