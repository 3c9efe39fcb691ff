#include "cli/loading.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/clock.h"
#include "models/draft_head.h"
#include "models/weights.h"
#include "ops/sample/pinned_acceptance.h"
#include "runner/cache_places.h"
#include "runner/cpu_model.h"
#include "runner/gpu_model.h"
#include "runner/host_drafter.h"
#include "weights/checkpoint.h"

namespace weir {
namespace {

constexpr int64_t kConfigBytesMax = 16 << 20;

std::string size_text(int64_t bytes) {
  if (bytes < int64_t{1} << 20) return fmt::format("{:.1f} KiB", static_cast<double>(bytes) / 1024);
  if (bytes >= int64_t{10} << 30) return fmt::format("{:.1f} GiB", static_cast<double>(bytes) / (1 << 30));
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20));
}

int64_t read_number_file(const char* path) {
  std::ifstream file(path);
  int64_t value = -1;
  file >> value;
  return file ? value : -1;
}

// The *_token entries of tokenizer_config.json: strings, or objects with "content".
std::vector<std::pair<std::string, std::string>> special_tokens(const std::filesystem::path& folder) {
  std::vector<std::pair<std::string, std::string>> tokens;
  const auto text = read_file(folder / "tokenizer_config.json", kConfigBytesMax);
  if (!text) return tokens;
  const auto config = nlohmann::ordered_json::parse(*text, nullptr, false);
  if (!config.is_object()) return tokens;
  for (const auto& [key, value] : config.items()) {
    if (!key.ends_with("_token")) continue;
    if (value.is_string()) tokens.emplace_back(key, value.get<std::string>());
    if (value.is_object() && value.contains("content") && value["content"].is_string()) {
      tokens.emplace_back(key, value["content"].get<std::string>());
    }
  }
  return tokens;
}

CpuOptions cpu_options(const Options& options) {
  CpuOptions cpu;
  cpu.threads = static_cast<int>(options.threads);
  cpu.isa = isa_from_name(options.isa);
  return cpu;
}

// The GPU that --device names, opened before anything is loaded; null for the CPU.
Result<std::unique_ptr<device::Device>> open_device(const Options& options) {
  const std::string& name = options.device;
  if (name == "cpu") return std::unique_ptr<device::Device>();
  int index = 0;
  bool known = name == "cuda";
  if (name.starts_with("cuda:")) {
    const char* end = name.data() + name.size();
    const auto [stop, error] = std::from_chars(name.data() + 5, end, index);
    known = error == std::errc() && stop == end && index >= 0;
  }
  if (!known) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("--device is '{}'", name), "give cpu, cuda or cuda:N"};
  }
  return device::Device::open(index, gpu_kernel_images());
}

}  // namespace

Phases::Phases() : start_us_(SteadyClock().now_us()), last_us_(start_us_) {}

void Phases::done(std::string name) {
  const int64_t now = SteadyClock().now_us();
  phases_.emplace_back(std::move(name), now - last_us_);
  last_us_ = now;
}

std::string Phases::text() const {
  std::string out;
  for (const auto& [name, us] : phases_) out += fmt::format("{} {:.0f} ms, ", name, static_cast<double>(us) / 1e3);
  return out + fmt::format("{:.0f} ms in all", static_cast<double>(last_us_ - start_us_) / 1e3);
}

Result<std::string> read_file(const std::filesystem::path& path, int64_t bytes_max) {
  std::error_code error;
  // A FIFO or a device would be waited for, or never end.
  if (!std::filesystem::is_regular_file(path, error)) {
    return make_error(ErrorCode::kNotFound, "{}: {}", path.string(), error ? error.message() : "not a file");
  }
  const auto size = static_cast<int64_t>(std::filesystem::file_size(path, error));
  if (error) return make_error(ErrorCode::kIo, "{}: {}", path.string(), error.message());
  if (size > bytes_max) {
    return make_error(ErrorCode::kTooLarge, "{} has {} bytes, more than {}", path.string(), size, bytes_max);
  }
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) return make_error(ErrorCode::kIo, "{} cannot be read", path.string());
  return std::move(text).str();
}

