// The one interface between the halves.
#pragma once

#include <cstdint>

#include "plan/layout.h"
#include "plan/step.h"

namespace weir {

// Executes plans in the order of submission, asynchronously, up to limits().steps_in_flight at once.
// One thread submits and polls; `on_result` (given to the implementation at construction) may be called from any thread
// whenever a result becomes ready, and only wakes that thread.
class StepRunner {
 public:
  virtual ~StepRunner() = default;

  virtual const RunnerLimits& limits() const = 0;

  // Starts a step. `plan` and `result` stay with the caller and must live until poll() has returned this step; the
  // runner fills `result`. Programmer error: more than steps_in_flight plans, or a plan that breaks the table's rules.
  virtual void submit(const StepPlan* plan, StepResult* result) = 0;

  // The id of the oldest step if it is complete, else 0 (ids start at 1). Never blocks.
  virtual StepId poll() = 0;
};

}  // namespace weir
