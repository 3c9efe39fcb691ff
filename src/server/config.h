// What a server is told at start.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "net/http_server.h"
#include "text/chat.h"
#include "text/generation.h"
#include "text/tokenizer.h"

namespace weir {

struct ServerConfig {
  std::string host = "127.0.0.1";
  int port = 8000;
  std::vector<std::string> api_keys;            // empty: no key is asked for
  std::vector<std::string> served_model_names;  // the first is the one answers carry; at least one
  std::vector<std::string> allowed_origins;     // CORS; "*" is any; empty: off
  bool strict_params = false;                   // unknown request fields are 400
  bool force_include_usage = false;             // as if every stream had asked for usage
  int32_t drain_delay_ms = 0;                   // keep accepting this long after SIGTERM (endpoint removal lags behind)
  int32_t shutdown_timeout_ms = 30'000;         // then let streams finish this long
  int32_t keep_alive_comment_ms = 10'000;       // proxies drop streams that are silent for 30 to 100 s
  int32_t watchdog_ms = 60'000;                 // a step that takes longer makes the server not ready
  int32_t work_threads = 2;                     // for templates and tokenization
  int32_t work_queue_max = 1024;                // requests that may wait for one of them
  bool vllm_metrics = true;                     // metrics under vLLM's names beside our own
  bool handle_signals = true;                   // SIGTERM and SIGINT drain, a second one ends at once
  net::HttpLimits http;
};

// The text side of a model and its sizes. The pointers are borrowed and must outlive the server.
struct ModelText {
  const Tokenizer* tokenizer = nullptr;
  const ChatTemplates* templates = nullptr;  // null: no chat
  GenerationDefaults defaults;
  int64_t context_tokens = 0;  // --max-model-len
  int32_t vocabulary = 0;      // ids that may be sampled
  std::string root;            // what /v1/models calls root: the name the model was asked for by
  std::vector<std::pair<std::string, std::string>> special_tokens;  // bos_token, eos_token, ... for templates
  std::string default_template_kwargs = "{}";                       // JSON object; a request's own win
};

}  // namespace weir
