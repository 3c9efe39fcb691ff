// What every operation computes, in double precision and the plainest order, from stored weights and plain histories:
// the oracle of the tests. Built for tests only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ops/attention/attention.h"
#include "ops/gdn/gdn.h"
#include "tensor/dtype.h"

namespace weir::reference {

using Row = std::vector<double>;
using Rows = std::vector<Row>;

// W as rows of doubles.
Rows values(const WeightMatrix& weight);
// x W^T.
Rows linear(const Rows& x, const Rows& weight);
Row rms_norm(const Row& x, std::span<const float> weight, bool zero_centred, double eps);
double sigmoid(double x);
double silu(double x);

// A row of FP8 numbers with a power of two as their scale: the nearest codes' values, the largest from 128 to 256 times
// the scale.
Row fp8_row(const Row& x);

// Gated attention of one sequence from token 0, its keys and values rounded where pages are of FP8. qg [T][H 2E], k and
// v [T][K E].
Rows attention(const AttentionShape& shape, double theta, std::span<const float> q_norm, std::span<const float> k_norm,
               const Rows& qg, const Rows& k, const Rows& v);

// The mixer of one sequence from token 0, by the recurrence: conv, gates, delta rule, gated norm.
struct GdnInputs {
  Rows u;
  Rows z;
  Rows b;
  Rows a;
};
Rows gdn(const GdnShape& shape, std::span<const float> conv, std::span<const float> a_log,
         std::span<const float> dt_bias, std::span<const float> norm, const GdnInputs& inputs);

struct Expert {
  Rows gate;
  Rows up;
  Rows down;
};
Row mlp(const Expert& expert, const Row& x);
// `shared_gate` empty: no shared expert.
Row moe(const Rows& router, const std::vector<Expert>& experts, int64_t top_k, const Rows& shared_gate,
        const Expert& shared, const Row& x);

}  // namespace weir::reference
