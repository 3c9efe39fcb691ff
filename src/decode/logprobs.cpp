#include "decode/logprobs.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"
#include "decode/noise.h"

namespace weir {

double log_sum_exp(std::span<const float> logits) {
  const float top = *std::max_element(logits.begin(), logits.end());
  // Four running sums, combined in a fixed order: the additions overlap and the result is still one set of bits.
  double sums[4] = {0.0, 0.0, 0.0, 0.0};
  for (size_t i = 0; i < logits.size(); ++i) sums[i % 4] += static_cast<double>(portable_exp(logits[i] - top));
  return static_cast<double>(top) + std::log((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

LogprobWriter::LogprobWriter(int32_t logits_max) {
  order_.resize(static_cast<size_t>(logits_max));
}

void LogprobWriter::append(std::span<const float> logits, TokenId token, int32_t top, StepResult* result) {
  WEIR_CHECK(token >= 0 && static_cast<size_t>(token) < logits.size(), "token {} of {} logits", token, logits.size());
  const double total = log_sum_exp(logits);
  const auto logprob = [&](TokenId id) {
    return static_cast<float>(static_cast<double>(logits[static_cast<size_t>(id)]) - total);
  };
  const auto likelier = [&](TokenId a, TokenId b) {
    const float la = logits[static_cast<size_t>(a)];
    const float lb = logits[static_cast<size_t>(b)];
    return la > lb || (la == lb && a < b);
  };
  int32_t rank = 1;
  for (size_t id = 0; id < logits.size(); ++id) rank += likelier(static_cast<TokenId>(id), token) ? 1 : 0;

  LogprobRow row;
  row.first = static_cast<int32_t>(result->logprobs.size());
  row.top_count = std::min(top, static_cast<int32_t>(logits.size()));
  result->logprobs.push_back({token, logprob(token), rank});
  if (row.top_count > 0) {
    const auto end = order_.begin() + static_cast<int64_t>(logits.size());
    std::iota(order_.begin(), end, 0);
    std::partial_sort(order_.begin(), order_.begin() + row.top_count, end, likelier);
    for (int32_t i = 0; i < row.top_count; ++i) {
      const TokenId id = order_[static_cast<size_t>(i)];
      result->logprobs.push_back({id, logprob(id), i + 1});
    }
  }
  result->rows.push_back(row);
}

}  // namespace weir
