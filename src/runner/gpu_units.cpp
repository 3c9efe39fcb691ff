#include "runner/gpu_units.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "base/check.h"
#include "ops/gdn/gdn_chunks_gpu.h"
#include "ops/linear/linear_few_gpu.h"
#include "ops/linear/linear_packed_gpu.h"
#include "ops/moe/moe_few_args.h"
#include "ops/moe/moe_few_gpu.h"
#include "ops/moe/moe_packed_args.h"
#include "runner/packed_executor.h"
#include "runner/packed_weights.h"
#include "runner/weight_stage.h"

namespace weir {
namespace {

constexpr int64_t kWideK = 4096;  // up to here 16 rows fit the shared memory of one pass

// What decides about a launch, of an H200.
device::DeviceInfo h200() {
  device::DeviceInfo info;
  info.multiprocessors = 132;
  info.shared_bytes_max = 232448;
  return info;
}

bool takes_f16(WeightFormat format) {
  return format == WeightFormat::kFp8Block || format == WeightFormat::kFp8Row;
}

// Names follow the choices of PackedExecutor.
class Namer {
 public:
  Namer(const Program& program, const ModelConfig& config, const ModelWeights& weights, const UnitRows& rows)
      : program_(program),
        config_(config),
        weights_(weights),
        rows_(rows.rows),
        prompt_(rows.prompt),
        codes_(rows.prompt && config.prefill_activations == PrefillActivations::kFp8 && !program.hidden_in.valid()),
        takes_(packed_takes(config)) {}

  // `normed`: a norm was left to this operation.
  GpuUnit name(const Operation& operation, bool normed) const {
    GpuUnit unit;
    unit.operation = operation_name(operation);
    std::visit([&](const auto& op) { fill(op, normed, &unit); }, operation);
    if (!takes_.ok()) unit.kernel = fmt::format("plain float32 kernels: {}", takes_.error().message);
    return unit;
  }

