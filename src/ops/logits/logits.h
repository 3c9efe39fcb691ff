// Log-probabilities of a row of logits, and its likeliest ids. Row by row, for whoever samples; sums in double in 16
// interleaved lanes, so the bits depend on the row alone.
#pragma once

#include <cstdint>
#include <span>

#include "ops/cpu/cpu.h"

namespace weir {

struct LogitRow {
  float max = 0;
  int32_t argmax = 0;      // the lowest id with the largest logit
  double log_sum_exp = 0;  // log(sum exp(logit)); the log-probability of id i is logits[i] - log_sum_exp
};

// Over the whole span (padded ids included).
LogitRow logit_row(const Cpu& cpu, std::span<const float> logits);

struct LogitEntry {
  int32_t id = 0;
  float logit = 0;
};

// The `top.size()` largest, largest first, ties by lowest id; returns how many (less when the row is shorter).
int64_t top_logits(std::span<const float> logits, std::span<LogitEntry> top);

// The place of `id` in the order of top_logits(): 1 is the likeliest, equals rank by id.
int64_t logit_rank(std::span<const float> logits, int32_t id);

}  // namespace weir
