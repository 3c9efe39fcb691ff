// The draft head of a model on the CPU: all of it when the step is back (runner/drafter.h). The last row's logits give
// the first draft, and passes of one row for each sequence, fed with the head's own normed row and the draft before,
// give the others.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "runner/drafter.h"

namespace weir {

class HostDrafter final : public Drafter {
 public:
  static Result<std::unique_ptr<Drafter>> create(Model* model, Caches* caches, Executor* main,
                                                 const RunnerLimits& limits);

  void enqueue(const StepPlan&, const StepRows&, BatchTable*) override {}
  void finish(const StepPlan& plan, const StepRows& rows, const StepResult& result, BatchTable* table,
              Sampler* sampler) override;

  int64_t buffer_bytes() const override;
  // Bytes of the buffers that drafting needs on the CPU beside the backbone's.
  // `head_rows` as for make_draft_program().
  static int64_t work_bytes(const ModelConfig& config, const RunnerLimits& limits, int64_t head_rows);

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

  HostDrafter(Model* model, Caches* caches, Executor* main, const RunnerLimits& limits);
  void list_items(const StepPlan& plan, const StepRows& rows, const StepResult& result, BatchTable* table);
  void catch_up(const StepRows& rows, Sampler* sampler);
  void add_rows(const Item& item, const StepRows& rows);
  void keep_hidden();
  void chain(Sampler* sampler);
  void run_pass(Sampler* sampler);
  void propose(Item* item, std::span<const float> logits, const float* normed, Sampler* sampler);
  std::span<const float> of_all_ids(std::span<const float> logits);
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
  // [V], where logits are of some ids: minus infinity for the others.
  std::vector<float> all_ids_;
};

}  // namespace weir
