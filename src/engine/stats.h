// What an engine counts. Gauges and counters are single relaxed atomics: a scrape never touches the engine's thread.
#pragma once

#include <cstdint>

namespace weir {

// One reading. Fields are read one by one, so two of them may differ by a step.
struct EngineStats {
  // Gauges.
  int64_t reserved = 0;        // tickets held by the server, not submitted yet
  int64_t waiting = 0;         // submitted or preempted, not resident
  int64_t waiting_tokens = 0;  // prompt tokens of submitted requests that were not admitted yet
  int64_t running = 0;         // resident: hold a row
  int64_t preempted = 0;       // part of waiting
  int64_t pages_total = 0;     // of all classes
  int64_t pages_used = 0;      // by running sequences
  int64_t pages_free = 0;
  int64_t pages_kept = 0;  // for sequences to come, those that running ones use too included
  int64_t slots_total = 0;
  int64_t slots_used = 0;   // by running sequences
  int64_t checkpoints = 0;  // slots with a state kept for sequences to come
  int64_t steps_in_flight = 0;
  int64_t token_blocks_used = 0;  // of the store of token ids that recomputation reads
  // Counters.
  int64_t steps = 0;              // results retired
  int64_t prompt_tokens = 0;      // of admitted requests
  int64_t generated_tokens = 0;   // published
  int64_t recomputed_tokens = 0;  // planned again after a preemption
  // Prompt tokens of admitted requests: known to the caches, not computed, known but without a state to go on from, and
  // known until their pages were needed.
  int64_t matched_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t lost_to_checkpoint = 0;
  int64_t lost_to_eviction = 0;
  int64_t lookups = 0;       // prompts hashed to find them in the caches, and
  int64_t comparisons = 0;   // compared with one in the making
  int64_t draft_rounds = 0;  // steps of a sequence with drafts
  int64_t draft_tokens = 0;
  int64_t accepted_tokens = 0;
  int64_t evicted_blocks = 0;
  int64_t evicted_checkpoints = 0;
  int64_t preemptions = 0;
  int64_t admitted = 0;
  int64_t refused_full = 0;  // tickets or submissions refused because the queue was full
  int64_t finished_stop = 0;
  int64_t finished_length = 0;
  int64_t finished_abort = 0;
  int64_t finished_error = 0;
  int64_t not_finite = 0;    // part of finished_error: the logits had a NaN or an infinity
  int64_t overtakes = 0;     // admissions before an earlier arrival (by priority)
  int64_t promotions = 0;    // admissions before a better priority (by age)
  int64_t event_stalls = 0;  // turns that could not publish because the server did not read
  // Health.
  int64_t heartbeat_us = 0;  // engine's clock at the start of its last turn
  int64_t last_step_us = 0;  // engine's clock when the last result was retired
  bool busy = false;         // a step is in flight: last_step_us must advance
  bool draining = false;
  bool faulted = false;  // a rank stopped; every sequence ended with kError, nothing is accepted any more
};

}  // namespace weir
