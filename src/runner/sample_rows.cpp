#include "runner/sample_rows.h"

#include <cstring>
#include <utility>

#include "ops/sample/noise.h"

namespace weir {

static_assert(sizeof(GpuLogitBias) == sizeof(LogitBias) && offsetof(GpuLogitBias, bias) == offsetof(LogitBias, bias));
static_assert(kGpuBiasMax == kLogitBiasMax && kGpuBannedMax == kStopIdsMax);

bool gpu_samples(const SamplingParams& params) {
  return params.repetition_penalty == 1.0F && params.presence_penalty == 0.0F && params.frequency_penalty == 0.0F;
}

int64_t sample_lists_bytes(int64_t rows) {
  return rows * static_cast<int64_t>(kGpuBiasMax * sizeof(GpuLogitBias) + kGpuBannedMax * sizeof(int32_t));
}

void lay_out_samples(std::span<const SampleRequest> requests, GpuSampleRow* rows, std::byte* lists) {
  const auto copy_list = [&](const auto* from, int32_t count) {
    const auto bytes = static_cast<size_t>(count) * sizeof(*from);
    std::memcpy(lists, from, bytes);
    return std::exchange(lists, lists + bytes);
  };
  for (size_t i = 0; i < requests.size(); ++i) {
    const SampleRequest& request = requests[i];
    GpuSampleRow& row = rows[i];
    row = GpuSampleRow{};
    if (!request.on_device) continue;
    const SamplingParams& params = *request.params;
    const float scale = params.temperature > 0.0F ? 1.0F / params.temperature : 0.0F;
    row.scale = scale > kSampleScaleMax ? 0.0F : scale;
    row.top_p = params.top_p;
    row.min_p = params.min_p;
    row.top_k = params.top_k;
    row.seed = params.seed;
    row.position = request.position;
    row.row = request.row;
    row.bias_count = params.logit_bias_count;
    if (row.bias_count > 0) {
      row.bias = reinterpret_cast<const GpuLogitBias*>(copy_list(params.logit_bias.data(), row.bias_count));
    }
    row.banned_count = request.output_count < params.min_tokens ? params.banned_until_min_count : 0;
    if (row.banned_count > 0) {
      row.banned = reinterpret_cast<const int32_t*>(copy_list(params.banned_until_min.data(), row.banned_count));
    }
  }
}

}  // namespace weir
