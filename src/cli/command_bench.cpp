// weir bench: prefill and decode through the whole engine, in this process, beside what the machine can do at most.
#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <random>

#include "cli/commands.h"
#include "cli/host.h"
#include "cli/loading.h"
#include "ops/cpu/machine.h"
#include "runner/cost.h"
#include "runner/cpu_model.h"

namespace weir {
namespace {

struct Measured {
  double first_token_s = 0;    // of the slowest stream
  double decode_tokens_s = 0;  // all streams together, while all of them decode
  int64_t decode_tokens = 0;
};

Result<std::vector<int64_t>> read_list(const std::string& text, int64_t high) {
  std::vector<int64_t> values;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    int64_t value = 0;
    const auto [stop, error] = std::from_chars(text.data() + at, text.data() + end, value);
    if (error != std::errc() || stop != text.data() + end || value < 1 || value > high) {
      return Error{ErrorCode::kInvalidArgument, fmt::format("--streams is '{}'", text),
                   fmt::format("give numbers from 1 to {} (--max-num-seqs), separated by commas", high)};
    }
    values.push_back(value);
    at = end + 1;
  }
  return values;
}

// Runs `streams` sequences of random prompts at once, greedy and without stops.
Result<Measured> run(EngineHost& host, const LoadedModel& model, int64_t streams, int64_t prompt_tokens,
                     int64_t output_tokens) {
  EngineClient client = host.client();
  std::mt19937 random(static_cast<uint32_t>(streams));
  struct Stream {
    int64_t first_us = 0;
    int64_t last_us = 0;
  };
  std::map<SequenceId, Stream> live;
  WEIR_ASSIGN_OR_RETURN(Ticket ticket, client.try_reserve(static_cast<int32_t>(streams)));
  const int64_t start_us = host.clock().now_us();
  for (int64_t i = 0; i < streams; ++i) {
    std::vector<TokenId> prompt(static_cast<size_t>(prompt_tokens));
    for (TokenId& token : prompt) {
      token = static_cast<TokenId>(random() % static_cast<uint32_t>(model.memory.limits.vocabulary));
    }
    GenerateHeader header;
    header.id = client.next_id();
    header.arrival_us = start_us;
    header.sampling.temperature = 0;
    header.sampling.max_tokens = static_cast<int32_t>(output_tokens);
    WEIR_RETURN_IF_ERROR(client.submit(&ticket, header, prompt));
    live[header.id] = {};
  }
  std::vector<int64_t> token_times;
  Event event;
  int64_t open = streams;
  while (open > 0) {
    if (!client.poll(&event)) {
      pollfd wait{client.event_fd(), POLLIN, 0};
      ::poll(&wait, 1, 1000);
      continue;
    }
    Stream& stream = live.at(event.header.id);
    if (event.header.token_count > 0 && stream.first_us == 0) stream.first_us = event.header.now_us;
    for (int32_t i = 0; i < event.header.token_count; ++i) token_times.push_back(event.header.now_us);
    if (event.header.finish == FinishReason::kNone) continue;
    if (event.header.finish != FinishReason::kLength)
      return make_error(ErrorCode::kInternal, "a stream ended early: {}", event.message);
    stream.last_us = event.header.now_us;
    --open;
  }
  int64_t begin_us = 0;
  int64_t end_us = INT64_MAX;
  for (const auto& [id, stream] : live) {
    begin_us = std::max(begin_us, stream.first_us);
    end_us = std::min(end_us, stream.last_us);
  }
  Measured measured;
  measured.first_token_s = static_cast<double>(begin_us - start_us) / 1e6;
  for (const int64_t time : token_times) measured.decode_tokens += time > begin_us && time <= end_us ? 1 : 0;
  if (end_us > begin_us) {
    measured.decode_tokens_s =
        static_cast<double>(measured.decode_tokens) / (static_cast<double>(end_us - begin_us) / 1e6);
  }
  return measured;
}

// The best of several runs: the machine has other work, and it only ever makes a run slower.
Result<Measured> best_of(EngineHost& host, const LoadedModel& model, int64_t repeats, int64_t streams,
                         int64_t prompt_tokens, int64_t output_tokens) {
  Measured best;
  for (int64_t i = 0; i < repeats; ++i) {
    WEIR_ASSIGN_OR_RETURN(const Measured one, run(host, model, streams, prompt_tokens, output_tokens));
    if (i == 0 || one.first_token_s < best.first_token_s) best.first_token_s = one.first_token_s;
    if (one.decode_tokens_s > best.decode_tokens_s) best.decode_tokens_s = one.decode_tokens_s;
    best.decode_tokens = one.decode_tokens;
  }
  return best;
}

constexpr int64_t kDecodePrompt = 64;

// Beside what it took: what the multiply-adds alone, and reading every byte once alone, would take on this machine.
void report_decode(const Options& options, int64_t streams, const Measured& measured, const StepCost& cost,
                   const MachineLimits& machine, double one_stream) {
  const int64_t context = kDecodePrompt + options.output_tokens / 2;
  const double step_s = static_cast<double>(streams) / measured.decode_tokens_s;
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

// Rates alone, for devices whose limits are not measured here.
Status measure_rates(const Options& options, const std::vector<int64_t>& streams, LoadedModel* model) {
  fmt::print("{}: {}\n", model->name, model->model->device_text());
  WEIR_ASSIGN_OR_RETURN(const auto host, EngineHost::start(options, model));
  WEIR_ASSIGN_OR_RETURN(const Measured prefill, best_of(*host, *model, options.repeats, 1, options.prompt_tokens, 2));
  fmt::print("prefill, {:>5} tokens {:>8.0f} tok/s  {:>7.1f} ms\n", options.prompt_tokens,
             static_cast<double>(options.prompt_tokens) / prefill.first_token_s, prefill.first_token_s * 1e3);
  for (const int64_t count : streams) {
    WEIR_ASSIGN_OR_RETURN(const Measured measured,
                          best_of(*host, *model, options.repeats, count, kDecodePrompt, options.output_tokens));
    fmt::print("decode, {:>3} streams {:>7.0f} tok/s {:>7.3f} ms a step\n", count, measured.decode_tokens_s,
               static_cast<double>(count) / measured.decode_tokens_s * 1e3);
  }
  return Ok{};
}

}  // namespace

Status command_bench(const Options& options) {
  Phases phases;
  WEIR_ASSIGN_OR_RETURN(LoadedModel model, load_model(options, 0, &phases));
  const int64_t rows_max = model.memory.limits.rows_max;
  WEIR_ASSIGN_OR_RETURN(const std::vector<int64_t> streams, read_list(options.streams, rows_max));
  if (options.prompt_tokens + options.output_tokens > model.memory.limits.sequence_tokens_max) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("{} + {} tokens do not fit the context of {}", options.prompt_tokens,
                             options.output_tokens, model.memory.limits.sequence_tokens_max),
                 "lower --prompt-tokens or --output-tokens"};
  }
  const auto* on_cpu = dynamic_cast<const CpuModel*>(model.model.get());
  if (on_cpu == nullptr) return measure_rates(options, streams, &model);
  const StepCost cost = program_cost(on_cpu->program, model.config, on_cpu->weights);
  const MachineLimits machine = measure_machine(*on_cpu->cpu, on_cpu->weights.bytes());
  const int64_t context = options.prompt_tokens / 2;
  if (!options.json) {
    fmt::print("{}: {} threads, {}; peak {:.1f} GFLOP/s (float32 multiply-adds), reads {:.1f} GB/s over {:.1f} MB\n",
               model.name, machine.threads, isa_name(on_cpu->cpu->isa()), machine.fma_gflops, machine.read_gbs,
               static_cast<double>(machine.working_set_bytes) / 1e6);
  }
  WEIR_ASSIGN_OR_RETURN(const auto host, EngineHost::start(options, &model));
  WEIR_ASSIGN_OR_RETURN(const Measured prefill, best_of(*host, model, options.repeats, 1, options.prompt_tokens, 2));
  const double prefill_macs =
      static_cast<double>(options.prompt_tokens) * static_cast<double>(cost.body_macs + context * cost.context_macs) +
      static_cast<double>(cost.head_macs);
  const double gflops = 2.0 * prefill_macs / prefill.first_token_s / 1e9;
  const double prefill_rate = static_cast<double>(options.prompt_tokens) / prefill.first_token_s;
  if (options.json) {
    fmt::print(
        "{{\"what\": \"machine\", \"threads\": {}, \"fma_gflops\": {:.1f}, \"read_gbs\": {:.1f}, "
        "\"working_set_bytes\": {}}}\n",
        machine.threads, machine.fma_gflops, machine.read_gbs, machine.working_set_bytes);
    fmt::print(
        "{{\"what\": \"prefill\", \"tokens\": {}, \"tokens_s\": {:.1f}, \"gflops\": {:.1f}, \"percent_of_peak\": "
        "{:.1f}}}\n",
        options.prompt_tokens, prefill_rate, gflops, 100.0 * gflops / machine.fma_gflops);
  } else {
    fmt::print("prefill, {:>5} tokens {:>8.0f} tok/s  {:>7.1f} ms      {:>7.1f} GFLOP/s {:>5.1f} % of peak\n",
               options.prompt_tokens, prefill_rate, prefill.first_token_s * 1e3, gflops,
               100.0 * gflops / machine.fma_gflops);
  }
  double one_stream = 0;
  for (const int64_t count : streams) {
    WEIR_ASSIGN_OR_RETURN(const Measured measured,
                          best_of(*host, model, options.repeats, count, kDecodePrompt, options.output_tokens));
    // The working set of many steps: all weights, and the state and KV that the streams bring.
    const int64_t own = cost.state_bytes + (kDecodePrompt + options.output_tokens / 2) * cost.context_bytes;
    const MachineLimits limits = measure_machine(*on_cpu->cpu, on_cpu->weights.bytes() + count * own);
    if (one_stream <= 0) one_stream = measured.decode_tokens_s / (count == 1 ? 1.0 : static_cast<double>(count));
    report_decode(options, count, measured, cost, limits, one_stream);
  }
  return Ok{};
}

}  // namespace weir
