// weir plan: what would run, with which kernels and in how much memory. Reads headers only, of dummy weights
// config.json alone; computes nothing.
#include <fmt/format.h>

#include "cli/command_plan.h"
#include "cli/commands.h"
#include "models/program.h"
#include "models/weights.h"
#include "ops/cpu/isa.h"
#include "ops/linear/linear.h"
#include "runner/cpu_weights.h"
#include "weights/checkpoint.h"

namespace weir {
namespace {

using Json = nlohmann::ordered_json;

// One operation as it is printed; layers that repeat it are counted.
struct PlanRow {
  std::string program;
  std::string operation;
  std::string what;    // weight and shape
  std::string format;  // stored format of its weights
  std::string kernel;
  int64_t bytes = 0;  // of weights that one row reads
  std::vector<int32_t> layers;
};

// Shapes and formats by place, as the loader bound them.
class Matrices {
 public:
  explicit Matrices(const ModelWeights& weights) : weights_(weights) {}
  const WeightMatrix& at(WeightRef ref) const {
    const WeightMatrix* matrix = find_matrix(weights_, ref.slot, ref.layer);
    WEIR_CHECK(matrix != nullptr, "no matrix {} in layer {}", slot_name(ref.slot), ref.layer);
    return *matrix;
  }
  const LayerWeights& layer(int32_t index) const {
    return index == kMtpLayer ? weights_.mtp->layer : weights_.layers.at(static_cast<size_t>(index));
  }

 private:
  const ModelWeights& weights_;
};

class Planner {
 public:
  Planner(const ModelConfig& config, const Matrices& matrices, Isa isa)
      : config_(config), matrices_(matrices), isa_(isa_name(isa)) {}

  void add(const Program& program) {
    for (const auto* part : {&program.body, &program.head}) {
      for (const Operation& operation : *part) {
        name_ = program.name;
        kind_ = operation_name(operation);
        std::visit([&](const auto& op) { row(op); }, operation);
      }
    }
  }
  const std::vector<PlanRow>& rows() const { return rows_; }

 private:
  std::string kernel(std::string_view name) const { return fmt::format("{} ({})", name, isa_); }

  void put(int32_t layer, std::string what, std::string format, std::string kernel_name, int64_t bytes) {
    for (PlanRow& known : rows_) {
      if (known.program == name_ && known.operation == kind_ && known.what == what && known.format == format) {
        known.layers.push_back(layer);
        return;
      }
    }
    rows_.push_back(
        {name_, std::string(kind_), std::move(what), std::move(format), std::move(kernel_name), bytes, {layer}});
  }
  void row(const EmbedOp&) {
    const WeightMatrix& table = matrices_.at({config_.tied ? Slot::kLmHead : Slot::kEmbed, kNoLayer});
    put(kNoLayer, fmt::format("[{}, {}]", table.n, table.k), std::string(weight_format_name(table.format)),
        kernel("gather"), table.row_bytes);
  }
  void row(const NormOp& op) {
    put(op.weight.layer, fmt::format("{} [{}]", slot_name(op.weight.slot), config_.hidden), "F32",
        kernel("rms_norm_rows"), config_.hidden * 4);
  }
  void row(const LinearOp& op) {
    for (const LinearOp::Output& output : op.outputs) {
      const WeightMatrix& weight = matrices_.at(output.weight);
      put(output.weight.layer,
          fmt::format("{} [{}, {}]{}", slot_name(output.weight.slot), weight.n, weight.k, output.add ? " +=" : ""),
          std::string(weight_format_name(weight.format)), kernel("linear_task"), weight.bytes());
    }
  }
  void row(const AttentionOp& op) {
    put(op.layer, fmt::format("{}/{} heads x {}, pages of 64", config_.heads, config_.kv_heads, config_.head_dim),
        config_.kv_format == KvFormat::kFp8 ? "FP8 KV" : "F32 KV", kernel("attend_segment"), 0);
  }
  void row(const GdnOp& op) {
    put(op.layer,
        fmt::format("{}/{} heads x {}x{}, grid of 64", config_.gdn_key_heads, config_.gdn_value_heads,
                    config_.gdn_key_dim, config_.gdn_value_dim),
        "F32 state", kernel("gdn_head"), cpu_cache_sizes(config_).gdn_slot_bytes);
  }
  void row(const FeedForwardOp& op) {
    const LayerWeights& layer = matrices_.layer(op.layer);
    if (!config_.moe()) {
      put(op.layer, fmt::format("dense {}", config_.dense_width),
          std::string(weight_format_name(layer.dense.gate.format)), kernel("linear_task + silu_mul"),
          layer.dense.gate.bytes() + layer.dense.up.bytes() + layer.dense.down.bytes());
      return;
    }
    const auto mlp_bytes = [](const MlpWeights& m) { return m.gate.bytes() + m.up.bytes() + m.down.bytes(); };
    const MlpWeights& expert = layer.moe.experts.front();
    put(op.layer,
        fmt::format("{} experts x {}, top {}, shared {}", config_.experts, config_.expert_width,
                    config_.experts_per_token, config_.shared_width),
        std::string(weight_format_name(expert.gate.format)), kernel("route_row + linear_task + combine"),
        layer.moe.router.bytes() + mlp_bytes(layer.moe.shared) + config_.experts_per_token * mlp_bytes(expert));
  }

