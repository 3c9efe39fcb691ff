// Raw log-probabilities of a row: before temperature, penalties and masks, over every row of the head.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plan/step.h"

namespace weir {

// Computes log-probability rows and appends them to a StepResult's arrays.
class LogprobWriter {
 public:
  explicit LogprobWriter(int32_t logits_max);

  // Appends the row of `token` given raw `logits` [V]: the token itself, then the `top` likeliest ids (0..V).
  void append(std::span<const float> logits, TokenId token, int32_t top, StepResult* result);

 private:
  std::vector<TokenId> order_;
};

// log(sum(exp(logits))) with the maximum taken out and a double sum in ascending order of id.
double log_sum_exp(std::span<const float> logits);

}  // namespace weir
