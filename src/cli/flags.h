// Every flag of every command, in one table: parsing, validation, help and docs/flags.md come from it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"

namespace weir {

enum class Command : uint32_t {
  kServe = 1U << 0,
  kChat = 1U << 1,
  kRun = 1U << 2,
  kPull = 1U << 3,
  kInspect = 1U << 4,
  kPlan = 1U << 5,
  kLogits = 1U << 6,
  kBench = 1U << 7,
};

// What the command line said, defaults filled in.
struct Options {
  Command command = Command::kServe;
  std::string model;   // directory, or ORG/NAME in the hub's cache
  std::string prompt;  // run: the prompt; logits: the token file
  bool trust_remote_code = false;

  // Loading.
  std::string load_format;
  std::string dummy_format;
  std::string chat_template;
  std::string default_chat_template_kwargs;
  std::string generation_config;
  std::string revision;

  // Machine and memory.
  int64_t threads = 0;
  std::string isa;
  std::string device;
  bool strict_kernels = false;
  int64_t max_model_len = 0;
  int64_t max_num_seqs = 0;
  int64_t max_num_batched_tokens = 0;
  int64_t long_prefill_token_threshold = 0;
  int64_t kv_cache_memory_bytes = 0;
  std::string kv_cache_dtype;
  std::string prefill_activations;
  int64_t block_size = 0;
  std::string enable_prefix_caching;  // true, false, or empty: as the device and the command have it
  bool reuse_generated = false;
  int64_t checkpoint_interval = 0;
  std::string speculative_config;  // JSON object
  std::string method;
  int64_t num_speculative_tokens = 0;
  bool adaptive_drafts = true;
  int64_t draft_vocabulary = 0;

  // Queue and server.
  int64_t max_num_queued_reqs = 0;
  int64_t max_num_queued_tokens = 0;
  int64_t priority_aging_ms = 0;
  std::string host;
  int64_t port = 0;
  std::vector<std::string> api_keys;
  std::vector<std::string> served_model_names;
  bool strict_params = false;
  bool enable_force_include_usage = false;
  int64_t max_connections = 0;
  int64_t max_body_bytes = 0;
  int64_t max_header_bytes = 0;
  double header_timeout_s = 0;
  double keep_alive_s = 0;
  double sse_ping_s = 0;
  double shutdown_timeout_s = 0;
  double drain_delay_s = 0;
  std::string metrics_compat;
  std::string log_level;
  int64_t seed = 0;

  // Generation from the command line.
  double temperature = 0;
  double top_p = 0;
  int64_t top_k = 0;
  double min_p = 0;
  int64_t max_tokens = 0;
  std::string system;
  bool raw = false;
  bool thinking = false;
  bool print_token_ids = false;
  bool stats = false;

  // logits.
  int64_t drafts = 0;
  int64_t chunk = 0;
  int64_t top = 0;
  bool json = false;

  // bench.
  std::string streams;
  std::string cached_prompts;
  int64_t cached_percent = 0;
  std::string second_turns;
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
  int64_t repeats = 0;
  bool ops = false;
  double pinned_acceptance = 0;  // 0: acceptance is measured
};

// Kinds of value. kCount and kBytes take suffixes k, m, g (1024 each): "32k".
enum class FlagKind : uint8_t { kSwitch, kText, kList, kChoice, kCount, kBytes, kNumber };

struct Flag {
  using Member = std::variant<bool Options::*, std::string Options::*, std::vector<std::string> Options::*,
                              int64_t Options::*, double Options::*>;
  std::string_view name;  // without dashes; underscores are read as dashes
  uint32_t commands;      // Command bits
  FlagKind kind;
  Member member;
  std::string_view value;  // default, as one would type it; "" = none
  double low;              // range of numbers, both ends allowed
  double high;
  std::string_view unit;     // "" = none
  std::string_view choices;  // kChoice: separated by '|'
  std::string_view help;     // one sentence
  std::string_view aliases;  // separated by ' '
};

std::span<const Flag> flag_table();

struct CommandInfo {
  Command command;
  std::string_view name;
  std::string_view arguments;  // "MODEL [PROMPT]"
  std::string_view help;
};

std::span<const CommandInfo> command_table();

// Parses argv[1..). The error says which flag and what to type instead. `--help` and `--version` are left to the
// caller.
Result<Options> parse_options(std::span<const std::string> arguments);

// The help text of one command, or of all.
std::string command_help(Command command);
std::string overall_help();
// docs/flags.md.
std::string flags_markdown();

}  // namespace weir
