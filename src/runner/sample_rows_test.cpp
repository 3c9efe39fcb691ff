#include "runner/sample_rows.h"

#include <gtest/gtest.h>

#include <vector>

namespace weir {
namespace {

// The rows of a verify step: as many as there can be, with as long lists as there can be.
TEST(SampleRows, ThoseOfASequenceShareItsLists) {
  std::vector<SamplingParams> params(2);
  for (SamplingParams& p : params) {
    p.min_tokens = 3;
    p.logit_bias_count = kGpuBiasMax;
    p.banned_until_min_count = kGpuBannedMax;
    for (int32_t i = 0; i < kGpuBiasMax; ++i) p.logit_bias[static_cast<size_t>(i)] = {i, 1.0F};
    for (int32_t i = 0; i < kGpuBannedMax; ++i) p.banned_until_min[static_cast<size_t>(i)] = i;
  }
  params[1].logit_bias[7].bias = 2.0F;
  std::vector<SampleRequest> requests;
  for (int32_t s = 0; s < 2; ++s) {
    for (int32_t i = 0; i <= kDraftsMax; ++i) {
      requests.push_back({&params[static_cast<size_t>(s)], 10 + i, i, s, true});
    }
  }
  std::vector<std::byte> lists(static_cast<size_t>(sample_lists_bytes(2)));
  std::vector<GpuSampleRow> rows(requests.size());
  lay_out_samples(requests, rows.data(), lists);
  for (size_t i = 0; i < rows.size(); ++i) {
    ASSERT_EQ(rows[i].bias_count, kGpuBiasMax);
    EXPECT_EQ(rows[i].bias[7].bias, requests[i].row == 0 ? 1.0F : 2.0F);
    EXPECT_EQ(rows[i].bias[kGpuBiasMax - 1].token, kGpuBiasMax - 1);
    EXPECT_EQ(rows[i].banned_count, requests[i].output_count < 3 ? kGpuBannedMax : 0) << i;
    if (rows[i].banned_count > 0) {
      EXPECT_EQ(rows[i].banned[kGpuBannedMax - 1], kGpuBannedMax - 1);
    }
  }
}

}  // namespace
}  // namespace weir