 private:
  const WeightMatrix& matrix(WeightRef ref) const {
    const WeightMatrix* found = find_matrix(weights_, ref.slot, ref.layer);
    WEIR_CHECK(found != nullptr, "no matrix {} in layer {}", slot_name(ref.slot), ref.layer);
    return *found;
  }
  // `mixed`: some matrices take f16 rows, others bf16.
  std::string few_rows(int64_t k, bool mixed = false) const {
    return rows_ > 8 && !mixed && k <= kWideK ? "linear_packed_16" : "linear_packed_8";
  }
  // What a matrix is packed as, with `n` rows; of one that has no packed form, the format alone.
  static GpuPacked packed_of(const WeightMatrix& w, int64_t n) {
    GpuPacked packed;
    packed.format = gpu_format(w.format);
    if (packed_tile_bytes(packed.format) > 0 && w.k % kTileK == 0) packed = packed_shape(n, w.k, packed.format);
    return packed;
  }
  // Of products of few rows, without outputs. `normed`: in the kernel.
  GpuFewArgs few_args(int64_t k, bool normed) const {
    static constexpr float kWeight = 0;  // that there is one
    GpuFewArgs args;
    args.rows = static_cast<int32_t>(rows_);
    args.k = static_cast<int32_t>(k);
    if (normed) args.norm = &kWeight;
    return args;
  }
  // As PackedExecutor::fewest_rows() orders them; shapes and formats alone.
  GpuFewArgs linear_args(const LinearOp& op, int64_t k, bool normed) const {
    GpuFewArgs args = few_args(k, normed);
    for (const bool fp8 : {true, false}) {
      for (const LinearOp::Output& output : op.outputs) {
        const WeightMatrix& weight = matrix(output.weight);
        if ((weight.format == WeightFormat::kFp8Block) != fp8) continue;
        args.outputs[args.count++].weight = packed_of(weight, weight.n);
        args.fp8_count += fp8 ? 1 : 0;
      }
    }
    return args;
  }
  // Of a prompt's quantised rows; empty where no matrix takes these.
  std::string linear_of_codes(const LinearOp& op, bool normed) const {
    const auto takes = [&](const LinearOp::Output& output) { return takes_e4m3(matrix(output.weight)); };
    if (!codes_ || std::none_of(op.outputs.begin(), op.outputs.end(), takes)) return {};
    const bool all = std::all_of(op.outputs.begin(), op.outputs.end(), takes);
    return fmt::format("{}, linear_prompt_e4m3{}", normed ? "norm_rows" : "quantize_rows",
                       all ? "" : ", linear_prompt");
  }
  std::string linear(const LinearOp& op, int64_t k, bool mixed, bool normed) const {
    const bool of_head = op.outputs.front().y.buffer == program_.logits;
    if (const std::string codes = linear_of_codes(op, normed); !of_head && !codes.empty()) return codes;
    const GpuFewArgs args = linear_args(op, k, normed);
    if (rows_ > kFewRows && some_rows_fit(h200(), args)) return "linear_some";
    if (rows_ > PackedExecutor::kRowsWithNorm) return normed ? "norm_rows, linear_prompt" : "linear_prompt";
    if (of_head && normed && rows_ <= kFewRows && matrix(op.outputs.front().weight).format == WeightFormat::kBf16 &&
        k % (2 * kBlockK) == 0) {
      return "head_few";
    }
    return !of_head && few_fits(h200(), args) ? linear_few() : few_rows(k, mixed);
  }
  std::string linear_few() const { return rows_ == 1 ? "linear_one" : "linear_few"; }
  // As PackedExecutor::few_rows_experts() has them; shapes and formats alone.
  GpuFewExpertsArgs experts_args(const MoeWeights& moe) const {
    static constexpr uint8_t kMatrix = 0;  // that there is one
    const MlpWeights& expert = moe.experts.front();
    GpuFewExpertsArgs args;
    args.format = gpu_format(expert.gate.format);
    if (moe.shared.gate.format != expert.gate.format) args.shared_gate_up = args.shared_down = &kMatrix;
    args.stride = 1;
    args.rows = static_cast<int32_t>(rows_);
    args.experts = static_cast<int32_t>(config_.experts);
    args.top_k = static_cast<int32_t>(config_.experts_per_token);
    args.shared = 1;
    args.d = static_cast<int32_t>(config_.hidden);
    args.f = static_cast<int32_t>(config_.expert_width);
    return args;
  }
  GpuFewArgs front_args(const MoeWeights& moe) const {
    GpuFewArgs args = few_args(config_.hidden, rows_ <= PackedExecutor::kExpertsNormMax);
    const WeightMatrix& gate = moe.shared.gate;
    args.fp8_count = gate.format == WeightFormat::kFp8Block ? 1 : 0;
    args.outputs[args.count++].weight = packed_of(gate, 2 * gate.n);
    args.outputs[args.count++].weight = packed_of(moe.router, moe.router.n);
    args.outputs[args.count++].weight = packed_of(moe.shared_gate, moe.shared_gate.n);
    return args;
  }
  std::string experts(const MoeWeights& moe) const {
    const MlpWeights& expert = moe.experts.front();
    const bool shared = config_.shared_width > 0;
    if (codes_ && takes_e4m3(expert) && (!shared || takes_e4m3(moe.shared))) {
      return "norm_rows, linear_prompt, routes, moe_prompt, quantize_rows";
    }
    if (rows_ > kPackedMoeRows) return "norm_rows, linear_prompt, routes, moe_prompt";
    const bool mixed = shared && takes_f16(moe.router.format) != takes_f16(moe.shared.gate.format);
    const std::string front = few_rows(config_.hidden, mixed);
    const WeightFormat format = expert.gate.format;
    const bool mxfp4 = format == WeightFormat::kMxfp4;
    const bool stored = expert.down.format == format &&
                        (moe.shared.gate.format == format || (mxfp4 && moe.shared.gate.format == WeightFormat::kBf16));
    if (!shared || !(mxfp4 || format == WeightFormat::kFp8Block) || !stored) {
      return front + ", experts_gate_up, experts_down";
    }
    const GpuFewExpertsArgs args = experts_args(moe);
    if (few_fits(h200(), front_args(moe)) && few_experts_fit(h200(), args)) {
      const std::string few = (rows_ > PackedExecutor::kExpertsNormMax ? "norm_rows, " : "") + linear_few();
      const char* of = mxfp4 ? "_mxfp4" : "";
      return few +
             (rows_ == 1 ? fmt::format(", one_gate_up{}, one_down{}", of, of) : fmt::format(", few_experts{}", of));
    }
    if (!some_experts_fit(h200(), args)) return front + ", experts_gate_up, experts_down";
    return mxfp4 ? "norm_rows, linear_prompt, some_routes, some_gate_up_mxfp4, some_down_mxfp4"
                 : "norm_rows, linear_prompt, some_routes, some_gate_up, some_down";
  }