int64_t free_memory_bytes() {
  int64_t available = 0;
  std::ifstream file("/proc/meminfo");
  std::string key;
  int64_t kib = 0;
  while (file >> key >> kib) {
    if (key == "MemAvailable:") available = kib * 1024;
    file.ignore(64, '\n');
  }
  const int64_t limit = read_number_file("/sys/fs/cgroup/memory.max");
  const int64_t used = read_number_file("/sys/fs/cgroup/memory.current");
  return limit > 0 && used >= 0 ? std::min(available, std::max<int64_t>(0, limit - used)) : available;
}

WeightFormat dummy_format(const Options& options) {
  if (options.dummy_format == "bf16") return WeightFormat::kBf16;
  if (options.dummy_format == "mxfp4") return WeightFormat::kMxfp4;
  return WeightFormat::kFp8Block;
}

namespace {

// Contexts kept for sequences to come, for each that runs, where memory allows.
constexpr int64_t kKeptContexts = 4;
// Intervals of pages to a kept state: good at every size and under each reading of a trace of real conversations, where
// one interval or three are bad at some (trace_replay).
constexpr int64_t kIntervalsAState = 2;
// Saving a state costs a copy of it; closer together than this they would be most of the work.
constexpr int64_t kIntervalMin = 256;
// Of a unit of memory that is a state or pages, one part of so many may be lost to their sizes.
constexpr int64_t kUnitShareLost = 8;
// Recurrent states kept for each sequence that runs, where memory is plenty and prompts are short.
constexpr int64_t kStatesEnough = 4;

// How many drafts a step may verify behind a token.
Result<int32_t> drafts_asked_for(const Options& options) {
  if (options.speculative_config.empty()) return static_cast<int32_t>(options.num_speculative_tokens);
  const auto bad = [&](std::string what) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("--speculative-config: {}", what),
                 R"(write '{"method": "mtp", "num_speculative_tokens": 2}')"};
  };
  if (options.num_speculative_tokens > 0) return bad("--num-speculative-tokens is given as well");
  const auto config = nlohmann::json::parse(options.speculative_config, nullptr, false);
  if (!config.is_object()) return bad("it is not a JSON object");
  int64_t count = 1;
  for (const auto& [name, value] : config.items()) {
    if (name == "method") {
      // Other engines name the head after the model.
      const std::initializer_list<const char*> names = {"mtp", "qwen3_5_mtp", "qwen3_next_mtp"};
      if (!value.is_string() || std::find(names.begin(), names.end(), value.get<std::string>()) == names.end()) {
        return bad("the method that is there is mtp, the model's own draft head");
      }
    } else if (name == "num_speculative_tokens") {
      if (!value.is_number_integer() || value.get<int64_t>() < 0 || value.get<int64_t>() > kDraftsMax) {
        return bad(fmt::format("num_speculative_tokens is not a number from 0 to {}", kDraftsMax));
      }
      count = value.get<int64_t>();
    } else {
      return bad(fmt::format("'{}' is not known", name));
    }
  }
  return static_cast<int32_t>(count);
}

// RunnerLimits::pinned_acceptance.
Result<int64_t> pinned_acceptance_asked_for(const Options& options, int32_t drafts) {
  if (options.pinned_acceptance == 0) return -1;
  if (drafts == 0) {
    return Error{ErrorCode::kInvalidArgument, "--pinned-acceptance without drafts",
                 "give --num-speculative-tokens too"};
  }
  if (options.pinned_acceptance < 1 || options.pinned_acceptance > 1 + drafts) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("--pinned-acceptance is {}", options.pinned_acceptance),
                 fmt::format("a step with {} drafts yields 1 to {} tokens: give a number between", drafts, 1 + drafts)};
  }
  return static_cast<int64_t>(pinned_threshold(options.pinned_acceptance, drafts));
}

