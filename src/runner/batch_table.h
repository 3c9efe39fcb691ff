// The device batch: one stable row per live sequence, changed only by a plan's edits and by what its own steps yield.
#pragma once

#include <array>
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

// What ends a sequence, as a value: a step's results may arrive after its row has changed hands.
struct StopRule {
  int64_t prompt_length = 0;
  int32_t max_tokens = 0;
  int32_t stop_id_count = 0;
  std::array<TokenId, kStopIdsMax> stop_ids{};

  // Whether `token` at this position ends the sequence.
  StopReason check(int64_t position, TokenId token) const;
};

struct BatchRow {
  bool live = false;
  int64_t occupant = 0;          // counts the joins
  int64_t stopped_occupant = 0;  // the last whose sequence ended by itself
  int32_t samples_ahead = 0;     // tokens that the device samples or sampled and the host has not seen
  int64_t position = 0;          // tokens whose keys, values and state are in the caches, or will be by the steps begun
  int64_t computed = 0;          // tokens that the state has seen: beyond `position` drafts that were not accepted
  int64_t draft_position = 1;    // the draft KV of tokens [1, draft_position) is right
  int64_t prompt_length = 0;     // tokens before this position are prompt
  TokenId last_token = -1;       // sampled, not yet computed
  int32_t draft_count = 0;       // proposed for what follows last_token
  std::array<TokenId, kDraftsMax> drafts{};
  bool on_device = false;  // the device samples this sequence's tokens
  StateSlotId state;
  StateSlotId save_to;  // valid: a save is open
  int64_t save_position = 0;
  SamplingParams sampling;
  StopRule stop;
  std::vector<std::vector<std::byte*>> pages;  // per class, page bases in order

  explicit BatchRow(int32_t vocabulary) : history(vocabulary) {}
  TokenHistory history;
  bool stopped() const { return stopped_occupant == occupant; }
};

// A row of the step whose logits are wanted.
struct WantedRow {
  int32_t work = 0;      // index of the work item
  TokenId about = -1;    // prompt log-probability of this token; -1: sample
  TokenId draft = -1;    // the row's token is this draft: the row holds if it was sampled before it; -1: it is known
  int64_t position = 0;  // of the token that the logits are about
  int64_t occupant = 0;  // of the batch row when the step was laid out
  bool on_device = false;
  StopRule stop;
  TokenId instead = -1;  // pinned acceptance accepts the draft behind this row: it is what the row yields
};

// A work item that computes: rows [row_begin, ..) of the step are the row's tokens from `position` on.
struct StepItem {
  int32_t work = 0;
  int64_t row_begin = 0;
  int64_t position = 0;
};

// One step, laid out for the operations.
struct StepRows {
  std::vector<int32_t> tokens;
  std::vector<KvSequence> kv;
  std::vector<GdnSequence> gdn;
  std::vector<StepSequence> sequences;
  std::vector<StepItem> items;   // as sequences
  std::vector<int32_t> sampled;  // row index per wanted row
  std::vector<SampleRequest> requests;
  std::vector<WantedRow> wanted;
  std::vector<uint8_t> skipped;  // per work item: the row had stopped
  bool for_host = false;         // some wanted row is the host's: the next step waits for it

  void clear();
  StepBatch batch() const;
};

class BatchTable {
 public:
  // Borrows caches and executor. Rows, page tables and step arrays are reserved here.
  BatchTable(const RunnerLimits& limits, const CacheLayout& layout, Caches* caches, const Executor* executor);

  // Saves the states of rows that stand where a save was ordered. Called before a plan's edits.
  void save_states();
  void apply(const StepPlan& plan, const Edit& edit);
  // Lays out the plan's work. Programmer error: work that does not continue its row.
  void lay_out(const StepPlan& plan, StepRows* rows);
  // The step's result for a wanted row of `row` has come. False: its sequence had stopped, and the result is nobody's.
  bool arrive(RowId row, const WantedRow& wanted);
  // Whether the row of this draft follows what has been sampled so far, or pinned acceptance says so.
  bool follows(RowId row, const WantedRow& wanted);
  // The draft that `follows` is accepted: the row moves over it.
  void accept_draft(RowId row, const WantedRow& wanted);
  // Records that `token` was sampled, and says whether it ends the sequence.
  StopReason accept(RowId row, const WantedRow& wanted, TokenId token);
  // The sequence of this wanted row yields nothing more.
  void stop(RowId id, const WantedRow& wanted) { row(id).stopped_occupant = wanted.occupant; }

  BatchRow& row(RowId id);
  // Drafts that the row's next step can verify at most, were there pages for all.
  int64_t verifiable(const BatchRow& row) const;
  // Tokens of the class that the row's pages cover, within the context.
  int64_t covered(const BatchRow& row, PageClassId page_class) const;

 private:
  void save_state(BatchRow* row);
  void add_work(const StepPlan& plan, int32_t index, StepRows* rows);
  int64_t take_drafts(const SequenceWork& work, BatchRow* target, StepRows* rows) const;
  void add_tokens(const StepPlan& plan, const SequenceWork& work, BatchRow* target, StepRows* rows);
  static void add_to_history(BatchRow* target, int64_t position, TokenId token);
  bool pinned() const { return limits_.pinned_acceptance >= 0; }
  bool pinned_accepts(const BatchRow& row, int64_t position) const;
  void want_rows(const StepPlan& plan, const StepItem& item, int64_t drafts, StepRows* rows);

  const RunnerLimits limits_;
  Caches* const caches_;
  const Executor* const executor_;
  std::vector<BatchRow> rows_;
};

}  // namespace weir
