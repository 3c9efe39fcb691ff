// weir serve: the socket answers at once, the model loads behind it.
#include <fmt/format.h>
#include <sys/resource.h>

#include <cstdio>
#include <mutex>
#include <new>
#include <optional>
#include <system_error>
#include <thread>

#include "base/say.h"
#include "cli/commands.h"
#include "cli/host.h"
#include "cli/loading.h"
#include "server/server.h"

namespace weir {
namespace {

int32_t milliseconds(double seconds) {
  return static_cast<int32_t>(seconds * 1000.0);
}

ServerConfig server_config(const Options& options, const std::string& model_name) {
  ServerConfig config;
  config.host = options.host;
  config.port = static_cast<int>(options.port);
  config.api_keys = options.api_keys;
  config.served_model_names = options.served_model_names;
  if (config.served_model_names.empty()) config.served_model_names.push_back(model_name);
  config.strict_params = options.strict_params;
  config.force_include_usage = options.enable_force_include_usage;
  config.vllm_metrics = options.metrics_compat == "vllm";
  config.drain_delay_ms = milliseconds(options.drain_delay_s);
  config.shutdown_timeout_ms = milliseconds(options.shutdown_timeout_s);
  config.keep_alive_comment_ms = milliseconds(options.sse_ping_s);
  config.http.connections_max = static_cast<int32_t>(options.max_connections);
  config.http.header_bytes_max = static_cast<int32_t>(options.max_header_bytes);
  config.http.body_bytes_max = options.max_body_bytes;
  config.http.header_timeout_ms = milliseconds(options.header_timeout_s);
  config.http.idle_timeout_ms = milliseconds(options.keep_alive_s);
  return config;
}

std::string gib(int64_t bytes) {
  return fmt::format("{:.2f} GiB", static_cast<double>(bytes) / (1 << 30));
}

// Everything behind the socket. Loaded on a thread of its own.
class Backend {
 public:
  explicit Backend(const Options& options) : options_(options) {}

  Status load(Server* server) {
    WEIR_ASSIGN_OR_RETURN(const std::filesystem::path folder, find_model(options_));
    WEIR_ASSIGN_OR_RETURN(text_, load_text(options_, folder));
    phases_.done("text");
    server->set_load_progress(0.2);
    WEIR_ASSIGN_OR_RETURN(model_, load_model(options_, &text_, &phases_));
    server->set_load_progress(0.9);
    WEIR_ASSIGN_OR_RETURN(host_, EngineHost::start(options_, &model_));
    phases_.done("engine");
    client_.emplace(host_->client());

    ModelText text;
    text.tokenizer = text_.tokenizer.get();
    text.templates = text_.templates.standard == nullptr ? nullptr : &text_.templates;
    text.defaults = text_.defaults;
    text.context_tokens = model_.memory.limits.sequence_tokens_max;
    text.vocabulary = model_.memory.limits.vocabulary;
    text.root = options_.model;
    text.special_tokens = text_.special_tokens;
    text.default_template_kwargs = text_.template_kwargs;
    server->attach(std::move(text), &*client_);
    return Ok{};
  }

