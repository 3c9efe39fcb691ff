// The first and the last launch of a step on a GPU: see ops/step/step_args.h. Between the two stand the step's other
// kernels, and every step has both, in order; the first of the others waits before it reads and before it lets the next
// start.
#pragma once

#include "ops/gpu/gpu.h"
#include "ops/step/step_args.h"

namespace weir {

void step_fetch(Gpu& gpu, const GpuStepFetchArgs& args);
void step_report(Gpu& gpu, const GpuStepReportArgs& args);

}  // namespace weir
