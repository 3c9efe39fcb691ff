// Bound by the exponential: one pass over the row.
#include "ops/logits/logits_kernels.h"

#include "ops/cpu/kernel_table.h"
#include "ops/cpu/vec_math.h"

namespace weir::WEIR_ISA {

void sum_exp_row(const SumExpRow& row) {
  constexpr int64_t kRun = 16 * kLanes;  // short enough that the float lanes lose nothing that matters
  double total[kLanes] = {};
  const Vec max = splat(row.max);
  for (int64_t begin = 0; begin < row.size; begin += kRun) {
    const int64_t end = begin + kRun < row.size ? begin + kRun : row.size;
    Vec sum = zero();
    for (int64_t i = begin; i < end; i += kLanes) {
      const Vec e = exp(sub(load_tail(row.logits, i, end), max));
      sum = add(sum, end - i < kLanes ? select_first(end - i, e, zero()) : e);
    }
    float lanes_of_sum[kLanes];
    store(lanes_of_sum, sum);
    for (int64_t lane = 0; lane < kLanes; ++lane) total[lane] += static_cast<double>(lanes_of_sum[lane]);
  }
  double sum = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) sum += total[lane];
  *row.sum = sum;
}

}  // namespace weir::WEIR_ISA