  // What runs, in a few lines.
  std::string banner(const std::string& url, const std::string& name) const {
    const ModelConfig& config = model_.config;
    const MemoryPlan& memory = model_.memory;
    const RunnerLimits& limits = memory.limits;
    std::string out = fmt::format("{}\n", version_text());
    out += fmt::format(
        "model     {} ({}{}), {} layers, hidden {}, {}\n", name, model_family_name(config.family),
        model_.dummy ? ", random weights" : "", config.layer_count(), config.hidden,
        config.moe() ? fmt::format("{} experts, top {}", config.experts, config.experts_per_token) : "dense");
    out += fmt::format("device    {}\n", model_.model->device_text());
    out += fmt::format("weights   {} packed{}\n", gib(model_.model->weight_bytes()),
                       config.prefill_activations == PrefillActivations::kFp8 ? "; prompts with FP8 activations" : "");
    const char* fp8 = config.kv_format == KvFormat::kFp8 ? "FP8 " : "";
    out +=
        memory.layout.pages_a_slot > 0
            ? fmt::format("caches    {} in {} units, each a state or {} pages of {}KV ({} tokens), for {} sequences\n",
                          gib(memory.page_bytes + memory.slot_bytes), limits.state_slots, memory.layout.pages_a_slot,
                          fp8, memory.layout.pages_a_slot * kGridTokens, limits.rows_max)
            : fmt::format("caches    {} {}KV in {} pages ({} tokens), {} states for {} sequences\n",
                          gib(memory.page_bytes), fp8, limits.pages[0], int64_t{limits.pages[0]} * kGridTokens,
                          gib(memory.slot_bytes), limits.rows_max);
    out += fmt::format("context   {} tokens; {} tokens a step\n", limits.sequence_tokens_max, limits.step_tokens_max);
    if (text_.templates.standard == nullptr) out += fmt::format("chat      off: {}\n", text_.template_problem);
    out += fmt::format("ready     {}\n", phases_.text());
    out += fmt::format("listening {}\n", url);
    out += fmt::format(
        "try       curl {}/v1/chat/completions -H 'Content-Type: application/json' -d '{{\"model\": \"{}\", "
        "\"messages\": [{{\"role\": \"user\", \"content\": \"Hello\"}}]}}'\n",
        url, name);
    return out;
  }

 private:
  const Options& options_;
  Phases phases_;
  TextAssets text_;
  LoadedModel model_;
  std::unique_ptr<EngineHost> host_;
  std::optional<EngineClient> client_;
};

// Loading, with what the system throws as an error: it runs on a thread of its own.
Status load_or_say(Backend* backend, Server* server) {
  try {
    return backend->load(server);
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::kExhausted, "the system gives no more memory",
                 "lower --max-num-batched-tokens, --max-num-seqs or --max-model-len"};
  } catch (const std::system_error& error) {
    return Error{ErrorCode::kExhausted, fmt::format("the system refuses: {}", error.what()),
                 "raise the limits on processes and memory (ulimit -u, ulimit -v), or lower --threads"};
  }
}

// A connection takes a descriptor; the usual soft limit of 1,024 is for programs that use select().
void raise_descriptor_limit(int64_t connections) {
  constexpr rlim_t kOthers = 64;  // the model's files, threads' wake-ups, standard streams
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  const rlim_t wanted = static_cast<rlim_t>(connections) + kOthers;
  if (limit.rlim_cur >= wanted) return;
  say(stderr, "warning: {} open files allowed, {} wanted for --max-connections {}: raise ulimit -n\n", limit.rlim_cur,
      wanted, connections);
}

}  // namespace

Status command_serve(const Options& options) {
  const ServerConfig config = server_config(options, model_name(options.model));
  const bool open = options.host != "127.0.0.1" && options.host != "localhost" && options.host != "::1";
  if (open && options.api_keys.empty()) {
    say(stderr, "warning: {} may be reached by other machines and no --api-key is set\n", options.host);
  }
  raise_descriptor_limit(options.max_connections);
  const SteadyClock clock;
  Backend backend(options);
  Server server(config, &clock);
  WEIR_RETURN_IF_ERROR(server.listen());
  const std::string url = fmt::format("http://{}:{}", options.host, server.port());

  std::optional<Error> problem;
  std::jthread loader([&] {
    if (Status status = load_or_say(&backend, &server); !status.ok()) {
      problem = std::move(status).error();
      // Twice: there is nothing to wait for.
      server.request_drain();
      server.request_drain();
      return;
    }
    say(stdout, "{}", backend.banner(url, config.served_model_names.front()));
  });
  server.run();
  loader.join();
  if (problem) return *problem;
  return Ok{};
}

}  // namespace weir
