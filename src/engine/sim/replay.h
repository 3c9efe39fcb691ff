// A trace through the real scheduler and prefix cache, with a runner that computes nothing: what is reused, what that
// costs in evictions, and what one plan does at most.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "engine/sim/trace.h"

namespace weir::sim {

struct ReplayConfig {
  int32_t pages = 0;   // of 64 tokens; 0: as many as are ever asked for
  int32_t states = 0;  // kept states, beside one for each row; 0: as many as are ever asked for
  // Above 0: as many units of memory, each a state or pages_a_state pages, instead of `pages` and `states`; the rows'
  // states are among them.
  int32_t units = 0;
  int32_t pages_a_state = 64;
  int32_t rows = 64;              // sequences at once
  int32_t step_tokens = 8192;     // tokens in a step
  int64_t interval = 4096;        // tokens between kept states: a 35B model's state is as large as the KV of so many
  int64_t context = 131'072;      // longest sequence; longer requests are left out
  int64_t queue_requests = 1024;  // the server's default; the trace waits when it is full
  // A step takes step_us + token_us for every token: 8 ms and 50,000 tokens a second, what one large accelerator does
  // with a model of 3B active parameters. They decide how many requests meet each other.
  int64_t step_us = 8000;
  int64_t token_us = 20;
  bool has_states = true;   // false: a model of attention layers alone
  bool time_plans = false;  // measure plan(), in the thread's own time
};

struct ReplayReport {
  int64_t requests = 0;
  int64_t refused = 0;  // could never run: counted nowhere else
  int64_t prompt_tokens = 0;
  int64_t known_tokens = 0;  // that a cache without bounds would not compute: sum of TraceRequest::known
  int64_t matched_tokens = 0;
  int64_t reused_tokens = 0;
  int64_t lost_to_checkpoint = 0;
  int64_t lost_to_eviction = 0;
  int64_t evicted_blocks = 0;
  int64_t evicted_checkpoints = 0;
  int64_t preemptions = 0;
  int64_t recomputed_tokens = 0;
  int64_t checkpoints_saved = 0;  // saves that were ordered
  int64_t steps = 0;
  int64_t end_us = 0;          // on the modelled clock
  int64_t first_token_us = 0;  // from arrival to the first token, mean
  int64_t pages_kept = 0;      // at the end
  int64_t checkpoints_kept = 0;
  // Most over all plans: pages that are new to a row or copied, blocks evicted, and blocks evicted beyond what the
  // pages and slots that the plan took account for.
  int64_t plan_pages_max = 0;
  int64_t plan_evicted_max = 0;
  int64_t plan_evicted_excess = INT64_MIN;
  int64_t evicted_between_plans = 0;
  std::vector<int64_t> plan_ns;  // per plan, if they were timed
};

// kInvalidArgument: sizes that cannot work.
Result<ReplayReport> replay(const Trace& trace, const ReplayConfig& config);

}  // namespace weir::sim