  const ModelConfig& config_;
  const Matrices& matrices_;
  std::string isa_;
  std::string name_;
  std::string_view kind_;
  std::vector<PlanRow> rows_;
};

std::string mib(int64_t bytes) {
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20));
}

void print_text(const std::vector<PlanRow>& rows, const MemoryPlan& memory, int64_t row_bytes) {
  fmt::print("{:<7} {:<13} {:<12} {:<46} {:<12} {:<40} {:>12}\n", "program", "operation", "layers", "weight and shape",
             "stored as", "kernel", "bytes a row");
  for (const PlanRow& row : rows) {
    fmt::print("{:<7} {:<13} {:<12} {:<46} {:<12} {:<40} {:>12}\n", row.program, row.operation, layer_text(row.layers),
               row.what, row.format, row.kernel, row.bytes);
  }
  fmt::print("\none token of one sequence reads {} of weights and state\n", mib(row_bytes));
  print_memory(memory);
}

void print_json(const std::vector<PlanRow>& rows, const MemoryPlan& memory) {
  Json out;
  for (const PlanRow& row : rows) {
    out["operations"].push_back({{"program", row.program},
                                 {"operation", row.operation},
                                 {"what", row.what},
                                 {"stored_as", row.format},
                                 {"kernel", row.kernel},
                                 {"bytes_a_row", row.bytes},
                                 {"layers", row.layers}});
  }
  out["memory"] = memory_json(memory);
  fmt::print("{}\n", out.dump(1));
}

}  // namespace

std::string layer_text(const std::vector<int32_t>& layers) {
  if (layers.size() == 1) {
    if (layers[0] == kNoLayer) return "-";
    return layers[0] == kMtpLayer ? "draft" : std::to_string(layers[0]);
  }
  return fmt::format("{} of {}..{}", layers.size(), layers.front(), layers.back());
}

namespace {

int64_t all_classes_bytes(const CacheLayout& layout) {
  int64_t bytes = 0;
  for (const PageClass& pages : layout.classes) bytes += pages.bytes_per_page;
  return bytes;
}

int32_t most_pages(const MemoryPlan& memory) {
  return pages_alone_max(memory.layout, memory.limits, 0);
}

}  // namespace

