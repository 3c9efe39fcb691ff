#include "server/routes.h"

#include <fmt/format.h>

#include <array>

namespace weir {

namespace {

constexpr bool kOpen = true;
constexpr bool kClosed = false;
constexpr bool kWork = true;
constexpr bool kInfo = false;

// Unprefixed aliases are used by several clients; health checks by every orchestrator.
constexpr std::array kRoutes = {
    Route{"POST", "/v1/chat/completions", RouteId::kChat, kClosed, kWork},
    Route{"POST", "/chat/completions", RouteId::kChat, kClosed, kWork},
    Route{"POST", "/v1/completions", RouteId::kCompletions, kClosed, kWork},
    Route{"POST", "/completions", RouteId::kCompletions, kClosed, kWork},
    Route{"POST", "/v1/chat/completions/render", RouteId::kChatRender, kClosed, kWork},
    Route{"POST", "/v1/completions/render", RouteId::kCompletionsRender, kClosed, kWork},
    Route{"POST", "/tokenize", RouteId::kTokenize, kClosed, kWork},
    Route{"POST", "/v1/tokenize", RouteId::kTokenize, kClosed, kWork},
    Route{"POST", "/detokenize", RouteId::kDetokenize, kClosed, kWork},
    Route{"POST", "/v1/detokenize", RouteId::kDetokenize, kClosed, kWork},
    Route{"GET", "/tokenizer_info", RouteId::kTokenizerInfo, kClosed, kInfo},
    Route{"GET", "/v1/models", RouteId::kModels, kClosed, kInfo},
    Route{"GET", "/models", RouteId::kModels, kClosed, kInfo},
    Route{"GET", "/v1/models/", RouteId::kModel, kClosed, kInfo},
    Route{"GET", "/models/", RouteId::kModel, kClosed, kInfo},
    Route{"GET", "/version", RouteId::kVersion, kClosed, kInfo},
    Route{"GET", "/metrics", RouteId::kMetrics, kClosed, kInfo},
    Route{"GET", "/load", RouteId::kLoad, kClosed, kInfo},
    Route{"GET", "/v1/loads", RouteId::kLoad, kClosed, kInfo},
    Route{"GET", "/health", RouteId::kHealth, kOpen, kInfo},
    Route{"GET", "/ready", RouteId::kReady, kOpen, kInfo},
    Route{"GET", "/live", RouteId::kLive, kOpen, kInfo},
    Route{"GET", "/ping", RouteId::kPing, kOpen, kInfo},
};

bool matches(const Route& route, std::string_view path) {
  if (route.path.ends_with('/')) {
    return path.size() > route.path.size() && path.starts_with(route.path);
  }
  return path == route.path;
}

}  // namespace

std::span<const Route> route_table() {
  return kRoutes;
}

RouteMatch match_route(std::string_view method, std::string_view path) {
  RouteMatch out;
  for (const Route& route : kRoutes) {
    if (!matches(route, path)) {
      continue;
    }
    if (route.method == method || (route.method == "GET" && method == "HEAD")) {
      out.route = &route;
      return out;
    }
    out.allowed += fmt::format("{}{}{}, OPTIONS", out.allowed.empty() ? "" : ", ", route.method,
                               route.method == "GET" ? ", HEAD" : "");
  }
  return out;
}

std::string route_table_json() {
  std::string out = "[";
  for (const Route& route : kRoutes) {
    out += fmt::format("{}{{\"method\":\"{}\",\"path\":\"{}\",\"open\":{},\"work\":{}}}", out.size() == 1 ? "" : ",",
                       route.method, route.path, route.open, route.work);
  }
  return out + "]";
}

}  // namespace weir