  void fill(const EmbedOp&, bool, GpuUnit* unit) const {
    unit->layers = {kNoLayer};
    unit->what = fmt::format("[{}, {}]", config_.vocabulary, config_.hidden);
    unit->format = weight_format_name(matrix({config_.tied ? Slot::kLmHead : Slot::kEmbed, kNoLayer}).format);
    unit->kernel = "embed";
  }
  void fill(const NormOp& op, bool, GpuUnit* unit) const {
    unit->layers = {op.weight.layer};
    unit->what = fmt::format("{} [{}]", slot_name(op.weight.slot), config_.hidden);
    unit->format = "F32";
    unit->kernel = "norm_rows";
  }
  void fill(const LinearOp& op, bool normed, GpuUnit* unit) const {
    int64_t n = 0;
    int64_t k = 0;
    bool mixed = false;
    for (const LinearOp::Output& output : op.outputs) {
      const WeightMatrix& weight = matrix(output.weight);
      n += weight.n;
      k = weight.k;
      mixed |= takes_f16(weight.format) != takes_f16(matrix(op.outputs.front().weight).format);
      unit->what += fmt::format("{}{}", unit->what.empty() ? "" : "+", slot_name(output.weight.slot));
      // A projection of two formats is named by its largest matrix, which comes first.
      if (unit->format.empty()) unit->format = weight_format_name(weight.format);
    }
    unit->layers = {op.outputs.front().weight.layer};
    unit->what += fmt::format(" [{}, {}]", n, k);
    unit->kernel = linear(op, k, mixed, normed);
    if (op.outputs.front().y.buffer == program_.logits) unit->kernel += ", sample";
  }
  void fill(const AttentionOp& op, bool, GpuUnit* unit) const {
    unit->layers = {op.layer};
    unit->what = fmt::format("{}/{} heads x {}", config_.heads, config_.kv_heads, config_.head_dim);
    unit->format = config_.kv_format == KvFormat::kFp8 ? "FP8 KV" : takes_.ok() ? "BF16 KV" : "F32 KV";
    unit->kernel = prompt_ ? "paged_prepare, paged_prompt" : "paged_prepare, paged_rows, paged_merge";
  }
  void fill(const GdnOp& op, bool, GpuUnit* unit) const {
    unit->layers = {op.layer};
    unit->what = fmt::format("{}/{} heads x {}x{}", config_.gdn_key_heads, config_.gdn_value_heads, config_.gdn_key_dim,
                             config_.gdn_value_dim);
    unit->format = "F32 state";
    if (prompt_) {
      unit->kernel = "gdn_chunk_products, gdn_chunks";
    } else if (takes_.ok()) {
      const int64_t ratio = config_.gdn_value_heads / config_.gdn_key_heads;
      // Rows are of a sequence each.
      unit->kernel = gdn_rows_name(gdn_rows_kernel(rows_, config_.gdn_value_heads), ratio);
    }
  }
  void fill(const FeedForwardOp& op, bool, GpuUnit* unit) const {
    const LayerWeights& layer =
        op.layer == kMtpLayer ? weights_.mtp->layer : weights_.layers.at(static_cast<size_t>(op.layer));
    unit->layers = {op.layer};
    if (!config_.moe()) {
      unit->what = fmt::format("dense {}", config_.dense_width);
      unit->format = weight_format_name(layer.dense.gate.format);
      unit->kernel = rows_ <= PackedExecutor::kRowsWithNorm
                         ? fmt::format("{}, {}", few_rows(config_.hidden), few_rows(config_.dense_width))
                         : "norm_rows, moe_prompt";
      if (codes_ && takes_e4m3(layer.dense)) unit->kernel = "norm_rows, moe_prompt, quantize_rows";
      return;
    }
    unit->what = fmt::format("{} experts x {}, top {}, shared {}", config_.experts, config_.expert_width,
                             config_.experts_per_token, config_.shared_width);
    unit->format = weight_format_name(layer.moe.experts.front().gate.format);
    unit->kernel = experts(layer.moe);
  }

