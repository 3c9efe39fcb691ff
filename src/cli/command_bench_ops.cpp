// weir bench --ops: every operation of the program at several numbers of rows, timed by the device's clock.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/command_bench.h"
#include "cli/shapes.h"
#include "ops/gpu/read_all.h"
#include "runner/packed_profile.h"

namespace weir {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kSheetTflops = 990;  // BF16, of NVIDIA's data sheet

class OpsBench {
 public:
  OpsBench(const Options& options, const GpuModel& on_gpu, const ModelWeights& shapes, GpuReadRate rate)
      : options_(options), on_gpu_(on_gpu), shapes_(shapes), rate_(rate) {}

  Status run(PackedProfile* profile, const UnitRows& rows, int64_t context) const {
    WEIR_RETURN_IF_ERROR(profile->lay_out(rows, context));
    if (!options_.json) {
      fmt::print("\n{:<12} {:>6} {:>4} {:<42} {:<12} {:>9} {:>8} {:>9} {:>8} {:>6}  {}\n", "operation", "rows", "of",
                 "weights and shape", "stored as", "us each", "us all", rows.prompt ? "GFLOP" : "MB", "floor us", "%",
                 "kernels");
    }
    double sum = 0;
    for (const GpuUnit& unit : gpu_units(on_gpu_.program, on_gpu_.config, shapes_, rows)) {
      WEIR_ASSIGN_OR_RETURN(const UnitTime time, profile->time(unit));
      sum += time.micros * static_cast<double>(unit.parts.size());
      line(unit, rows, context, time);
    }
    return whole(profile, rows, context, sum);
  }

 private:
  double floor_micros(const StepCost& cost, const UnitRows& rows, int64_t context) const {
    const double reading = cost.bytes(rows.rows, context) / rate_.gbs / 1e3;
    if (!rows.prompt) return reading;
    // A prompt reads its own keys from the cache; weights at least once.
    StepCost weights = cost;
    weights.state_bytes = weights.context_bytes = 0;
    return std::max(weights.bytes(rows.rows, 0) / rate_.gbs / 1e3, flops(cost, rows) / kSheetTflops / 1e6);
  }
  static double flops(const StepCost& cost, const UnitRows& rows) { return 2.0 * cost.prompt_macs(rows.rows); }

  void line(const GpuUnit& unit, const UnitRows& rows, int64_t context, const UnitTime& time) const {
    const double micros = time.micros;
    const auto layers = static_cast<double>(unit.parts.size());
    const double amount = rows.prompt ? flops(unit.cost, rows) / 1e9 : unit.cost.bytes(rows.rows, context) / 1e6;
    const double floor = floor_micros(unit.cost, rows, context);
    if (options_.json) {
      Json row = {{"what", "operation"},
                  {"device", on_gpu_.device->info().name},
                  {"operation", unit.operation},
                  {"shape", unit.what},
                  {"format", unit.format},
                  {"layers", unit.layers.size()},
                  {"rows", rows.rows},
                  {"prompt", rows.prompt},
                  {"context", context},
                  {"kernel", time.kernels},
                  {"planned_kernel", unit.kernel},
                  {"chosen", "heuristic"},
                  {"us", micros},
                  {rows.prompt ? "gflop" : "mb", amount},
                  {"floor_us", floor},
                  {"percent_of_floor", 100.0 * floor / micros}};
      for (const UnitTime::Kernel& kernel : time.parts) row["kernel_us"][std::string(kernel.name)] = kernel.micros;
      fmt::print("{}\n", row.dump());
      return;
    }
    fmt::print("{:<12} {:>6} {:>4} {:<42} {:<12} {:>9.2f} {:>8.1f} {:>9.2f} {:>8.2f} {:>6.1f}  {}{}\n", unit.operation,
               rows.rows, unit.layers.size(), unit.what, unit.format, micros, micros * layers, amount, floor,
               100.0 * floor / micros, time.kernels,
               kernels_match(unit.kernel, time.kernels) ? "" : fmt::format(" (planned: {})", unit.kernel));
    for (const UnitTime::Kernel& kernel : time.parts) fmt::print("{:>80} {:>9.2f}\n", kernel.name, kernel.micros);
  }

  Status whole(PackedProfile* profile, const UnitRows& rows, int64_t context, double sum) const {
    const StepCost cost = stored_cost(on_gpu_.program, on_gpu_.config, shapes_, gpu_kv_value_bytes(on_gpu_.config));
    WEIR_ASSIGN_OR_RETURN(const double step, profile->time_step());
    WEIR_ASSIGN_OR_RETURN(const double experts, profile->distinct_experts());
    const double floor = floor_micros(cost, rows, context);
    const double expected = static_cast<double>(on_gpu_.config.experts) * cost.touched(rows.rows);
    if (options_.json) {
      Json row = {{"what", "step"},
                  {"device", on_gpu_.device->info().name},
                  {"rows", rows.rows},
                  {"prompt", rows.prompt},
                  {"context", context},
                  {"us", step},
                  {"us_of_operations", sum},
                  {"floor_us", floor},
                  {"percent_of_floor", 100.0 * floor / step},
                  {"read_gbs", rate_.gbs},
                  {"distinct_experts", experts},
                  {"distinct_experts_expected", expected}};
      fmt::print("{}\n", row.dump());
      return Ok{};
    }
    fmt::print("{} rows{}: {:.1f} us a step on the device, operations alone {:.1f}; floor {:.1f} us, {:.1f} %",
               rows.rows, rows.prompt ? " of a prompt" : fmt::format(" at {}", context), step, sum, floor,
               100.0 * floor / step);
    if (on_gpu_.config.moe()) fmt::print("; {:.1f} distinct experts a layer, {:.1f} expected", experts, expected);
    fmt::print("\n");
    return Ok{};
  }

  const Options& options_;
  const GpuModel& on_gpu_;
  const ModelWeights& shapes_;
  const GpuReadRate rate_;
};

}  // namespace

Status bench_ops(const Options& options, GpuModel* on_gpu, const LoadedModel& model) {
  WEIR_ASSIGN_OR_RETURN(const ModelShapes shapes, model_shapes(options, model.folder, model.config));
  WEIR_ASSIGN_OR_RETURN(const GpuReadRate rate, measure_read_rate({on_gpu->device.get(), &on_gpu->stream}));
  WEIR_ASSIGN_OR_RETURN(const auto profile, PackedProfile::create(on_gpu, model.memory.layout, model.memory.limits));
  if (!options.json) {
    fmt::print("{}: {}, reads {:.0f} GB/s over {:.2f} GiB\n", model.name, on_gpu->device_text(), rate.gbs,
               static_cast<double>(rate.set_bytes) / (1 << 30));
  }
  const OpsBench bench(options, *on_gpu, shapes.weights, rate);
  const int64_t context = options.prompt_tokens;
  for (const int64_t rows : {1, 4, 8, 32, 64}) {
    if (profile->fits(rows, context)) {
      WEIR_RETURN_IF_ERROR(bench.run(profile.get(), {rows, false}, context));
    } else if (!options.json) {
      fmt::print("{} rows at {} tokens: left out, they do not fit --max-num-seqs or the pages\n", rows, context);
    }
  }
  const int64_t chunk = std::min<int64_t>(model.memory.limits.step_tokens_max, model.memory.limits.sequence_tokens_max);
  return bench.run(profile.get(), {chunk, true}, 0);
}

}  // namespace weir