Status plan_reuse(const Options& options, MemoryPlan* plan) {
  const bool by_default = options.command == Command::kServe || options.command == Command::kChat ||
                          options.command == Command::kPlan || options.command == Command::kRun ||
                          !options.cached_prompts.empty() || !options.second_turns.empty();
  plan->prefix_caching = options.enable_prefix_caching.empty() ? by_default : options.enable_prefix_caching == "true";
  // Operations are timed on pages and slots that are filled side by side, and nothing is kept.
  if (options.ops) plan->prefix_caching = false;
  if (options.checkpoint_interval % kGridTokens != 0) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("--checkpoint-interval is {}", options.checkpoint_interval),
                 fmt::format("give a multiple of {}, or 0", kGridTokens)};
  }
  plan->checkpoint_interval = options.checkpoint_interval;
  const int64_t token_bytes = plan->layout.classes[0].bytes_per_page / kGridTokens;
  if (plan->checkpoint_interval > 0 || token_bytes == 0) return Ok{};
  const int64_t tokens = plan->layout.state_slot_bytes / token_bytes;
  plan->checkpoint_interval = std::max(kIntervalMin, (tokens + kGridTokens - 1) / kGridTokens * kGridTokens);
  // A GPU's steps are long: a prompt that is cut for a state takes a tenth longer. Where a step ends anyhow, sequences
  // that decode beside it reckoned with, it costs nothing.
  if (options.device != "cpu") {
    const int64_t decoding = std::max<int64_t>(1, options.max_num_seqs) * (1 + plan->limits.drafts_max);
    plan->checkpoint_interval =
        std::max(plan->checkpoint_interval, (options.max_num_batched_tokens - decoding) / kGridTokens * kGridTokens);
  }
  return Ok{};
}

// States to keep in a budget of bytes, beside those of the rows; what pages must have stays.
int64_t checkpoint_slots(const MemoryPlan& plan, int64_t budget, int64_t page_bytes, int64_t page_bytes_min) {
  const int64_t slot_bytes = plan.layout.state_slot_bytes;
  if (slot_bytes == 0) return 0;
  const int64_t pages_a_state = kIntervalsAState * plan.checkpoint_interval / kGridTokens;
  const int64_t share = budget / (slot_bytes + pages_a_state * page_bytes);
  return std::clamp<int64_t>(std::min(share, (budget - page_bytes_min) / slot_bytes), 0, INT32_MAX / 2);
}

// Gives pages and states one memory of the size that they were to have apart, so that what is kept of each follows what
// is asked for. False: a slot and whole pages differ too much in size, or a longest sequence that would fit would not
// any more.
bool share_memory(int64_t pages, int64_t checkpoints, MemoryPlan* plan) {
  int64_t page_bytes = 0;
  for (const PageClass& one : plan->layout.classes) page_bytes += one.bytes_per_page;
  const int64_t slot_bytes = plan->layout.state_slot_bytes;
  if (page_bytes == 0 || slot_bytes < page_bytes) return false;
  const int64_t together = (slot_bytes + page_bytes / 2) / page_bytes;
  const int64_t unit_bytes = CachePlaces::unit_bytes(plan->layout, together);
  const int64_t less = std::min(slot_bytes, together * page_bytes);
  if ((unit_bytes - less) * kUnitShareLost > unit_bytes) return false;
  const int64_t rows = plan->limits.rows_max;
  const int64_t units = (pages * page_bytes + (checkpoints + rows) * slot_bytes) / unit_bytes;
  CacheLayout layout = plan->layout;
  RunnerLimits limits = plan->limits;
  layout.pages_a_slot = static_cast<int32_t>(together);
  limits.state_slots = static_cast<int32_t>(std::min<int64_t>(units, INT32_MAX / together));
  limits.pages.assign(layout.classes.size(), static_cast<int32_t>(limits.state_slots * together));
  if (int64_t{pages_alone_max(layout, limits, 0)} * kGridTokens < std::min(pages * kGridTokens, plan->context_tokens)) {
    return false;
  }
  plan->layout = std::move(layout);
  plan->limits = std::move(limits);
  plan->slot_bytes = rows * unit_bytes;
  plan->page_bytes = (plan->limits.state_slots - rows) * unit_bytes;
  return true;
}

}  // namespace

