#include "models/inspect.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string_view>
#include <vector>

#include "models/anchors.h"
#include "models/weights.h"
#include "weights/checkpoint.h"

namespace weir {
namespace {

namespace fs = std::filesystem;

// Tensors as a reader thinks of them.
enum class Class : uint8_t {
  kEmbed,
  kHead,
  kGdn,
  kAttention,
  kRouter,
  kShared,
  kExperts,
  kDense,
  kVectors,
  kMtp,
  kVision,
  kOther,
};
constexpr size_t kClasses = static_cast<size_t>(Class::kOther) + 1;
constexpr std::array<std::string_view, kClasses> kClassNames = {
    "embedding",      "output head", "GDN linears",       "attention linears", "routers and gates", "shared experts",
    "routed experts", "dense MLPs",  "norms and vectors", "draft head (MTP)",  "vision (skipped)",  "unknown"};

Class class_of(const Binding& binding) {
  if (binding.layer == kMtpLayer) return Class::kMtp;
  if (binding.rule == DTypeRule::kVector) return Class::kVectors;
  switch (binding.slot) {
    case Slot::kEmbed:
      return Class::kEmbed;
    case Slot::kLmHead:
      return Class::kHead;
    case Slot::kAttnQ:
    case Slot::kAttnK:
    case Slot::kAttnV:
    case Slot::kAttnO:
      return Class::kAttention;
    case Slot::kRouter:
    case Slot::kSharedGate:
      return Class::kRouter;
    case Slot::kSharedGateProj:
    case Slot::kSharedUpProj:
    case Slot::kSharedDownProj:
      return Class::kShared;
    case Slot::kExpertsGateUp:
    case Slot::kExpertsDown:
    case Slot::kExpertGate:
    case Slot::kExpertUp:
    case Slot::kExpertDown:
      return Class::kExperts;
    case Slot::kDenseGate:
    case Slot::kDenseUp:
    case Slot::kDenseDown:
      return Class::kDense;
    default:
      return Class::kGdn;
  }
}

struct ClassTotals {
  int64_t tensors = 0;
  int64_t bytes = 0;
  std::map<std::string, int64_t> formats;  // name and number of tensors, scales not counted
};

// "37.45 GB", "1.20 MB".
std::string sized(double bytes) {
  return bytes < 1e9 ? fmt::format("{:.2f} MB", bytes / 1e6) : fmt::format("{:.2f} GB", bytes / 1e9);
}

// "12,345".
std::string grouped(int64_t number) {
  std::string digits = std::to_string(number);
  for (auto at = static_cast<int64_t>(digits.size()) - 3; at > 0; at -= 3) digits.insert(static_cast<size_t>(at), ",");
  return digits;
}

class Describer {
 public:
  Describer(const std::string& directory, const ModelConfig& config, const Checkpoint& checkpoint)
      : directory_(directory), config_(config), checkpoint_(checkpoint) {
    config_.prefix = find_prefix(config_, checkpoint_);
    variant_ = find_variant(config_, checkpoint_);
    count();
  }

  CheckpointReport report() {
    describe_model();
    describe_storage();
    describe_classes();
    describe_companions();
    describe_verdict();
    return {std::move(text_), usable_};
  }

 private:
  template <class... Args>
  void line(std::string_view label, fmt::format_string<Args...> format, Args&&... args) {
    text_ += fmt::format("{:<14}", label) + fmt::format(format, std::forward<Args>(args)...) + "\n";
  }

