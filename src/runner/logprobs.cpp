#include "runner/logprobs.h"

#include <bit>

#include "base/check.h"

namespace weir {

bool all_finite(std::span<const float> logits) {
  // NaN and infinity alone have every bit of the exponent set: one more there carries into the sign's place. One pass
  // without a branch, which compilers make vector code of.
  constexpr uint32_t kMagnitude = 0x7fffffffU;
  constexpr uint32_t kExponentStep = 0x00800000U;
  uint32_t carried = 0;
  for (const float logit : logits) carried |= (std::bit_cast<uint32_t>(logit) & kMagnitude) + kExponentStep;
  return (carried & ~kMagnitude) == 0;
}

LogprobWriter::LogprobWriter(const Cpu& cpu, int32_t top_max) : cpu_(cpu) {
  top_.resize(static_cast<size_t>(top_max));
}

void LogprobWriter::append(std::span<const float> logits, TokenId token, int32_t top, StepResult* result) {
  WEIR_CHECK(token >= 0 && static_cast<size_t>(token) < logits.size(), "token {} of {} logits", token, logits.size());
  WEIR_CHECK(top >= 0 && static_cast<size_t>(top) <= top_.size(), "{} likeliest ids of {}", top, top_.size());
  const double total = logit_row(cpu_, logits).log_sum_exp;
  const auto logprob = [total](float logit) { return static_cast<float>(static_cast<double>(logit) - total); };

  LogprobRow row;
  row.first = static_cast<int32_t>(result->logprobs.size());
  row.top_count = static_cast<int32_t>(top_logits(logits, std::span(top_).first(static_cast<size_t>(top))));
  result->logprobs.push_back(
      {token, logprob(logits[static_cast<size_t>(token)]), static_cast<int32_t>(logit_rank(logits, token))});
  for (int32_t i = 0; i < row.top_count; ++i) {
    const LogitEntry& entry = top_[static_cast<size_t>(i)];
    result->logprobs.push_back({entry.id, logprob(entry.logit), i + 1});
  }
  result->rows.push_back(row);
}

}  // namespace weir