Result<MemoryPlan> plan_memory(const Options& options, const ModelConfig& config, int64_t weight_bytes,
                               int32_t vocabulary, int64_t draft_ids, int64_t free_bytes) {
  MemoryPlan plan;
  const bool on_gpu = options.device != "cpu";
  const CacheSizes sizes = on_gpu ? gpu_cache_sizes(config) : cpu_cache_sizes(config);
  const Program program = make_main_program(config, sizes);
  WEIR_ASSIGN_OR_RETURN(plan.limits.drafts_max, drafts_asked_for(options));
  WEIR_ASSIGN_OR_RETURN(plan.limits.pinned_acceptance, pinned_acceptance_asked_for(options, plan.limits.drafts_max));
  if (options.draft_vocabulary > 0 && plan.limits.drafts_max == 0) {
    return Error{ErrorCode::kInvalidArgument, "--draft-vocabulary without drafts", "give --num-speculative-tokens too"};
  }
  if (draft_ids > 0) plan.draft_head_bytes = draft_head_bytes(draft_ids, config.hidden);
  plan.layout = cache_layout(config, sizes, plan.limits.drafts_max > 0);
  plan.weight_bytes = weight_bytes;
  weight_bytes += plan.draft_head_bytes;
  plan.free_bytes = free_bytes;
  // Commands without the flag run one sequence.
  const auto rows = static_cast<int32_t>(std::max<int64_t>(1, options.max_num_seqs));
  if (options.max_num_seqs > options.max_num_batched_tokens && options.max_num_batched_tokens > 0) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("--max-num-seqs {} is more than --max-num-batched-tokens {}", options.max_num_seqs,
                             options.max_num_batched_tokens),
                 "every running sequence takes a token of every step: raise the second or lower the first"};
  }
  plan.slot_bytes = plan.layout.state_slot_bytes * rows;
  plan.work_bytes = on_gpu ? gpu_work_bytes(config, program, options.max_num_batched_tokens, rows)
                           : work_bytes(config, program, options.max_num_batched_tokens);
  if (plan.limits.drafts_max > 0) {
    RunnerLimits limits = plan.limits;
    limits.rows_max = rows;
    limits.step_tokens_max = static_cast<int32_t>(options.max_num_batched_tokens);
    plan.work_bytes +=
        on_gpu ? gpu_draft_bytes(config, limits, draft_ids) : HostDrafter::work_bytes(config, limits, draft_ids);
  }
  if (plan.work_bytes > plan.free_bytes - weight_bytes) {
    return Error{ErrorCode::kExhausted,
                 fmt::format("steps of {} tokens need {} of buffers; {} are free beside {} of weights",
                             options.max_num_batched_tokens, size_text(plan.work_bytes),
                             size_text(std::max<int64_t>(0, plan.free_bytes - weight_bytes)), size_text(weight_bytes)),
                 "lower --max-num-batched-tokens"};
  }
  const int64_t rest = plan.free_bytes - weight_bytes - plan.slot_bytes - plan.work_bytes;
  if (rest <= 0) {
    return Error{ErrorCode::kExhausted,
                 fmt::format("{} of weights and {} of state for {} sequences do not fit the {} that are free",
                             size_text(weight_bytes), size_text(plan.slot_bytes), rows, size_text(plan.free_bytes)),
                 fmt::format("lower --max-num-seqs ({} a sequence), or use a machine with {} free",
                             size_text(plan.layout.state_slot_bytes),
                             size_text(weight_bytes + plan.layout.state_slot_bytes + (int64_t{1} << 30)))};
  }
  WEIR_RETURN_IF_ERROR(plan_reuse(options, &plan));
  const int64_t longest = options.max_model_len > 0 ? options.max_model_len : config.max_positions;
  if (longest > config.max_positions) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("--max-model-len is {}, the model was made for {}", longest, config.max_positions),
                 "lower --max-model-len"};
  }
  plan.context_tokens = longest;
  // Every class has as many pages.
  int64_t page_bytes = 0;
  for (const PageClass& pages : plan.layout.classes) page_bytes += pages.bytes_per_page;
  const int64_t pages_full = pages_of(longest);
  int64_t pages = pages_full * rows;
  int64_t checkpoints = 0;
  if (page_bytes > 0) {
    // A quarter of what is free: the machine has other work, and a CPU server is often not alone. A GPU is there for
    // its server: what stays free is for graphs that are recorded late.
    const int64_t share = on_gpu ? rest / 10 * 9 : rest / 4;
    const int64_t budget = options.kv_cache_memory_bytes > 0 ? options.kv_cache_memory_bytes : share;
    if (budget > rest) {
      return Error{ErrorCode::kExhausted,
                   fmt::format("--kv-cache-memory-bytes asks for {}, {} are free beside weights and states",
                               size_text(budget), size_text(rest)),
                   fmt::format("give at most {}", rest)};
    }
    if (plan.prefix_caching) {
      pages *= kKeptContexts;
      checkpoints = std::min(checkpoint_slots(plan, budget, page_bytes, std::min(budget, pages_full * page_bytes)),
                             std::max(kStatesEnough * rows, pages * kGridTokens / plan.checkpoint_interval));
    }
    pages = std::min(pages, (budget - checkpoints * plan.layout.state_slot_bytes) / page_bytes);
    if (pages < 1) {
      return Error{ErrorCode::kExhausted,
                   fmt::format("no KV page of {} fits {}", size_text(page_bytes), size_text(budget)),
                   fmt::format("give --kv-cache-memory-bytes {} or more", page_bytes)};
    }
  }
  plan.limits.rows_max = rows;
  plan.limits.step_tokens_max = static_cast<int32_t>(options.max_num_batched_tokens);
  if (plan.prefix_caching && share_memory(pages, checkpoints, &plan)) {
    pages = pages_alone_max(plan.layout, plan.limits, 0);
  } else {
    plan.page_bytes = pages * page_bytes;
    plan.slot_bytes += checkpoints * plan.layout.state_slot_bytes;
    plan.limits.state_slots = rows + static_cast<int32_t>(checkpoints);
    plan.limits.pages.assign(plan.layout.classes.size(), static_cast<int32_t>(std::min<int64_t>(pages, INT32_MAX)));
  }
  if (options.max_model_len > 0 && pages < pages_full) {
    return Error{ErrorCode::kExhausted,
                 fmt::format("--max-model-len {} needs {} of KV pages, there are {}", longest,
                             size_text(pages_full * page_bytes), size_text(pages * page_bytes)),
                 fmt::format("give --max-model-len {} or --kv-cache-memory-bytes {}", pages * kGridTokens,
                             pages_full * page_bytes)};
  }
  plan.limits.sequence_tokens_max = std::min(longest, pages * kGridTokens);
  plan.limits.vocabulary = vocabulary;
  return plan;
}