  void count() {
    std::map<std::string_view, Class> known;
    const std::vector<Binding> bindings = make_bindings(config_, variant_);
    for (const Binding& binding : bindings) known.emplace(binding.name, class_of(binding));
    for (const TensorInfo& tensor : checkpoint_.tensors()) {
      std::string_view base = tensor.name;
      bool scale = false;
      for (const std::string_view suffix : {"_scale_inv", "_scale"}) {
        if (!base.ends_with(suffix)) continue;
        base.remove_suffix(suffix.size());
        scale = true;
        break;
      }
      const auto found = known.find(scale ? base : std::string_view(tensor.name));
      const Class where = found != known.end()                       ? found->second
                          : tensor.name.starts_with("model.visual.") ? Class::kVision
                                                                     : Class::kOther;
      ClassTotals& totals = totals_[static_cast<size_t>(where)];
      ++totals.tensors;
      totals.bytes += static_cast<int64_t>(tensor.bytes.size());
      if (!scale) ++totals.formats[format_of(tensor)];
    }
  }

  std::string format_of(const TensorInfo& tensor) const {
    if (tensor.dtype == DType::kU8 && checkpoint_.find(tensor.name + "_scale") != nullptr) return "MXFP4";
    if (tensor.dtype != DType::kF8E4M3) return std::string(dtype_name(tensor.dtype));
    const TensorInfo* scales = checkpoint_.find(tensor.name + "_scale_inv");
    if (scales == nullptr) scales = checkpoint_.find(tensor.name + "_scale");
    if (scales == nullptr) return "FP8 without scales";
    const Shape& weight = tensor.shape;
    const Shape& scale = scales->shape;
    const bool block = weight.rank() >= 2 && scale.rank() == weight.rank() &&
                       scale[scale.rank() - 2] == (weight[weight.rank() - 2] + kFp8Block - 1) / kFp8Block &&
                       scale[scale.rank() - 1] == (weight[weight.rank() - 1] + kFp8Block - 1) / kFp8Block;
    if (block) return "FP8 128x128";
    return scale.elements() > 1 ? "FP8 row" : "FP8 tensor";
  }

  void describe_model() {
    line("model", "{}{}{}", config_.model_type, config_.architecture.empty() ? "" : ", ", config_.architecture);
    line("layers", "{}: {} Gated DeltaNet, {} attention", config_.layer_count(),
         config_.count_layers(LayerKind::kLinear), config_.count_layers(LayerKind::kFull));
    line("width", "{}", grouped(config_.hidden));
    line("attention", "{} query heads, {} key heads of {}; {} rotary dimensions, theta {}", config_.heads,
         config_.kv_heads, config_.head_dim, config_.rope_dims, config_.rope_theta);
    line("GDN", "{} key heads of {}, {} value heads of {}", config_.gdn_key_heads, config_.gdn_key_dim,
         config_.gdn_value_heads, config_.gdn_value_dim);
    if (config_.moe()) {
      line("experts", "{} of width {}, {} a token; shared expert of width {}; stored {}", config_.experts,
           config_.expert_width, config_.experts_per_token, config_.shared_width,
           variant_.fused_experts ? "fused" : "one by one");
    } else {
      line("MLP", "dense, width {}", grouped(config_.dense_width));
    }
    std::string eos;
    for (const int64_t id : config_.eos_ids) eos += fmt::format("{}{}", eos.empty() ? "" : ", ", id);
    line("vocabulary", "{} rows, head {}; end of text {}", grouped(config_.vocabulary),
         config_.tied ? "tied to the embedding" : "of its own", eos.empty() ? "not said" : eos);
    line("context", "{} tokens", grouped(config_.max_positions));
    line("draft head", "{}", variant_.mtp ? "present (mtp.*)" : "absent");
  }

  void describe_storage() {
    constexpr std::array<std::string_view, 3> kMethods = {"none", "fp8", "quark"};
    line("quantisation", "config.json says {}", kMethods.at(static_cast<size_t>(config_.quant_method)));
    line("files", "{} safetensors, {} tensors, {} bytes ({})", checkpoint_.shard_count(),
         grouped(static_cast<int64_t>(checkpoint_.tensors().size())), grouped(checkpoint_.total_bytes()),
         sized(static_cast<double>(checkpoint_.total_bytes())));
    if (checkpoint_.declared_bytes() >= 0 && checkpoint_.declared_bytes() != checkpoint_.total_bytes()) {
      line("", "the index declares {} bytes", grouped(checkpoint_.declared_bytes()));
    }
    line("a token reads", "{} of weights (one sequence, no draft)", sized(active_bytes()));
  }

