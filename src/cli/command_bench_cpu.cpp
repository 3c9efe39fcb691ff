// The CPU's part of weir bench.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/command_bench.h"
#include "cli/command_bench_reuse.h"
#include "cli/command_bench_streams.h"
#include "ops/cpu/machine.h"
#include "runner/cost.h"

namespace weir {
namespace {

// Of the decoding streams: what a step takes is then mostly weights.
constexpr int64_t kDecodePrompt = 64;

// Steps with drafts, which have no one size to hold against the machine's limits.
void report_drafting(const Options& options, int64_t streams, const Measured& measured, const LoadedModel& model,
                     double one_stream) {
  const double step_ms = measured.step_s(streams) * 1e3;
  if (options.json) {
    nlohmann::ordered_json row = {{"what", "decode"},
                                  {"streams", streams},
                                  {"context", measured.context},
                                  {"tokens_s", measured.decode_tokens_s},
                                  {"times_one_stream", measured.decode_tokens_s / one_stream},
                                  {"step_ms", step_ms}};
    row.update(drafts_json(options, model, measured.drafts));
    fmt::print("{}\n", row.dump());
    return;
  }
  fmt::print("decode, {:>3} streams {:>7.0f} tok/s {:>5.2f} x one {:>7.2f} ms a step{}\n", streams,
             measured.decode_tokens_s, measured.decode_tokens_s / one_stream, step_ms,
             drafts_text(options, model, measured.drafts));
}

// Beside what it took: what the multiply-adds alone, and reading every byte once alone, would take on this machine.
void report_decode(const Options& options, int64_t streams, const Measured& measured, const StepCost& cost,
                   const MachineLimits& machine, double one_stream) {
  const int64_t context = measured.context;
  const double step_s = measured.step_s(streams);
  const double bytes = cost.bytes(streams, context);
  const double arithmetic_s = 2.0 * cost.macs(streams, context) / (machine.fma_gflops * 1e9);
  const double reading_s = bytes / (machine.read_gbs * 1e9);
  if (options.json) {
    fmt::print(
        "{{\"what\": \"decode\", \"streams\": {}, \"context\": {}, \"tokens_s\": {:.1f}, \"times_one_stream\": {:.2f}, "
        "\"step_ms\": {:.4f}, \"arithmetic_ms\": {:.4f}, \"bytes\": {:.0f}, \"read_gbs\": {:.1f}, \"reading_ms\": "
        "{:.4f}, \"percent_of_peak\": {:.1f}, \"percent_of_read_rate\": {:.1f}}}\n",
        streams, context, measured.decode_tokens_s, measured.decode_tokens_s / one_stream, step_s * 1e3,
        arithmetic_s * 1e3, bytes, machine.read_gbs, reading_s * 1e3, 100.0 * arithmetic_s / step_s,
        100.0 * reading_s / step_s);
    return;
  }
  fmt::print(
      "decode, {:>3} streams {:>7.0f} tok/s {:>5.2f} x one {:>7.2f} ms a step; multiply-adds alone: {:.2f} ms ({:.1f} "
      "%); reading {:.1f} MB at the {:.1f} GB/s of a set of {:.1f} MB alone: {:.2f} ms ({:.1f} %)\n",
      streams, measured.decode_tokens_s, measured.decode_tokens_s / one_stream, step_s * 1e3, arithmetic_s * 1e3,
      100.0 * arithmetic_s / step_s, bytes / 1e6, machine.read_gbs,
      static_cast<double>(machine.working_set_bytes) / 1e6, reading_s * 1e3, 100.0 * reading_s / step_s);
}

void report_prefill(const Options& options, const ModelConfig& config, const Measured& prefill, const StepCost& cost,
                    const MachineLimits& machine) {
  const double gflops = 2.0 * cost.prompt_macs(options.prompt_tokens) / prefill.first_token_s / 1e9;
  const double rate = static_cast<double>(options.prompt_tokens) / prefill.first_token_s;
  const double percent = 100.0 * gflops / machine.fma_gflops;
  if (options.json) {
    fmt::print(
        "{{\"what\": \"machine\", \"threads\": {}, \"fma_gflops\": {:.1f}, \"read_gbs\": {:.1f}, "
        "\"working_set_bytes\": {}, \"kv_format\": \"{}\"}}\n",
        machine.threads, machine.fma_gflops, machine.read_gbs, machine.working_set_bytes,
        config.kv_format == KvFormat::kFp8 ? "FP8" : "F32");
    fmt::print(
        "{{\"what\": \"prefill\", \"tokens\": {}, \"tokens_s\": {:.1f}, \"gflops\": {:.1f}, \"percent_of_peak\": "
        "{:.1f}}}\n",
        options.prompt_tokens, rate, gflops, percent);
  } else {
    fmt::print("prefill, {:>5} tokens {:>8.0f} tok/s  {:>7.1f} ms      {:>7.1f} GFLOP/s {:>5.1f} % of peak\n",
               options.prompt_tokens, rate, prefill.first_token_s * 1e3, gflops, percent);
  }
}

}  // namespace

Status bench_cpu(const Options& options, const std::vector<int64_t>& streams, const CpuModel& on_cpu,
                 LoadedModel* model) {
  const StepCost cost = program_cost(on_cpu.program, model->config, on_cpu.weights);
  const MachineLimits machine = measure_machine(*on_cpu.cpu, on_cpu.weights.bytes());
  if (!options.json) {
    fmt::print("{}: {} threads, {}; peak {:.1f} GFLOP/s (float32 multiply-adds), reads {:.1f} GB/s over {:.1f} MB\n",
               model->name, machine.threads, isa_name(on_cpu.cpu->isa()), machine.fma_gflops, machine.read_gbs,
               static_cast<double>(machine.working_set_bytes) / 1e6);
    if (on_cpu.config.kv_format == KvFormat::kFp8) fmt::print("pages of FP8 keys and values\n");
  }
  WEIR_ASSIGN_OR_RETURN(const auto host, EngineHost::start(options, model));
  WEIR_ASSIGN_OR_RETURN(const Measured prefill,
                        best_streams(*host, *model, options.repeats, {1, options.prompt_tokens, 2}));
  report_prefill(options, on_cpu.config, prefill, cost, machine);
  double one_stream = 0;
  for (const int64_t count : streams) {
    WEIR_ASSIGN_OR_RETURN(const Measured measured,
                          best_streams(*host, *model, options.repeats,
                                       {count, kDecodePrompt, options.output_tokens, static_cast<uint32_t>(count)}));
    if (one_stream <= 0) one_stream = measured.decode_tokens_s / (count == 1 ? 1.0 : static_cast<double>(count));
    if (model->memory.limits.drafts_max > 0) {
      report_drafting(options, count, measured, *model, one_stream);
      continue;
    }
    // The working set of many steps: all weights, and the state and KV that the streams bring.
    const int64_t own = cost.state_bytes + measured.context * cost.context_bytes;
    host->settle();  // it uses the threads that the measurement needs
    const MachineLimits limits = measure_machine(*on_cpu.cpu, on_cpu.weights.bytes() + count * own);
    report_decode(options, count, measured, cost, limits, one_stream);
  }
  return bench_reuse(options, *host, *model);
}

}  // namespace weir
