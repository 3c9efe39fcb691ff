// What `weir bench` does on each device; the model is loaded, the numbers of streams are read.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/flags.h"
#include "cli/loading.h"
#include "runner/cpu_model.h"
#include "runner/gpu_model.h"

namespace weir {

// Numbers from 1 to `high`, separated by commas, of the flag of this name; `limit`: the flag that sets `high`.
Result<std::vector<int64_t>> read_numbers(const char* flag, const std::string& text, int64_t high, const char* limit);

Status bench_cpu(const Options& options, const std::vector<int64_t>& streams, const CpuModel& on_cpu,
                 LoadedModel* model);
Status bench_gpu(const Options& options, const std::vector<int64_t>& streams, GpuModel* on_gpu, LoadedModel* model);
// --ops.
Status bench_ops(const Options& options, GpuModel* on_gpu, const LoadedModel& model);

}  // namespace weir
