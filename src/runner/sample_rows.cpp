#include "runner/sample_rows.h"

#include <cstring>

#include "base/check.h"
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

void lay_out_samples(std::span<const SampleRequest> requests, GpuSampleRow* rows, std::span<std::byte> lists) {
  const auto copy_list = [&](const auto* from, int32_t count) {
    const auto bytes = static_cast<size_t>(count) * sizeof(*from);
    WEIR_CHECK(bytes <= lists.size(), "sampling lists of more than was reserved");
    std::memcpy(lists.data(), from, bytes);
    std::byte* const place = lists.data();
    lists = lists.subspan(bytes);
    return place;
  };
  // Of the sequence before.
  const SamplingParams* params_before = nullptr;
  const std::byte* bias = nullptr;
  const std::byte* banned = nullptr;
  for (size_t i = 0; i < requests.size(); ++i) {
    const SampleRequest& request = requests[i];
    GpuSampleRow& row = rows[i];
    row = GpuSampleRow{};
    if (!request.on_device) continue;
    const SamplingParams& params = *request.params;
    if (request.params != params_before) bias = banned = nullptr;
    params_before = request.params;
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
      if (bias == nullptr) bias = copy_list(params.logit_bias.data(), row.bias_count);
      row.bias = reinterpret_cast<const GpuLogitBias*>(bias);
    }
    row.banned_count = request.output_count < params.min_tokens ? params.banned_until_min_count : 0;
    if (row.banned_count > 0) {
      if (banned == nullptr) banned = copy_list(params.banned_until_min.data(), row.banned_count);
      row.banned = reinterpret_cast<const int32_t*>(banned);
    }
  }
}

}  // namespace weir
