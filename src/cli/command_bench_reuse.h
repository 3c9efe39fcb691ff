// Time to the first token of prompts of which something is known: what `weir bench` prints last.
#pragma once

#include "cli/host.h"
#include "cli/loading.h"

namespace weir {

// What of the flags below cannot be, before anything is measured.
Status check_reuse_flags(const Options& options, const RunnerLimits& limits);

// --cached-prompts: of prompts of which --cached-percent is known. --second-turns: of a prompt that goes on from one
// before and its answer, as the policy of reuse has it.
Status bench_reuse(const Options& options, EngineHost& host, const LoadedModel& model);

}  // namespace weir
