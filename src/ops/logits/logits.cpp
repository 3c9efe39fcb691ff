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
  size_t count = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (count == top.size() && (count == 0 || !(logits[i] > top[count - 1].logit))) continue;
    size_t at = count < top.size() ? count++ : count - 1;
    // Insertion keeps ids ascending among equals: only strictly smaller entries move down.
    for (; at > 0 && logits[i] > top[at - 1].logit; --at) top[at] = top[at - 1];
    top[at] = {static_cast<int32_t>(i), logits[i]};
  }
  return static_cast<int64_t>(count);
}

int64_t logit_rank(std::span<const float> logits, int32_t id) {
  const float own = logits[static_cast<size_t>(id)];
  return 1 + std::count_if(logits.begin(), logits.end(), [own](float other) { return other > own; });
}

}  // namespace weir