Result<int64_t> free_bytes_of(const Options& options) {
  WEIR_ASSIGN_OR_RETURN(const auto gpu, open_device(options));
  return gpu == nullptr ? free_memory_bytes() : gpu->free_bytes();
}

Status check_kernels(const Options& options, const ModelConfig& config) {
  if (!options.strict_kernels || options.device == "cpu") return Ok{};
  const Status takes = packed_takes(config);
  if (takes.ok()) return Ok{};
  return Error{
      ErrorCode::kUnsupported,
      fmt::format("--strict-kernels: on a GPU this model would run on the plain float32 kernels, because of {}",
                  takes.error().message),
      "leave the flag out, or run this model on the CPU: --device cpu"};
}

Status choose_kv_format(const Options& options, ModelConfig* config) {
  const bool fp8 = options.kv_cache_dtype == "fp8";
  const bool on_gpu = options.device != "cpu";
  const Status takes = packed_takes(*config);
  if (options.kv_cache_dtype == "bf16" && !on_gpu) {
    return Error{ErrorCode::kUnsupported, "--kv-cache-dtype bf16: pages on the CPU are float32, or FP8",
                 "give --kv-cache-dtype auto or fp8"};
  }
  if (options.kv_cache_dtype != "auto" && on_gpu && !takes.ok()) {
    return Error{ErrorCode::kUnsupported,
                 fmt::format("--kv-cache-dtype {}: on a GPU this model would run on the plain kernels, whose pages are "
                             "float32, because of {}",
                             options.kv_cache_dtype, takes.error().message),
                 fp8 ? "leave the flag out, or run this model on the CPU: --device cpu" : "leave the flag out"};
  }
  if (fp8) config->kv_format = KvFormat::kFp8;
  return Ok{};
}

