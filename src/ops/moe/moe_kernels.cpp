// Small elementwise parts of the feed-forward blocks; the products are linear_task's.
#include "ops/moe/moe_kernels.h"

#include "ops/cpu/kernel_table.h"
#include "ops/cpu/vec_math.h"

namespace weir::WEIR_ISA {

void silu_mul(const SiluMul& rows) {
  for (int64_t r = 0; r < rows.rows; ++r) {
    const int64_t at = r * rows.stride;
    for (int64_t c = 0; c < rows.columns; c += kLanes) {
      const Vec gate = load_tail(rows.gate + at, c, rows.columns);
      store_tail(rows.out + at, mul(silu(gate), load_tail(rows.up + at, c, rows.columns)), c, rows.columns);
    }
  }
}

void combine(const Combine& row) {
  for (int64_t c = 0; c < row.columns; c += kLanes) {
    Vec sum = zero();
    for (int64_t p = 0; p < row.parts_count; ++p) {
      sum = fma(splat(row.weights[p]), load_tail(row.parts[p], c, row.columns), sum);
    }
    store_tail(row.y, row.add ? add(load_tail(row.y, c, row.columns), sum) : sum, c, row.columns);
  }
}

void route_row(const RouteRow& row) {
  for (int64_t slot = 0; slot < row.top_k; ++slot) {
    int32_t best = -1;
    for (int32_t e = 0; e < row.experts_total; ++e) {
      // Not "larger than the best": a row of NaNs still gets distinct experts.
      if (best >= 0 && !(row.logits[e] > row.logits[best])) continue;
      bool taken = false;
      for (int64_t s = 0; s < slot; ++s) taken = taken || row.experts[s] == e;
      if (!taken) best = e;
    }
    row.experts[slot] = best;
    row.weights[slot] = row.logits[best];
  }
  // exp(l) / sum over the chosen: the softmax over all experts, renormalised; its denominator cancels.
  const Vec largest = splat(row.weights[0]);
  float sum = 0;
  for (int64_t slot = 0; slot < row.top_k; slot += kLanes) {
    const Vec e = exp(sub(load_tail(row.weights, slot, row.top_k), largest));
    store_tail(row.weights, e, slot, row.top_k);
  }
  for (int64_t slot = 0; slot < row.top_k; ++slot) sum = sum + row.weights[slot];
  for (int64_t slot = 0; slot < row.top_k; ++slot) row.weights[slot] = row.weights[slot] / sum;
  if (row.shared_logit != nullptr) {
    store_n(row.weights + row.top_k, sigmoid(splat(*row.shared_logit)), 1);
  }
}

}  // namespace weir::WEIR_ISA
