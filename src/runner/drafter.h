// The draft head beside live sequences: behind each step it brings the draft KV up to what the step computed, then
// proposes drafts for the rows that may have some in their next step.
//
// The head's row of token i (i >= 1) takes the token and the backbone's normed hidden row of token i - 1, writes draft
// KV at i and predicts token i + 1. A step that computed tokens [p, c) of a sequence and sampled token c gives the rows
// p + 1 .. c, and row p where it could not run before; the hidden row of p - 1 comes from the ring in the state slot.
// All sequences go through in one pass. The last row's logits give the first draft, and passes of one row for each
// sequence, fed with the head's own normed row and the draft before, give the others. What those write behind c is
// provisional: the next step's pass writes it again before anything reads it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"
#include "decode/sampler.h"
#include "runner/batch_table.h"
#include "runner/model.h"

namespace weir {

// Why there can be no drafts: the checkpoint's fault, or the device's.
Error no_draft_head();
Error drafts_elsewhere(const std::string& device);

// The first token of the draft KV: token 0 has no hidden row before it.
inline constexpr int64_t kDraftFirst = 1;

// Rows of the draft head's executor: a sequence's are those of its step's tokens, and one more where it samples.
inline int64_t draft_rows(const RunnerLimits& limits) {
  return int64_t{limits.step_tokens_max} + limits.rows_max;
}

class Drafter {
 public:
  virtual ~Drafter() = default;
  // For steps that `main` runs on `caches`, laid out with draft pages. Borrows all of it. kUnsupported: the model has
  // no draft head, or its device cannot run one here.
  static Result<std::unique_ptr<Drafter>> create(Model* model, Caches* caches, Executor* main,
                                                 const RunnerLimits& limits);

  // A step has been enqueued, and none other is in flight.
  virtual void enqueue(const StepPlan& plan, const StepRows& rows, BatchTable* table) = 0;
  // The same step is back: its results are in the table, its buffers still in the executor. Drafts go to the table.
  virtual void finish(const StepPlan& plan, const StepRows& rows, const StepResult& result, BatchTable* table,
                      Sampler* sampler) = 0;

  virtual int64_t buffer_bytes() const = 0;
};

}  // namespace weir