Status choose_prefill_activations(const Options& options, ModelConfig* config) {
  if (options.prefill_activations != "fp8") return Ok{};
  const Status takes = packed_takes(*config);
  if (options.device == "cpu" || !takes.ok()) {
    return Error{ErrorCode::kUnsupported,
                 options.device == "cpu"
                     ? "--prefill-activations fp8: the CPU has no kernels for it"
                     : fmt::format("--prefill-activations fp8: on a GPU this model would run on the plain float32 "
                                   "kernels, because of {}",
                                   takes.error().message),
                 options.device == "cpu" ? "leave the flag out, or run the model on a GPU: --device cuda"
                                         : "leave the flag out"};
  }
  config->prefill_activations = PrefillActivations::kFp8;
  return Ok{};
}

Status check_prefill_activations(const ModelConfig& config, const ModelWeights& weights) {
  const auto any = [](const LayerWeights& layer) {
    const bool mixer =
        layer.kind == LayerKind::kLinear
            ? takes_e4m3(layer.gdn.in_qkv) || takes_e4m3(layer.gdn.out)
            : takes_e4m3(layer.attention.q) || takes_e4m3(layer.attention.k) || takes_e4m3(layer.attention.o);
    return mixer || takes_e4m3(layer.dense.down) ||
           (!layer.moe.experts.empty() && takes_e4m3(layer.moe.experts.front().down));
  };
  if (config.prefill_activations != PrefillActivations::kFp8 ||
      std::any_of(weights.layers.begin(), weights.layers.end(), any)) {
    return Ok{};
  }
  return Error{ErrorCode::kUnsupported,
               "--prefill-activations fp8: no matrix of this model is stored as FP8 in blocks of 128 columns",
               "leave the flag out, or take an FP8 checkpoint of the model"};
}

Status check_vocabulary(int32_t vocabulary, const ModelConfig& config) {
  if (vocabulary <= config.vocabulary) return Ok{};
  return Error{ErrorCode::kCorrupt,
               fmt::format("the tokenizer has {} ids, the model {} rows", vocabulary, config.vocabulary),
               "tokenizer.json and config.json are of different models"};
}

Result<TextAssets> load_text(const Options& options, const std::filesystem::path& folder) {
  TextAssets text;
  WEIR_ASSIGN_OR_RETURN(text.tokenizer, Tokenizer::load(folder / "tokenizer.json"));
  WEIR_ASSIGN_OR_RETURN(text.defaults, load_generation_defaults(folder, text.tokenizer.get()));
  if (options.generation_config == "weir") {
    const std::vector<int32_t> eos_ids = text.defaults.eos_ids;
    text.defaults = {};
    text.defaults.eos_ids = eos_ids;
  }
  if (!options.chat_template.empty()) {
    WEIR_ASSIGN_OR_RETURN(text.templates.standard, load_chat_template(options.chat_template));
  } else if (auto templates = load_chat_templates(folder.string()); templates.ok()) {
    text.templates = std::move(*templates);
  } else if (templates.error().code == ErrorCode::kNotFound) {
    text.template_problem = templates.error().text();
  } else {
    return std::move(templates).error();
  }
  text.template_kwargs = options.default_chat_template_kwargs.empty() ? "{}" : options.default_chat_template_kwargs;
  if (!nlohmann::json::parse(text.template_kwargs, nullptr, false).is_object()) {
    return Error{ErrorCode::kInvalidArgument, "--default-chat-template-kwargs is not a JSON object",
                 "write '{\"name\": value}'"};
  }
  text.special_tokens = special_tokens(folder);
  return text;
}