void print_memory(const MemoryPlan& memory) {
  const RunnerLimits& limits = memory.limits;
  fmt::print("weights as stored      {}\n", mib(memory.weight_bytes));
  if (memory.draft_head_bytes > 0) fmt::print("head of the drafts     {}\n", mib(memory.draft_head_bytes));
  const bool shared = memory.layout.pages_a_slot > 0;
  for (size_t i = 0; i < memory.layout.classes.size() && !shared; ++i) {
    const PageClass& pages = memory.layout.classes[i];
    fmt::print("{:<22} {}: {} pages of {} tokens, {} each\n", i == 0 ? "KV pages" : "KV of the draft head",
               mib(pages.bytes_per_page * limits.pages[i]), limits.pages[i], kGridTokens, mib(pages.bytes_per_page));
  }
  if (shared) {
    fmt::print("pages and states       {}: {} units, each a recurrent state ({}) or {} pages of {} tokens ({})\n",
               mib(memory.page_bytes + memory.slot_bytes), limits.state_slots, mib(memory.layout.state_slot_bytes),
               memory.layout.pages_a_slot, kGridTokens, mib(all_classes_bytes(memory.layout)));
  } else {
    fmt::print("recurrent states       {}: {} slots, {} each\n", mib(memory.slot_bytes), limits.state_slots,
               mib(memory.layout.state_slot_bytes));
  }
  fmt::print("work buffers           {} for steps of {} tokens\n", mib(memory.work_bytes), limits.step_tokens_max);
  fmt::print("context                {} tokens; {} full-length sequences fit the pages\n", limits.sequence_tokens_max,
             int64_t{most_pages(memory)} * kGridTokens / std::max<int64_t>(1, limits.sequence_tokens_max));
  fmt::print("free on this machine   {}\n", mib(memory.free_bytes));
}

Json memory_json(const MemoryPlan& memory) {
  return {{"weight_bytes", memory.weight_bytes},
          {"draft_head_bytes", memory.draft_head_bytes},
          {"page_bytes", memory.page_bytes},
          {"slot_bytes", memory.slot_bytes},
          {"work_bytes", memory.work_bytes},
          {"pages", memory.limits.pages[0]},
          {"state_slots", memory.limits.state_slots},
          {"pages_a_slot", memory.layout.pages_a_slot},
          {"context_tokens", memory.limits.sequence_tokens_max},
          {"free_bytes", memory.free_bytes}};
}

Status command_plan(const Options& options) {
  WEIR_ASSIGN_OR_RETURN(const std::filesystem::path folder, find_model(options));
  WEIR_ASSIGN_OR_RETURN(ModelConfig config, read_model_config(folder.string()));
  WEIR_RETURN_IF_ERROR(choose_kv_format(options, &config));
  WEIR_RETURN_IF_ERROR(choose_prefill_activations(options, &config));
  WEIR_RETURN_IF_ERROR(check_kernels(options, config));
  WEIR_ASSIGN_OR_RETURN(const ModelShapes shapes, model_shapes(options, folder, config));
  WEIR_RETURN_IF_ERROR(check_prefill_activations(config, shapes.weights));
  if (options.device != "cpu") return plan_gpu(options, config, shapes);
  const ModelWeights& weights = shapes.weights;
  WEIR_ASSIGN_OR_RETURN(const int64_t free_bytes, free_bytes_of(options));
  const int64_t copies = options.load_format == "dummy" ? kDummyCopies : 1;
  WEIR_ASSIGN_OR_RETURN(MemoryPlan memory,
                        plan_memory(options, config, copies * shapes.stored_bytes,
                                    static_cast<int32_t>(config.vocabulary), shapes.draft_ids(), free_bytes));
  if (memory.limits.drafts_max > 0 && !weights.mtp) return no_draft_head();
  memory.weight_bytes = shapes.stored_bytes;
  const Matrices matrices(weights);
  Planner planner(config, matrices, isa_from_name(options.isa).value_or(best_isa()));
  planner.add(make_main_program(config, cpu_cache_sizes(config)));
  int64_t row_bytes = 0;
  for (const PlanRow& row : planner.rows()) row_bytes += row.bytes * static_cast<int64_t>(row.layers.size());
  if (weights.mtp) planner.add(make_draft_program(config, shapes.draft_ids()));
  if (options.json) {
    print_json(planner.rows(), memory);
  } else {
    print_text(planner.rows(), memory, row_bytes);
  }
  return Ok{};
}

}  // namespace weir