  // Everything but embedding (one row), draft head and vision; of the experts the chosen share. A tied head is read
  // whole.
  double active_bytes() const {
    double bytes = 0;
    for (size_t i = 0; i < kClasses; ++i) {
      const auto which = static_cast<Class>(i);
      if (which == Class::kMtp || which == Class::kVision || which == Class::kOther) continue;
      if (which == Class::kEmbed && !config_.tied) continue;
      double share = 1.0;
      if (which == Class::kExperts && config_.moe()) {
        share = static_cast<double>(config_.experts_per_token) / static_cast<double>(config_.experts);
      }
      bytes += share * static_cast<double>(totals_[i].bytes);
    }
    return bytes;
  }

  void describe_classes() {
    text_ += fmt::format("\n{:<20}{:>9}{:>19}  {}\n", "class", "tensors", "bytes", "formats");
    for (size_t i = 0; i < kClasses; ++i) {
      const ClassTotals& totals = totals_[i];
      if (totals.tensors == 0) continue;
      std::string formats;
      for (const auto& [name, count] : totals.formats) {
        formats += fmt::format("{}{} x {}", formats.empty() ? "" : ", ", name, grouped(count));
      }
      text_ += fmt::format("{:<20}{:>9}{:>19}  {}\n", kClassNames[i], grouped(totals.tensors), grouped(totals.bytes),
                           formats);
    }
    text_ += "\n";
  }

  void describe_companions() {
    const auto has = [&](std::string_view name) {
      std::error_code ignored;
      return fs::exists(fs::path(directory_) / name, ignored);
    };
    const bool in_config = has("tokenizer_config.json") && file_contains("tokenizer_config.json", "\"chat_template\"");
    line("tokenizer", "{}",
         has("tokenizer.json") ? "tokenizer.json" : "MISSING: no tokenizer.json, text cannot be read");
    line("template", "{}",
         has("chat_template.jinja") ? "chat_template.jinja"
         : in_config                ? "in tokenizer_config.json"
                                    : "none: completions only");
    line("defaults", "{}", has("generation_config.json") ? "generation_config.json" : "none: the engine's own");
  }

  bool file_contains(std::string_view name, std::string_view needle) const {
    std::error_code ignored;
    // A FIFO would be waited for.
    if (!fs::is_regular_file(fs::path(directory_) / name, ignored)) return false;
    std::ifstream in(fs::path(directory_) / name, std::ios::binary);
    std::ostringstream content;
    content << in.rdbuf();
    return content.str().find(needle) != std::string::npos;
  }

  void describe_verdict() {
    const Anchor* anchor = find_anchor(static_cast<int64_t>(checkpoint_.tensors().size()), checkpoint_.total_bytes());
    if (anchor != nullptr) line("published", "these totals equal {}", anchor->name);
    const Status status = check_weights(config_, checkpoint_);
    if (status.ok()) {
      line("verdict", "every tensor is in its place");
      return;
    }
    usable_ = false;
    line("verdict", "cannot be loaded: {}", status.error().text());
  }

  std::string directory_;
  ModelConfig config_;
  const Checkpoint& checkpoint_;
  BindingVariant variant_;
  std::array<ClassTotals, kClasses> totals_;
  std::string text_;
  bool usable_ = true;
};

}  // namespace

Result<CheckpointReport> describe_checkpoint(const std::string& directory) {
  WEIR_ASSIGN_OR_RETURN(const ModelConfig config, read_model_config(directory));
  WEIR_ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, Checkpoint::open(directory));
  return Describer(directory, config, *checkpoint).report();
}

}  // namespace weir
