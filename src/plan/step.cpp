#include "plan/step.h"

namespace weir {

void StepPlan::clear() {
  id = 0;
  edits.clear();
  work.clear();
  tokens.clear();
  pages.clear();
  sampling.clear();
}

int64_t StepPlan::token_total() const {
  int64_t total = 0;
  for (const SequenceWork& item : work) total += item.token_count + item.draft_count;
  return total;
}

void StepResult::clear() {
  id = 0;
  sequences.clear();
  tokens.clear();
  rows.clear();
  logprobs.clear();
  fault.clear();
}

}  // namespace weir