  const Program& program_;
  const ModelConfig& config_;
  const ModelWeights& weights_;
  const int64_t rows_;
  const bool prompt_;
  const bool codes_;  // a prompt's rows are quantised where weights are block FP8
  const Status takes_;
};

void add(GpuUnit unit, GpuUnit::Part part, std::vector<GpuUnit>* units) {
  for (GpuUnit& known : *units) {
    if (known.operation == unit.operation && known.what == unit.what && known.format == unit.format) {
      known.layers.push_back(unit.layers.front());
      known.parts.push_back(std::move(part));
      return;
    }
  }
  unit.parts.push_back(std::move(part));
  units->push_back(std::move(unit));
}

// "a, b" as {a, b}.
std::vector<std::string_view> names_of(std::string_view list) {
  std::vector<std::string_view> names;
  while (!list.empty()) {
    const size_t end = std::min(list.find(", "), list.size());
    names.push_back(list.substr(0, end));
    list.remove_prefix(std::min(end + 2, list.size()));
  }
  return names;
}

}  // namespace

bool kernels_match(std::string_view planned, std::string_view launched) {
  const std::vector<std::string_view> kinds = names_of(planned);
  const std::vector<std::string_view> names = names_of(launched);
  const auto some_name = [&](std::string_view kind) {
    return std::any_of(names.begin(), names.end(), [&](std::string_view name) { return name.starts_with(kind); });
  };
  const auto some_kind = [&](std::string_view name) {
    return std::any_of(kinds.begin(), kinds.end(), [&](std::string_view kind) { return name.starts_with(kind); });
  };
  return std::all_of(kinds.begin(), kinds.end(), some_name) && std::all_of(names.begin(), names.end(), some_kind);
}

int64_t gpu_kv_value_bytes(const ModelConfig& config) {
  if (config.kv_format == KvFormat::kFp8) return 1;  // scales, a byte to 256, left out
  return packed_takes(config).ok() ? 2 : 4;
}

std::vector<GpuUnit> gpu_units(const Program& program, const ModelConfig& config, const ModelWeights& weights,
                               const UnitRows& rows) {
  const Namer body(program, config, weights, rows);
  // Of a prompt, one row is sampled.
  const Namer head(program, config, weights, {rows.prompt ? 1 : rows.rows, rows.prompt});
  const bool packed = packed_takes(config).ok();
  std::vector<GpuUnit> units;
  GpuUnit::Part norms;
  for (const auto* part : {&program.body, &program.head}) {
    for (const Operation& operation : *part) {
      const auto* norm = std::get_if<NormOp>(&operation);
      if (packed && norm != nullptr && program.buffer(norm->y.buffer).width == config.hidden) {
        norms.push_back(&operation);
        continue;
      }
      const bool of_head = part == &program.head;
      GpuUnit unit = (of_head ? head : body).name(operation, !norms.empty());
      unit.head = of_head;
      Program alone;
      (unit.head ? alone.head : alone.body).push_back(operation);
      unit.cost = stored_cost(alone, config, weights, gpu_kv_value_bytes(config));
      GpuUnit::Part operations = std::exchange(norms, {});
      operations.push_back(&operation);
      add(std::move(unit), std::move(operations), &units);
    }
  }
  return units;
}

}  // namespace weir
