// The whole server and engine over the echo runner: what the API's test suite runs when there is no model.
// Prints "listening on PORT" once requests are served.
#include <fmt/format.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <thread>

#include "api/fields.h"
#include "base/wake.h"
#include "engine/engine.h"
#include "server/routes.h"
#include "server/server.h"
#include "server/sim/byte_tokenizer.h"
#include "server/sim/echo_runner.h"

namespace weir::sim {
namespace {

constexpr const char* kTemplate =
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if enable_thinking is defined and enable_thinking -%}{{ '<think>' }}{%- endif -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}";

struct Options {
  ServerConfig server;
  EngineConfig engine;
  RunnerLimits runner;
  EchoTiming timing;
};

Options defaults() {
  Options options;
  options.server.served_model_names = {"sim"};
  options.server.port = 0;
  options.runner.rows_max = 64;
  options.runner.step_tokens_max = 512;
  options.runner.state_slots = 64;
  options.runner.pages = {1024};
  options.runner.sequence_tokens_max = 4096;
  return options;
}

using Setter = std::function<void(Options*, const std::string&)>;

int64_t whole(const std::string& text) {
  return std::strtoll(text.c_str(), nullptr, 10);
}
int32_t count(const std::string& text) {
  return static_cast<int32_t>(whole(text));
}
int32_t milliseconds(const std::string& text) {
  return static_cast<int32_t>(std::strtod(text.c_str(), nullptr) * 1000);
}

// Names are those of `weir serve` where it has the flag.
const std::map<std::string, Setter>& flags() {
  static const std::map<std::string, Setter> kFlags = {
      {"port", [](Options* o, const std::string& v) { o->server.port = count(v); }},
      {"api-key", [](Options* o, const std::string& v) { o->server.api_keys.push_back(v); }},
      {"served-model-name", [](Options* o, const std::string& v) { o->server.served_model_names.push_back(v); }},
      {"allowed-origins", [](Options* o, const std::string& v) { o->server.allowed_origins.push_back(v); }},
      {"metrics-compat", [](Options* o, const std::string& v) { o->server.vllm_metrics = v == "vllm"; }},
      {"strict-params", [](Options* o, const std::string&) { o->server.strict_params = true; }},
      {"enable-force-include-usage", [](Options* o, const std::string&) { o->server.force_include_usage = true; }},
      {"drain-delay", [](Options* o, const std::string& v) { o->server.drain_delay_ms = milliseconds(v); }},
      {"shutdown-timeout", [](Options* o, const std::string& v) { o->server.shutdown_timeout_ms = milliseconds(v); }},
      {"sse-ping-interval",
       [](Options* o, const std::string& v) { o->server.keep_alive_comment_ms = milliseconds(v); }},
      {"header-timeout", [](Options* o, const std::string& v) { o->server.http.header_timeout_ms = milliseconds(v); }},
      {"body-timeout", [](Options* o, const std::string& v) { o->server.http.body_timeout_ms = milliseconds(v); }},
      {"keep-alive-timeout",
       [](Options* o, const std::string& v) { o->server.http.idle_timeout_ms = milliseconds(v); }},
      {"new-connection", [](Options* o, const std::string& v) { o->server.http.new_connection_ms = milliseconds(v); }},
      {"max-connections", [](Options* o, const std::string& v) { o->server.http.connections_max = count(v); }},
      {"max-num-queued-reqs", [](Options* o, const std::string& v) { o->engine.queue_requests_max = count(v); }},
      {"max-num-seqs", [](Options* o, const std::string& v) { o->runner.rows_max = o->runner.state_slots = count(v); }},
      {"max-num-batched-tokens", [](Options* o, const std::string& v) { o->runner.step_tokens_max = count(v); }},
      {"max-model-len", [](Options* o, const std::string& v) { o->runner.sequence_tokens_max = whole(v); }},
      {"pages", [](Options* o, const std::string& v) { o->runner.pages = {count(v)}; }},
      {"step-us", [](Options* o, const std::string& v) { o->timing.step_us = whole(v); }},
      {"prompt-token-us", [](Options* o, const std::string& v) { o->timing.prompt_token_us = whole(v); }},
  };
  return kFlags;
}

bool is_switch(const std::string& name) {
  return name == "strict-params" || name == "enable-force-include-usage";
}

int usage(const char* problem) {
  std::fprintf(stderr, "server_sim: %s\nflags: --print-api-table --print-api-docs --print-routes", problem);
  for (const auto& [name, setter] : flags()) {
    std::fprintf(stderr, " --%s", name.c_str());
  }
  std::fprintf(stderr, "\n");
  return 2;
}

ModelText model_text(const Options& options, const ByteTokenizer* tokenizer, const ChatTemplates* templates) {
  ModelText model;
  model.tokenizer = tokenizer;
  model.templates = templates;
  model.defaults.eos_ids = {kTurnEnd, kTextEnd};
  model.context_tokens = options.runner.sequence_tokens_max;
  model.vocabulary = tokenizer->size();
  model.root = "sim";
  model.special_tokens = {{"eos_token", "<|im_end|>"}};
  return model;
}

int serve(Options options) {
  const ByteTokenizer tokenizer;
  const SteadyClock clock;
  Wake wake;
  options.runner.vocabulary = tokenizer.size();
  CacheLayout layout;
  layout.classes = {{"kv", 1024, kGridTokens}};
  layout.state_slot_bytes = 1024;
  EchoRunner runner(options.runner, options.timing, &tokenizer, [&wake] { wake.notify(); });
  auto engine = Engine::create(options.engine, layout, &runner, &clock, &wake);
  auto parsed = ChatTemplate::parse(kTemplate);
  if (!engine.ok() || !parsed.ok()) {
    std::fprintf(stderr, "server_sim: %s\n", (engine.ok() ? parsed.error() : engine.error()).text().c_str());
    return 1;
  }
  ChatTemplates templates;
  templates.standard = std::move(parsed).value();
  EngineClient client = engine->client();
  Server server(options.server, &clock);
  const Status listening = server.listen();
  if (!listening.ok()) {
    std::fprintf(stderr, "server_sim: %s\n", listening.error().text().c_str());
    return 1;
  }
  std::atomic<bool> stop{false};
  std::thread engine_thread([&] { engine->run(stop); });
  server.attach(model_text(options, &tokenizer, &templates), &client);
  std::printf("listening on %d\n", server.port());
  std::fflush(stdout);
  server.run();
  stop = true;
  wake.notify();
  engine_thread.join();
  return 0;
}

int run(int argc, char** argv) {
  Options options = defaults();
  for (int i = 1; i < argc; ++i) {
    const std::string name = std::strncmp(argv[i], "--", 2) == 0 ? argv[i] + 2 : "";
    if (name == "print-api-table") {
      return std::puts(api::field_table_json().c_str()) < 0 ? 1 : 0;
    }
    if (name == "print-api-docs") {
      return std::fputs(api::field_table_markdown().c_str(), stdout) < 0 ? 1 : 0;
    }
    if (name == "print-routes") {
      return std::puts(route_table_json().c_str()) < 0 ? 1 : 0;
    }
    const auto flag = flags().find(name);
    if (flag == flags().end()) {
      return usage(fmt::format("unknown flag {}", argv[i]).c_str());
    }
    if (!is_switch(name) && ++i == argc) {
      return usage(fmt::format("--{} needs a value", name).c_str());
    }
    flag->second(&options, is_switch(name) ? "" : argv[i]);
  }
  return serve(options);
}

}  // namespace
}  // namespace weir::sim

int main(int argc, char** argv) {
  // As in the program: a reader that goes away must not end the server.
  std::signal(SIGPIPE, SIG_IGN);
  return weir::sim::run(argc, argv);
}
