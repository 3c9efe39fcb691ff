// The GPU's part of weir bench: steps as the host sees them, beside one read of all their bytes at the rate that this
// GPU's memory was measured to give.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/command_bench.h"
#include "cli/command_bench_reuse.h"
#include "cli/command_bench_streams.h"
#include "cli/shapes.h"
#include "ops/gpu/read_all.h"
#include "runner/gpu_units.h"

namespace weir {
namespace {

using Json = nlohmann::ordered_json;

// NVIDIA's data sheet of the H100 and H200 SXM: BF16 on the tensor cores, dense.
constexpr double kSheetTflops = 990;

class GpuBench {
 public:
  GpuBench(const Options& options, const LoadedModel& model, const GpuModel& on_gpu, const ModelWeights& shapes,
           GpuReadRate rate)
      : options_(options),
        model_(model),
        on_gpu_(on_gpu),
        rate_(rate),
        cost_(stored_cost(on_gpu.program, model.config, shapes, gpu_kv_value_bytes(model.config))),
        format_(weight_format_name(model.config.moe() ? shapes.layers.front().moe.experts.front().gate.format
                                                      : shapes.layers.front().dense.gate.format)) {}

  void head() const {
    if (options_.json) return;
    fmt::print("{}: {}, {} weights of {:.2f} GB, {} KV, prompts in {}, {}\n", model_.name, on_gpu_.device_text(),
               format_, static_cast<double>(on_gpu_.weight_bytes()) / 1e9, kv_format(), prefill_activations(),
               on_gpu_.packed ? "kernels for packed weights"
                              : "plain float32 kernels: " + packed_takes(model_.config).error().message);
    fmt::print("a kernel reads {:.2f} GiB at {:.0f} GB/s\n", static_cast<double>(rate_.set_bytes) / (1 << 30),
               rate_.gbs);
  }

  void prefill(const Measured& measured) const {
    const int64_t tokens = options_.prompt_tokens;
    const double flops = 2.0 * cost_.prompt_macs(tokens);
    const double tflops = flops / measured.first_token_s / 1e12;
    const double rate = static_cast<double>(tokens) / measured.first_token_s;
    if (options_.json) {
      Json row = about("prefill");
      row["tokens"] = tokens;
      row["step_tokens_max"] = model_.memory.limits.step_tokens_max;
      row["ms"] = measured.first_token_s * 1e3;
      row["tokens_s"] = rate;
      row["flops"] = flops;
      row["tflops"] = tflops;
      row["percent_of_sheet"] = 100.0 * tflops / kSheetTflops;
      fmt::print("{}\n", row.dump());
      return;
    }
    fmt::print(
        "prefill, {:>5} tokens {:>7.1f} ms {:>8.0f} tok/s {:>7.1f} TFLOP/s, {:.1f} % of the data sheet's {:.0f} "
        "(BF16)\n",
        tokens, measured.first_token_s * 1e3, rate, tflops, 100.0 * tflops / kSheetTflops, kSheetTflops);
  }

  void decode(int64_t streams, const Measured& measured, const StepTime& device) const {
    const double step_s = measured.step_s(streams);
    const double bytes = cost_.bytes(streams, measured.context);
    const double floor_s = bytes / (rate_.gbs * 1e9);
    const double experts = static_cast<double>(model_.config.experts) * cost_.touched(streams);
    if (options_.json) {
      Json row = about("decode");
      row["context"] = measured.context;
      row["streams"] = streams;
      row["step_ms"] = step_s * 1e3;
      row["tokens_s"] = measured.decode_tokens_s;
      row["device_busy_us"] = device.busy_us;
      row["device_idle_us"] = device.idle_us;
      row["bytes"] = bytes;
      row["floor_ms"] = floor_s * 1e3;
      row["percent_of_floor"] = 100.0 * floor_s / step_s;
      row["distinct_experts_expected"] = experts;
      row.update(drafts_json(options_, model_, measured.drafts));
      fmt::print("{}\n", row.dump());
      return;
    }
    fmt::print(
        "decode, {:>3} streams at {:>6} {:>8.3f} ms a step {:>7.0f} tok/s; {:.3f} GB a step: {:.3f} ms, {:.1f} % "
        "of the floor",
        streams, measured.context, step_s * 1e3, measured.decode_tokens_s, bytes / 1e9, floor_s * 1e3,
        100.0 * floor_s / step_s);
    if (device.busy_us > 0) {
      fmt::print("; device: {:.0f} us a step, idle {:.1f} us between", device.busy_us, device.idle_us);
    }
    fmt::print("{}\n", drafts_text(options_, model_, measured.drafts));
  }

 private:
  std::string_view kv_format() const {
    if (model_.config.kv_format == KvFormat::kFp8) return "FP8";
    return on_gpu_.packed ? "BF16" : "F32";
  }

  std::string_view prefill_activations() const {
    if (model_.config.prefill_activations == PrefillActivations::kFp8) return "FP8";
    return on_gpu_.packed ? "16 bits" : "F32";
  }

  Json about(const char* what) const {
    const ModelConfig& config = model_.config;
    return {{"what", what},
            {"device", on_gpu_.device->info().name},
            {"model", model_.name},
            {"layers", config.layer_count()},
            {"hidden", config.hidden},
            {"experts", config.experts},
            {"experts_a_token", config.experts_per_token},
            {"expert_width", config.moe() ? config.expert_width : config.dense_width},
            {"vocabulary", config.vocabulary},
            {"format", format_},
            {"kv_format", kv_format()},
            {"prefill_activations", prefill_activations()},
            {"packed", on_gpu_.packed},
            {"weight_bytes", on_gpu_.weight_bytes()},
            {"read_gbs", rate_.gbs},
            {"read_set_bytes", rate_.set_bytes}};
  }

  const Options& options_;
  const LoadedModel& model_;
  const GpuModel& on_gpu_;
  const GpuReadRate rate_;
  const StepCost cost_;
  const std::string format_;
};

}  // namespace

Status bench_gpu(const Options& options, const std::vector<int64_t>& streams, GpuModel* on_gpu, LoadedModel* model) {
  WEIR_ASSIGN_OR_RETURN(const ModelShapes shapes, model_shapes(options, model->folder, model->config));
  // Before the caches are reserved: they take a part of what is free.
  WEIR_ASSIGN_OR_RETURN(const GpuReadRate rate, measure_read_rate({on_gpu->device.get(), &on_gpu->stream}));
  const GpuBench bench(options, *model, *on_gpu, shapes.weights, rate);
  bench.head();
  WEIR_ASSIGN_OR_RETURN(const auto host, EngineHost::start(options, model));
  WEIR_ASSIGN_OR_RETURN(const Measured prefill,
                        best_streams(*host, *model, options.repeats, {1, options.prompt_tokens, 2}));
  bench.prefill(prefill);
  for (const int64_t count : streams) {
    StepTimes* times = host->runner().step_times();
    const auto all_decode = [times] {
      if (times != nullptr) times->clear();
    };
    WEIR_ASSIGN_OR_RETURN(
        const Measured measured,
        best_streams(
            *host, *model, options.repeats,
            {count, options.prompt_tokens, options.output_tokens, static_cast<uint32_t>(count), {}, all_decode}));
    bench.decode(count, measured, times == nullptr ? StepTime{} : times->median());
  }
  return bench_reuse(options, *host, *model);
}

}  // namespace weir
