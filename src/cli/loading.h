// From a MODEL argument to something that runs: files found, memory planned, weights packed, text assets read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "cli/flags.h"
#include "models/config.h"
#include "models/weights.h"
#include "runner/cpu_caches.h"
#include "runner/model_runner.h"
#include "text/chat.h"
#include "text/generation.h"
#include "text/tokenizer.h"

namespace weir {

// Times of the start-up phases, for the banner.
class Phases {
 public:
  Phases();
  // Ends the phase that runs and names it.
  void done(std::string name);
  // "config 1 ms, weights 12 ms, ...; 210 ms in all".
  std::string text() const;

 private:
  int64_t start_us_;
  int64_t last_us_;
  std::vector<std::pair<std::string, int64_t>> phases_;
};

// What a served model needs besides its weights.
struct TextAssets {
  std::unique_ptr<Tokenizer> tokenizer;
  ChatTemplates templates;  // standard is null when the model has none
  GenerationDefaults defaults;
  std::string template_kwargs;                                      // JSON object
  std::vector<std::pair<std::string, std::string>> special_tokens;  // bos_token, eos_token, ... for the template
  std::string template_problem;                                     // why there is no template
};

// Sizes decided before anything is loaded.
struct MemoryPlan {
  CacheLayout layout;
  RunnerLimits limits;
  int64_t weight_bytes = 0;      // as stored
  int64_t draft_head_bytes = 0;  // of --draft-vocabulary
  int64_t page_bytes = 0;        // all pages of all classes; of memory that they share with states, all but slot_bytes
  int64_t slot_bytes = 0;        // all state slots; of shared memory, what the running sequences' slots take
  int64_t context_tokens = 0;    // that a sequence may ask for
  bool prefix_caching = false;
  int64_t checkpoint_interval = 0;  // tokens
  int64_t work_bytes = 0;           // buffers of a step of the most tokens
  int64_t free_bytes = 0;           // of the machine, at the time of planning
};

struct LoadedModel {
  std::filesystem::path folder;
  std::string name;  // the last part of MODEL
  ModelConfig config;
  MemoryPlan memory;
  std::unique_ptr<Model> model;
  bool dummy = false;
};

// MODEL as a folder: itself, or the snapshot of a pulled hub model.
Result<std::filesystem::path> find_model(const Options& options);

// What a model is called where nobody named it: the last part of MODEL as an absolute path ("xs/" and "." have one
// too).
std::string model_name(const std::string& model);

// --dummy-format.
WeightFormat dummy_format(const Options& options);

// Random matrices and their packed form exist together while packing.
inline constexpr int64_t kDummyCopies = 2;

// Derives the limits from flags, config and free memory. Errors name the flags and sizes that would fit.
// `vocabulary`: ids that may be sampled; `draft_ids`: how many drafts are drawn among, 0 if that is all.
Result<MemoryPlan> plan_memory(const Options& options, const ModelConfig& config, int64_t weight_bytes,
                               int32_t vocabulary, int64_t draft_ids, int64_t free_bytes);
// What is free where --device says the model runs.
Result<int64_t> free_bytes_of(const Options& options);

// --strict-kernels: kUnsupported when a GPU would run the model on the plain kernels.
Status check_kernels(const Options& options, const ModelConfig& config);

// --kv-cache-dtype into the config. kUnsupported where the kernels of the device have no such pages.
Status choose_kv_format(const Options& options, ModelConfig* config);

// --prefill-activations into the config. kUnsupported where the device has no kernels for it; a model of `weights`
// without block FP8 is refused by the second.
Status choose_prefill_activations(const Options& options, ModelConfig* config);
Status check_prefill_activations(const ModelConfig& config, const ModelWeights& weights);

// kCorrupt when a tokenizer of `vocabulary` ids has more than the model has rows.
Status check_vocabulary(int32_t vocabulary, const ModelConfig& config);

Result<TextAssets> load_text(const Options& options, const std::filesystem::path& folder);

// The ids of --draft-vocabulary, of those that may be sampled; empty: all. Beside the first ids those of `text`'s added
// tokens, or without text those that the config says end a turn.
std::vector<TokenId> draft_vocabulary(const Options& options, const ModelConfig& config, const TextAssets* text);

// Weights and program. `memory.limits.sequence_tokens_max` bounds the positions. Without `text` every row of the output
// head may be sampled.
Result<LoadedModel> load_model(const Options& options, const TextAssets* text, Phases* phases);

// A file's content. kNotFound, kIo, kTooLarge over `bytes_max`.
Result<std::string> read_file(const std::filesystem::path& path, int64_t bytes_max);

// The machine's available memory in bytes, as /proc/meminfo and the control group say.
int64_t free_memory_bytes();

}  // namespace weir
