// weir bench: prefill and decode through the whole engine, in this process, beside what the machine can do at most.
#include "cli/command_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "cli/command_bench_reuse.h"
#include "cli/commands.h"

namespace weir {
Result<std::vector<int64_t>> read_numbers(const char* flag, const std::string& text, int64_t high, const char* limit) {
  std::vector<int64_t> values;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    int64_t value = 0;
    const auto [stop, error] = std::from_chars(text.data() + at, text.data() + end, value);
    if (error != std::errc() || stop != text.data() + end || value < 1 || value > high) {
      return Error{ErrorCode::kInvalidArgument, fmt::format("--{} is '{}'", flag, text),
                   fmt::format("give numbers from 1 to {} ({}), separated by commas", high, limit)};
    }
    values.push_back(value);
    at = end + 1;
  }
  return values;
}

Status command_bench(const Options& options) {
  if (options.ops && options.device == "cpu") {
    return Error{ErrorCode::kInvalidArgument, "--ops times the operations of a GPU", "give --device cuda"};
  }
  Phases phases;
  WEIR_ASSIGN_OR_RETURN(LoadedModel model, load_model(options, nullptr, &phases));
  const int64_t rows_max = model.memory.limits.rows_max;
  WEIR_ASSIGN_OR_RETURN(const std::vector<int64_t> streams,
                        read_numbers("streams", options.streams, rows_max, "--max-num-seqs"));
  if (options.prompt_tokens + options.output_tokens > model.memory.limits.sequence_tokens_max) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("{} + {} tokens do not fit the context of {}", options.prompt_tokens,
                             options.output_tokens, model.memory.limits.sequence_tokens_max),
                 "lower --prompt-tokens or --output-tokens"};
  }
  WEIR_RETURN_IF_ERROR(check_reuse_flags(options, model.memory.limits));
  if (const auto* on_cpu = dynamic_cast<const CpuModel*>(model.model.get())) {
    return bench_cpu(options, streams, *on_cpu, &model);
  }
  auto* on_gpu = dynamic_cast<GpuModel*>(model.model.get());
  return options.ops ? bench_ops(options, on_gpu, model) : bench_gpu(options, streams, on_gpu, &model);
}

}  // namespace weir
