// Raw log-probabilities of a row: before temperature, penalties and masks, over every row of the head.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ops/logits/logits.h"
#include "plan/step.h"

namespace weir {

// Whether no logit of the row is a NaN or an infinity. Damaged weights give such rows; a sampler would still find an
// id.
bool all_finite(std::span<const float> logits);

// Computes log-probability rows and appends them to a StepResult's arrays.
class LogprobWriter {
 public:
  // Borrows `cpu`. Scratch is reserved for `top_max` likeliest ids a row.
  LogprobWriter(const Cpu& cpu, int32_t top_max);

  // Appends the row of `token` given raw `logits` [V]: the token itself, then the `top` (0..top_max) likeliest ids, or
  // all where V is less.
  void append(std::span<const float> logits, TokenId token, int32_t top, StepResult* result);

 private:
  const Cpu& cpu_;
  std::vector<LogitEntry> top_;
};

}  // namespace weir
