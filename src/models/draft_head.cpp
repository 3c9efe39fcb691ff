#include "models/draft_head.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "tensor/fp8_blocks.h"
#include "tensor/weight_rows.h"

namespace weir {
namespace {

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

WeightMatrix shape_of(int64_t rows, int64_t hidden) {
  WeightMatrix head;
  head.format = WeightFormat::kFp8Block;
  head.n = rows;
  head.k = hidden;
  head.row_bytes = hidden;
  head.scale_stride = ceil_div(hidden, kFp8Block);
  return head;
}

}  // namespace

std::vector<TokenId> draft_ids(int64_t first, std::span<const TokenId> also, int64_t vocabulary) {
  std::vector<TokenId> ids;
  const int64_t end = std::min(first, vocabulary);
  ids.reserve(static_cast<size_t>(end) + also.size());
  for (int64_t id = 0; id < end; ++id) ids.push_back(static_cast<TokenId>(id));
  for (const TokenId id : also) {
    if (id >= end && id < vocabulary) ids.push_back(id);
  }
  std::sort(ids.begin() + end, ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

void add_draft_head(ModelWeights* weights, std::vector<TokenId> ids, ThreadPool* pool) {
  WEIR_CHECK(weights->mtp.has_value() && !ids.empty() && ids.back() < weights->lm_head.n,
             "a draft head of {} ids for a head of {} rows", ids.size(), weights->lm_head.n);
  WeightMatrix head = shape_of(static_cast<int64_t>(ids.size()), weights->lm_head.k);
  if (pool != nullptr) {
    const int64_t bands = ceil_div(head.n, kFp8Block);
    const auto scale_bytes = bands * head.scale_stride * static_cast<int64_t>(sizeof(float));
    std::byte* codes = weights->store.allocate(head.n * head.k).data();
    std::byte* scales = weights->store.allocate(scale_bytes).data();
    pool->parallel_for(bands, [&](int64_t band, int) {
      const int64_t first = band * kFp8Block;
      const int64_t count = std::min(kFp8Block, head.n - first);
      std::vector<float> rows(static_cast<size_t>(count * head.k));
      for (int64_t i = 0; i < count; ++i) {
        read_row(weights->lm_head, ids[static_cast<size_t>(first + i)], rows.data() + i * head.k);
      }
      quantise_fp8_band(rows.data(), count, head.k, reinterpret_cast<uint8_t*>(codes) + first * head.k,
                        reinterpret_cast<float*>(scales) + band * head.scale_stride);
    });
    head.data = codes;
    head.scales = scales;
  }
  weights->total_bytes += head.bytes();
  weights->mtp->head = head;
  weights->mtp->head_ids = std::move(ids);
}

int64_t draft_head_bytes(int64_t rows, int64_t hidden) {
  return shape_of(rows, hidden).bytes();
}

}  // namespace weir
