// The draft head beside live sequences: behind each step it brings the draft KV up to what the step computed, then
// proposes drafts for the rows that may have some in their next step.
//
// The head's row of token i (i >= 1) takes the token and the backbone's normed hidden row of token i - 1, writes draft
// KV at i and predicts token i + 1. A step that computed tokens [p, c) of a sequence and sampled token c gives the rows
// p + 1 .. c, and row p where it could not run before for want of a page; the hidden row of p - 1 comes from the ring
// in the state slot. All sequences go through in one pass. The last row's logits give the first draft, and passes of
// one row for each sequence, fed with the head's own normed row and the draft before, give the others. What those write
// behind c is provisional: the next step's pass writes it again before anything reads it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "decode/sampler.h"
#include "runner/batch_table.h"
#include "runner/model.h"

namespace weir {

// Why there can be no drafts: the checkpoint's fault, or the device's.
Error no_draft_head();
Error drafts_elsewhere(const std::string& device);

class Drafter {
 public:
  // For steps that `main` runs on `caches`, laid out with draft pages. Borrows all of it. kUnsupported: the model has
  // no draft head, or its device cannot run one here.
  static Result<std::unique_ptr<Drafter>> create(Model* model, Caches* caches, Executor* main,
                                                 const RunnerLimits& limits);

  // Behind a step: its results are in the table, its buffers still in the executor.
  void run(const StepPlan& plan, const StepRows& rows, const StepResult& result, BatchTable* table, Sampler* sampler);

  int64_t buffer_bytes() const;
  // Bytes of the buffers that drafting needs on the CPU beside the backbone's.
  static int64_t work_bytes(const ModelConfig& config, const RunnerLimits& limits);

 private:
  // One sequence of the step.
  struct Item {
    const SequenceWork* work = nullptr;
    BatchRow* row = nullptr;
    int64_t position = 0;      // p
    int64_t row_begin = 0;     // of token p in the step
    int64_t hidden_begin = 0;  // of token p in hidden_
    int64_t first = 0;         // the head's rows are of tokens [first, end)
    int64_t end = 0;
    int64_t drafts = 0;  // to propose
  };

  Drafter(Model* model, Caches* caches, Executor* main, const RunnerLimits& limits);
  void list_items(const StepPlan& plan, const StepRows& rows, const StepResult& result, BatchTable* table);
  void catch_up(const StepRows& rows, Sampler* sampler);
  void add_rows(const Item& item, const StepRows& rows);
  void keep_hidden();
  void chain(Sampler* sampler);
  void run_pass(Sampler* sampler);
  void propose(Item* item, std::span<const float> logits, const float* normed, Sampler* sampler);
  void begin_pass();

  Model* model_;
  Caches* caches_;
  Executor* main_;
  const RunnerLimits limits_;
  const Program program_;
  std::unique_ptr<Executor> draft_;

  std::vector<Item> items_;
  std::vector<int32_t> step_rows_;  // rows of the step that hold, of all items
  std::vector<float> hidden_;       // [step_rows_, D]: their normed hidden rows
  std::vector<float> recycled_;     // [S, D]: the head's own rows, of the sequences that go on
  // A pass of the draft head.
  std::vector<int32_t> tokens_;
  std::vector<KvSequence> kv_;
  std::vector<StepSequence> sequences_;
  std::vector<int32_t> sampled_;
  std::vector<Item*> proposing_;  // as sampled_
  std::vector<Item*> going_on_;   // those with another draft to come, as recycled_
};

}  // namespace weir
