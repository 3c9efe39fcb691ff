#include "models/draft_head.h"

#include <gtest/gtest.h>

#include <cmath>

#include "models/test_configs.h"
#include "tensor/weight_rows.h"

namespace weir {
namespace {

// Narrow, and with a last column block that is no whole one.
ModelConfig test_config() {
  TestSizes sizes = kSizes35B;
  sizes.hidden = 192;
  sizes.layers = 4;
  sizes.experts = 8;
  sizes.width = 64;
  const auto config = parse_model_config(replaced(replaced(flat_moe_config(sizes), "248320", "1000"), "248044", "1"));
  WEIR_CHECK(config.ok(), "{}", config.error().text());
  return *config;
}

TEST(DraftHead, ItsIdsAreTheFirstAndThoseBesideTheMergesOnce) {
  const std::vector<TokenId> also = {9, 2, 7, 7, -1, 12, 10};
  EXPECT_EQ(draft_ids(4, also, 11), (std::vector<TokenId>{0, 1, 2, 3, 7, 9, 10}));
  EXPECT_EQ(draft_ids(4, {}, 11), (std::vector<TokenId>{0, 1, 2, 3}));
  EXPECT_EQ(draft_ids(100, also, 5), (std::vector<TokenId>{0, 1, 2, 3, 4}));
  EXPECT_EQ(draft_ids(3, also, 3), (std::vector<TokenId>{0, 1, 2}));
}

// Rows of every format of lm_head, not whole bands of them.
TEST(DraftHead, RowsAreThoseOfTheHeadToTheFormatsPrecision) {
  const ModelConfig config = test_config();
  ThreadPool pool({.threads = 2});
  for (const bool row_fp8 : {false, true}) {
    auto weights = dummy_weights(config, WeightFormat::kBf16, 3);
    ASSERT_TRUE(weights.ok()) << weights.error().text();
    std::vector<uint8_t> codes(static_cast<size_t>(config.vocabulary * config.hidden));
    std::vector<float> scales(static_cast<size_t>(config.vocabulary));
    if (row_fp8) {  // of another format than the block FP8 that it becomes
      for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(i * 7 % 0x78);
      for (size_t i = 0; i < scales.size(); ++i) scales[i] = 0.01F + 0.001F * static_cast<float>(i % 9);
      WeightMatrix& head = weights->lm_head;
      head.format = WeightFormat::kFp8Row;
      head.data = reinterpret_cast<const std::byte*>(codes.data());
      head.row_bytes = config.hidden;
      head.scales = reinterpret_cast<const std::byte*>(scales.data());
      head.scale_stride = 1;
    }
    const std::vector<TokenId> also = {static_cast<TokenId>(config.vocabulary - 1)};
    const std::vector<TokenId> ids = draft_ids(std::min<int64_t>(130, config.vocabulary - 3), also, config.vocabulary);
    const int64_t before = weights->total_bytes;
    add_draft_head(&*weights, ids, &pool);
    const WeightMatrix& head = *find_matrix(*weights, Slot::kMtpHead, kMtpLayer);
    EXPECT_EQ(weights->mtp->head_ids, ids);
    ASSERT_EQ(head.n, static_cast<int64_t>(ids.size()));
    EXPECT_EQ(head.bytes(), draft_head_bytes(head.n, config.hidden));
    EXPECT_EQ(weights->total_bytes - before, head.bytes());
    std::vector<float> got(static_cast<size_t>(config.hidden));
    std::vector<float> row(got.size());
    for (int64_t i = 0; i < head.n; ++i) {
      read_row(head, i, got.data());
      read_row(weights->lm_head, ids[static_cast<size_t>(i)], row.data());
      for (size_t k = 0; k < row.size(); ++k) {
        const float scale = reinterpret_cast<const float*>(
            head.scales)[i / kFp8Block * head.scale_stride + static_cast<int64_t>(k) / kFp8Block];
        ASSERT_LE(std::abs(got[k] - row[k]), 1.0001F * std::max(std::abs(row[k]) / 16.0F, scale * 0x1p-10F))
            << "row " << i << ", column " << k;
      }
    }
  }
}

TEST(DraftHead, AShapeAloneHasNoData) {
  auto weights = dummy_shapes(test_config(), WeightFormat::kBf16);
  ASSERT_TRUE(weights.ok()) << weights.error().text();
  EXPECT_EQ(find_matrix(*weights, Slot::kMtpHead, kMtpLayer), nullptr);
  add_draft_head(&*weights, draft_ids(16, {}, 100), nullptr);
  const WeightMatrix* head = find_matrix(*weights, Slot::kMtpHead, kMtpLayer);
  ASSERT_NE(head, nullptr);
  EXPECT_EQ(head->n, 16);
  EXPECT_EQ(head->data, nullptr);
}

}  // namespace
}  // namespace weir
