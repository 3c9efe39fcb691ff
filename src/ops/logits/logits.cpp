#include "ops/logits/logits.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "ops/cpu/kernel_table.h"
#include "ops/logits/logits_kernels.h"

namespace weir {

LogitRow logit_row(const Cpu& cpu, std::span<const float> logits) {
  WEIR_CHECK(!logits.empty(), "an empty row of logits");
  LogitRow row;
  row.max = logits[0];
  for (size_t i = 1; i < logits.size(); ++i) {
    if (logits[i] > row.max) {
      row.max = logits[i];
      row.argmax = static_cast<int32_t>(i);
    }
  }
  double sum = 0;
  SumExpRow work;
  work.logits = logits.data();
  work.size = static_cast<int64_t>(logits.size());
  work.max = row.max;
  work.sum = &sum;
  cpu.kernels().sum_exp_row(work);
  row.log_sum_exp = static_cast<double>(row.max) + std::log(sum);
  return row;
}

int64_t top_logits(std::span<const float> logits, std::span<LogitEntry> top) {
  const auto likelier = [](const LogitEntry& a, const LogitEntry& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
  };
  const size_t count = std::min(logits.size(), top.size());
  if (count == 0) return 0;
  const auto kept = top.first(count);
  for (size_t i = 0; i < count; ++i) kept[i] = {static_cast<int32_t>(i), logits[i]};
  // A heap with the least likely of those kept in front: most ids cost one comparison with it.
  std::make_heap(kept.begin(), kept.end(), likelier);
  for (size_t i = count; i < logits.size(); ++i) {
    if (!(logits[i] > kept.front().logit)) continue;  // among equals the lower id, which came first, stays
    std::pop_heap(kept.begin(), kept.end(), likelier);
    kept.back() = {static_cast<int32_t>(i), logits[i]};
    std::push_heap(kept.begin(), kept.end(), likelier);
  }
  std::sort_heap(kept.begin(), kept.end(), likelier);
  return static_cast<int64_t>(count);
}

int64_t logit_rank(std::span<const float> logits, int32_t id) {
  const auto own = static_cast<size_t>(id);
  const float logit = logits[own];
  int64_t before = 0;
  for (size_t i = 0; i < own; ++i) before += logits[i] >= logit ? 1 : 0;
  for (size_t i = own + 1; i < logits.size(); ++i) before += logits[i] > logit ? 1 : 0;
  return 1 + before;
}

}  // namespace weir