std::vector<TokenId> draft_vocabulary(const Options& options, const ModelConfig& config, const TextAssets* text) {
  if (options.draft_vocabulary == 0) return {};
  if (text != nullptr) {
    return draft_ids(options.draft_vocabulary, text->tokenizer->added_ids(), text->tokenizer->size());
  }
  const std::vector<TokenId> eos_ids(config.eos_ids.begin(), config.eos_ids.end());
  return draft_ids(options.draft_vocabulary, eos_ids, config.vocabulary);
}

Result<LoadedModel> load_model(const Options& options, const TextAssets* text, Phases* phases) {
  LoadedModel loaded;
  WEIR_ASSIGN_OR_RETURN(loaded.folder, find_model(options));
  loaded.name = model_name(options.model);
  WEIR_ASSIGN_OR_RETURN(loaded.config, read_model_config(loaded.folder.string()));
  WEIR_RETURN_IF_ERROR(choose_kv_format(options, &loaded.config));
  WEIR_RETURN_IF_ERROR(choose_prefill_activations(options, &loaded.config));
  loaded.dummy = options.load_format == "dummy";
  phases->done("config");

  std::unique_ptr<Checkpoint> checkpoint;
  int64_t weight_bytes = 0;
  if (loaded.dummy) {
    WEIR_ASSIGN_OR_RETURN(const ModelWeights shapes, dummy_shapes(loaded.config, dummy_format(options)));
    weight_bytes = (options.device == "cpu" ? kDummyCopies : 1) * shapes.total_bytes;
  } else {
    WEIR_ASSIGN_OR_RETURN(checkpoint, Checkpoint::open(loaded.folder.string()));
    weight_bytes = checkpoint->total_bytes();
  }
  const int32_t sampled = text != nullptr ? text->tokenizer->size() : static_cast<int32_t>(loaded.config.vocabulary);
  WEIR_RETURN_IF_ERROR(check_vocabulary(sampled, loaded.config));
  WEIR_ASSIGN_OR_RETURN(auto gpu, open_device(options));
  WEIR_RETURN_IF_ERROR(check_kernels(options, loaded.config));
  const int64_t free_bytes = gpu == nullptr ? free_memory_bytes() : gpu->free_bytes();
  std::vector<TokenId> draft_ids = draft_vocabulary(options, loaded.config, text);
  WEIR_ASSIGN_OR_RETURN(loaded.memory, plan_memory(options, loaded.config, weight_bytes, sampled,
                                                   static_cast<int64_t>(draft_ids.size()), free_bytes));
  phases->done("memory plan");

  auto weights = loaded.dummy ? dummy_weights(loaded.config, dummy_format(options), static_cast<uint64_t>(options.seed))
                              : load_weights(loaded.config, *checkpoint);
  if (!weights) return in_context(std::move(weights).error(), loaded.folder.string());
  WEIR_RETURN_IF_ERROR(check_prefill_activations(loaded.config, *weights));
  if (!draft_ids.empty()) {
    if (!weights->mtp) return no_draft_head();
    const auto threads = static_cast<int>(options.threads);
    ThreadPool pool({.threads = threads > 0 ? threads : ThreadPool::available_cpus()});
    add_draft_head(&*weights, std::move(draft_ids), &pool);
  }
  phases->done("weights");
  // Drafts reach up to seven positions past the end.
  constexpr int64_t kDraftPositions = 8;
  const int64_t positions = loaded.memory.limits.sequence_tokens_max + kDraftPositions;
  if (gpu == nullptr) {
    loaded.model = CpuModel::create(loaded.config, *weights, cpu_options(options), positions);
  } else {
    WEIR_ASSIGN_OR_RETURN(loaded.model,
                          GpuModel::create(std::move(gpu), loaded.config, *weights, cpu_options(options), positions));
  }
  if (checkpoint) checkpoint->release_pages();
  phases->done("packing");
  return loaded;
}

}  // namespace weir
