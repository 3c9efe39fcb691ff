// The one table of routes: dispatch, the check of the API key and the test that enumerates them come from it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace weir {

enum class RouteId : uint8_t {
  kChat,
  kCompletions,
  kChatRender,
  kCompletionsRender,
  kTokenize,
  kDetokenize,
  kTokenizerInfo,
  kModels,
  kModel,
  kVersion,
  kMetrics,
  kLoad,
  kLive,
  kPing,
  kReady,
  kHealth,
};

struct Route {
  std::string_view method;  // GET routes answer HEAD too
  std::string_view path;    // a trailing '/' matches everything below it
  RouteId id = RouteId::kHealth;
  bool open = false;  // needs no API key: for probes only
  bool work = false;  // refused while loading and draining
};

std::span<const Route> route_table();

// The route of a path for a method. `route` is null if there is none; then `allowed` has the methods the path does
// have (405), or is empty (404).
struct RouteMatch {
  const Route* route = nullptr;
  std::string allowed;
};
RouteMatch match_route(std::string_view method, std::string_view path);

// The routes as a JSON list.
std::string route_table_json();

}  // namespace weir
