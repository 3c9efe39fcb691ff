// The device batch: one stable row per live sequence, changed only by a plan's edits and by what its own steps yield.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "decode/sampler.h"
#include "ops/attention/attention.h"
#include "ops/gdn/gdn.h"
#include "plan/layout.h"
#include "plan/step.h"
#include "runner/model.h"

namespace weir {

struct BatchRow {
  bool live = false;
  bool stopped = false;       // its last token was a stop id or the max_tokens-th
  int64_t position = 0;       // tokens whose keys, values and state are in the caches
  int64_t prompt_length = 0;  // tokens before this position are prompt
  TokenId last_token = -1;    // sampled, not yet computed
  StateSlotId state;
  SamplingParams sampling;
  std::vector<std::vector<std::byte*>> pages;  // per class, page bases in order

  explicit BatchRow(int32_t vocabulary) : history(vocabulary) {}
  TokenHistory history;
};

// A row of the step whose logits are wanted.
struct WantedRow {
  int32_t work = 0;      // index of the work item
  TokenId about = -1;    // prompt log-probability of this token; -1: sample
  int64_t position = 0;  // of the token that the logits are about
};

// One step, laid out for the operations.
struct StepRows {
  std::vector<int32_t> tokens;
  std::vector<KvSequence> kv;
  std::vector<GdnSequence> gdn;
  std::vector<int32_t> sampled;  // row index per wanted row
  std::vector<WantedRow> wanted;
  std::vector<uint8_t> skipped;  // per work item: the row had stopped

  void clear();
};

class BatchTable {
 public:
  // Borrows the caches. Rows, page tables and step arrays are reserved here.
  BatchTable(const RunnerLimits& limits, const CacheLayout& layout, Caches* caches);

  void apply(const StepPlan& plan, const Edit& edit);
  // Lays out the plan's work. Programmer error: work that does not continue its row.
  void lay_out(const StepPlan& plan, StepRows* rows);
  // Records that `token` was sampled for `row`, and says whether it ends the sequence.
  StopReason accept(RowId row, TokenId token);
  // The row yields nothing more.
  void stop(RowId id) { row(id).stopped = true; }

  BatchRow& row(RowId id);

 private:
  void add_work(const StepPlan& plan, int32_t index, StepRows* rows);
  void want_rows(const StepPlan& plan, int32_t index, int64_t row_begin, StepRows* rows);

  const RunnerLimits limits_;
  Caches* const caches_;
  std::vector<BatchRow> rows_;
};

}  // namespace weir
