// The draft head of a model on a GPU (runner/drafter.h), enqueued right behind the step: which drafts held is decided
// there, and the passes of rows that decode are recorded as graphs. A step whose logits the host wants is waited for
// first: its tokens are known then. Drafts are drawn on the device; rows whose tokens it cannot draw propose nothing.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "ops/draft/draft_args.h"
#include "runner/drafter.h"
#include "runner/packed_executor.h"

namespace weir {

class PackedDrafter final : public Drafter {
 public:
  // Borrows all but the limits. Everything that steps of these limits need is allocated here, and the passes of few
  // sequences are recorded. `ids`: what drafts are drawn from, ascending; empty: all.
  static Result<std::unique_ptr<Drafter>> create(const ModelConfig& config, const PackedWeights& weights,
                                                 std::span<const TokenId> ids, const GpuRope& rope, Gpu gpu,
                                                 GpuCaches* caches, PackedExecutor* main, const RunnerLimits& limits);

  void enqueue(const StepPlan& plan, const StepRows& rows, BatchTable* table) override;
  void finish(const StepPlan& plan, const StepRows& rows, const StepResult& result, BatchTable* table,
              Sampler* sampler) override;
  int64_t buffer_bytes() const override { return draft_->buffer_bytes() + memory_.size(); }
  // Bytes of what the drafter needs beside the backbone's buffers, but for its executor's own.
  static int64_t work_bytes(const ModelConfig& config, const RunnerLimits& limits);

 private:
  // One sequence of the step.
  struct Item {
    const SequenceWork* work = nullptr;
    int64_t position = 0;  // its step computes tokens [position, position + rows)
    int64_t rows = 0;
    int64_t row_begin = 0;  // of the step
    int64_t known = 0;      // tokens from here on are drafts
    int64_t first = 0;      // the pass's rows are of tokens [first, end)
    int64_t end = 0;
    int64_t covered = 0;   // tokens that its draft pages hold
    int64_t sampled = -1;  // of the step's sampled rows the one of its last known token, which the host has not seen
    int64_t last = -1;     // position of the token sampled last, where the host has seen it
  };
  // What the recorded passes of a step depend on.
  struct Shape {
    int64_t step_rows = 0;
    int64_t sampled = 0;
    int64_t sequences = 0;
    int64_t rows = 0;  // of the first pass
    int64_t passes = 0;
    int64_t fresh = 0;
    int64_t segments = 0;
    auto operator<=>(const Shape&) const = default;
  };

  PackedDrafter(const ModelConfig& config, std::span<const TokenId> ids, Gpu gpu, GpuCaches* caches,
                PackedExecutor* main, const RunnerLimits& limits);
  Status allocate();
  int64_t lay_out(std::byte* base);
  Status record();
  void list_items(const StepPlan& plan, const StepRows& rows, BatchTable* table);
  void learn(const StepPlan& plan, const StepResult& result, BatchTable* table);
  void launch(const StepRows& rows, BatchTable* table);
  void add_rows(const Item& item, const StepRows& rows, const BatchRow& row);
  void fill_sequences(BatchTable* table, const PackedExecutor::Places& host, const PackedExecutor::Mailbox& mailbox);
  device::Graph* graph_of(const Shape& shape);
  GpuDraftArgs args_of(const Shape& shape) const;
  void run(const Shape& shape);
  void norm_step(int64_t rows);
  void chain(const Shape& shape);
  void heads(const Shape& shape, int64_t pass, const int32_t* chosen);

  const ModelConfig& config_;
  Gpu gpu_;
  GpuCaches* caches_;
  PackedExecutor* main_;
  const RunnerLimits limits_;
  const Program program_;
  const std::vector<TokenId> ids_;
  std::unique_ptr<PackedExecutor> draft_;

  std::vector<Item> items_;
  int64_t sampled_ = 0;  // rows of the step that are sampled
  int64_t passes_ = 0;
  bool launched_ = false;
  std::vector<int32_t> tokens_;
  std::vector<KvSequence> kv_;
  std::vector<StepSequence> sequences_;
  std::vector<SampleRequest> requests_;

  device::Bytes memory_;
  float* normed_ = nullptr;              // [step rows][D]
  int32_t* clean_ = nullptr;             // of the step's sampled rows
  int32_t* chosen_ = nullptr;            // [S]
  int32_t* each_ = nullptr;              // [S]: 0, 1, 2, ...
  int32_t* device_ids_ = nullptr;        // ids_
  GpuRow* chain_rows_ = nullptr;         // [drafts][S]
  GpuSampleRow* pass_sample_ = nullptr;  // [drafts][S]
  int32_t* drafts_ = nullptr;            // [drafts][S]
  device::PinnedBytes proposed_;         // the fault, then [drafts][S]
  device::Event done_;
  std::map<Shape, device::Graph> graphs_;
};

}  // namespace weir
