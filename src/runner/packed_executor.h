// Runs a program on a GPU by the kernels for packed weights: norms, routing and activations inside the products, the
// token sampled on the device, decode steps recorded once as graphs, and the next step enqueued while one runs.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "ops/attention/attention_paged_gpu.h"
#include "ops/draft/draft_args.h"
#include "ops/gdn/gpu_args.h"
#include "ops/linear/linear_few_gpu.h"
#include "ops/linear/linear_packed_gpu.h"
#include "ops/moe/moe_few_args.h"
#include "ops/sample/sample_args.h"
#include "ops/step/step_args.h"
#include "runner/gpu_caches.h"
#include "runner/gpu_executor.h"
#include "runner/packed_weights.h"
#include "runner/step_times.h"

namespace weir {

class PackedExecutor final : public Executor {
 public:
  // Rows up to which products are bound by the weights and norm their rows themselves. Which side a step is on does not
  // change a bit.
  static constexpr int64_t kRowsWithNorm = 16;
  // The same of linear_few() before experts; elsewhere its blocks have weights to bring meanwhile, and it always does.
  static constexpr int64_t kExpertsNormMax = 4;

  // Segments of a generated row with so many positions before and with it, rounded up: few shapes of steps, and blocks
  // of segments that are not there leave at once.
  static int64_t segments_of(int64_t positions);

  // Borrows all but the limits. Everything that steps of these limits need is allocated here.
  static Result<std::unique_ptr<PackedExecutor>> create(const Program& program, const ModelConfig& config,
                                                        const PackedWeights& weights, const GpuRope& rope, Gpu gpu,
                                                        GpuCaches* caches, const ExecutorLimits& limits);

  void set_hidden(int64_t first, int64_t count, const float* rows) override;
  int32_t steps_ahead() const override { return kFlights; }
  bool samples(const SamplingParams& params) const override;
  void enqueue(const StepBatch& batch) override;
  bool ready() override;
  void collect(const Consume& consume) override;
  int64_t buffer_bytes() const override { return memory_.size(); }
  StepTimes* step_times() override { return &times_; }

 private:
  friend class PackedProfile;  // times the operations one by one
  friend class PackedDrafter;  // runs the draft head behind the backbone's step
  static constexpr int32_t kFlights = 2;

  // Where the step's tables stand in device memory, and how much of each there is.
  struct Step {
    // Rows that follow each other and are all of prompts, or none.
    struct Run {
      int64_t first = 0;
      int64_t count = 0;
      bool prompt = false;
    };
    std::vector<Run> runs;
    const int32_t* tokens = nullptr;
    const int32_t* sampled_before = nullptr;  // by row: the token that last_sampled_of() stands for
    const GpuRow* rows = nullptr;
    uint8_t* const* const* pages = nullptr;
    const int32_t* sampled = nullptr;
    const GpuSampleRow* sample = nullptr;
    const int32_t* generated = nullptr;  // rows of generated tokens
    const GpuGdnSequence* gdn_generated = nullptr;
    const GpuGdnSequence* gdn_prompts = nullptr;
    const GpuDraftSequence* drafted = nullptr;
    const GpuSampleRow* draft_sample = nullptr;
    const GpuPromptTile* tiles = nullptr;
    int64_t token_count = 0;
    int64_t generated_count = 0;
    int64_t gdn_generated_count = 0;
    int64_t gdn_prompt_count = 0;
    int64_t gdn_chunks = 0;
    int64_t tile_count = 0;
    int64_t segments = 1;     // of the longest generated row, rounded up to a power of four
    int64_t fresh = 1;        // the most tokens of a sequence
    int64_t first = 0;        // token that rows see
    int64_t usual_bytes = 0;  // of the tables of a step of this shape, at least, if its sequences are alike
  };
  // What the host and the kernels of one step exchange, see ops/step/step_args.h. It is the host's from the moment that
  // its step has been collected: with two steps in flight, the one that takes a mailbox again is enqueued after that.
  struct Mailbox {
    device::PinnedBytes tables;
    device::PinnedBytes lists;   // of the sampled rows
    device::PinnedBytes tokens;  // the fault, then [T]
    uint32_t number = 0;         // of the step
  };
  // A step between enqueue() and collect().
  struct Flight {
    const Mailbox* mailbox = nullptr;  // of a step that is not empty
    device::Event begun;
    device::Event done;
    int64_t sampled = 0;
    bool empty = true;
    bool to_host = false;  // some of its rows are the host's to sample
  };
  // A norm whose only reader is the operation behind it.
  struct PendingNorm {
    bool there = false;
    BufferRef x;
    const float* weight = nullptr;
  };
  struct Rows {
    int64_t count = 0;
    const int32_t* chosen = nullptr;       // the head's rows, null in the body
    const GpuSampleRow* sample = nullptr;  // how they are sampled
    int32_t* tokens = nullptr;             // and where the tokens go
  };

  PackedExecutor(const Program& program, const ModelConfig& config, const PackedWeights& weights, const GpuRope& rope,
                 Gpu gpu, GpuCaches* caches, const ExecutorLimits& limits);
  Status allocate();
  int64_t lay_out(std::byte* base);
  // Where the tables of a step stand behind `base`, and the first byte behind them.
  struct Places {
    GpuStepHead* head = nullptr;
    GpuDraftSequence* drafted = nullptr;   // of a draft head's program: a sequence each,
    GpuSampleRow* draft_sample = nullptr;  // and how its drafts are drawn; the drafter fills these in
    int32_t* tokens = nullptr;
    GpuRow* rows = nullptr;
    uint8_t*** pages = nullptr;
    int32_t* sampled = nullptr;
    GpuSampleRow* sample = nullptr;
    int32_t* generated = nullptr;
    GpuGdnSequence* gdn_generated = nullptr;
    GpuGdnSequence* gdn_prompts = nullptr;
    std::byte* end = nullptr;
  };
  Places places(std::byte* base, int64_t tokens, int64_t sequences, int64_t sampled, int64_t generated) const;
  Mailbox& next_mailbox();
  Places fill_tables(const StepBatch& batch, Mailbox* mailbox);
  void fill_gdn(const StepBatch& batch, const Places& host);
  void point_step_at_tables(int64_t sequences, int64_t sampled);
  void fetch_tables();
  // Places of a report by the number of its mailbox.
  using Reports = std::array<const device::PinnedBytes*, kStepMailboxes>;
  void report_tokens(const int32_t* tokens, int64_t count, const Reports& to);
  void report_sampled(int64_t count) { report_tokens(tokens_, count, {&mailboxes_[0].tokens, &mailboxes_[1].tokens}); }
  void run_body();
  void run_head(int64_t first, int64_t count);
  // Decode steps of one shape: as many rows of every sequence, all sampled on the device.
  struct Shape {
    int64_t sequences = 0;
    int64_t rows = 0;  // of each
    int64_t segments = 0;
    auto operator<=>(const Shape&) const = default;
  };
  bool replay(const StepBatch& batch);
  device::Graph* graph_of(const Shape& shape);
  bool record_graphs(int64_t rows);
  void run_program(const std::vector<Operation>& operations, const Rows& rows);

  void execute(const EmbedOp& op, const Rows& rows);
  void execute(const NormOp& op, const Rows& rows);
  void execute(const LinearOp& op, const Rows& rows);
  void execute(const AttentionOp& op, const Rows& rows);
  void execute(const GdnOp& op, const Rows& rows);
  void execute(const FeedForwardOp& op, const Rows& rows);
  // What `work(rows, of_prompt)` does to all rows of the body, to those of prompts and to others one after the other
  // where prompts' rows are quantised.
  template <class Work>
  void by_runs(bool quantised, const Rows& rows, const Work& work);
  void multiply(const LinearOp& op, const Rows& rows);
  void feed_forward(const FeedForwardOp& op, const Rows& rows);
  bool quantises(const LinearOp& op) const;
  bool quantises(const FeedForwardOp& op) const;
  void norm_to_operands(const Rows& rows, bool bf16, bool f16, float* y, bool e4m3 = false);
  void norm_before(GpuFewArgs* args);
  // Rows that lie there as they are, for products of any kernel: a mixer's have the type of the matrix that follows.
  template <class Args>
  void take_operands(const LinearOp& op, Args* args) {
    const bool mixed = op.x.buffer == mixed_id_;
    args->x_bf16 = mixed ? mixed_rows(op) : operands(kOperandBf16);
    args->x_f16 = mixed ? mixed_rows(op) : operands(kOperandF16);
  }
  bool fewest_rows(const LinearOp& op, const Rows& rows);
  void few_rows(const LinearOp& op, const Rows& rows);
  bool some_rows(const LinearOp& op, const Rows& rows);
  void many_rows(const LinearOp& op, const Rows& rows, bool quantised = false);
  void quantise_mixed(const LinearOp& op, const Rows& rows);
  bool few_rows_experts(const FeedForwardOp& op, const PackedFeedForward& layer, const Rows& rows);
  void front_of_experts(const PackedFeedForward& layer, const Rows& rows);
  void score_experts(const PackedFeedForward& layer, const Rows& rows, bool quantised = false);
  void few_rows_sparse(const FeedForwardOp& op, const PackedFeedForward& layer, const Rows& rows);
  void few_rows_dense(const FeedForwardOp& op, const PackedFeedForward& layer, const Rows& rows);
  void many_rows_experts(const FeedForwardOp& op, const PackedFeedForward& layer, const Rows& rows,
                         bool quantised = false);
  int32_t mixed_type(Slot slot, int32_t layer) const;
  void sample_rows(const Rows& rows);
  // The 16-bit rows that a buffer's readers take: its own, or those of the last norm.
  uint16_t* operands(int32_t type) { return operands_[static_cast<size_t>(type)]; }

  uint16_t* mixed_rows(const LinearOp& op) const {
    return mixed_ + first_row_ * weights_.matrix(op.outputs.front().weight).k;
  }

  float* data(BufferRef ref) const { return buffers_[ref.buffer.index()] + first_row_ * stride(ref) + ref.column; }
  int64_t stride(BufferRef ref) const { return program_.buffer(ref.buffer).width; }
  static void check_fault(int32_t fault);
  void wait(const Flight& flight) const;
  void note_time(const Flight& ended);

  const Program& program_;
  const ModelConfig& config_;
  const PackedWeights& weights_;
  const GpuRope& rope_;
  Gpu gpu_;
  GpuCaches* caches_;
  const ExecutorLimits limits_;
  const bool quantises_;  // prompts' rows, where weights are block FP8

  device::Bytes memory_;
  std::vector<float*> buffers_;
  std::array<uint16_t*, 2> operands_{};  // [T][the widest input], bf16 and f16
  uint16_t* mixed_ = nullptr;            // [T][the widest mixer output]
  uint8_t* codes_ = nullptr;             // [T][the widest input]: of prompts' rows, where these are quantised
  float* code_scales_ = nullptr;         // [the widest input / 128][T]
  int64_t first_row_ = 0;                // of buffers, that an operation works on
  BufferId mixed_id_;
  uint16_t* queries_ = nullptr;
  uint16_t* hidden_ = nullptr;  // [64][slots][F]
  float* router_ = nullptr;
  int32_t* experts_ = nullptr;
  float* expert_weights_ = nullptr;
  std::byte* moe_work_ = nullptr;
  uint8_t* some_routes_ = nullptr;
  GpuFewTurns* few_turns_ = nullptr;
  float* partial_ = nullptr;
  uint8_t* gdn_scratch_ = nullptr;
  int32_t* fault_ = nullptr;
  uint32_t* number_ = nullptr;      // of the next step, as the device counts
  int32_t* tokens_ = nullptr;       // of the sampled rows
  int32_t* next_tokens_ = nullptr;  // of each row of the batch table
  GpuSampleScratch* sample_scratch_ = nullptr;
  const int32_t* sampled_ids_ = nullptr;  // of the logits' columns, see GpuSampleArgs
  int32_t sampled_identity_ = 0;
  std::byte* tables_ = nullptr;
  device::PinnedBytes logits_;  // of a block, and its normed rows
  std::array<Mailbox, kStepMailboxes> mailboxes_;
  uint32_t next_number_ = 0;  // as the host counts; what number_ is once all steps so far have run
  std::array<Flight, kFlights> flights_;
  size_t first_flight_ = 0;
  size_t flight_count_ = 0;
  StepTimes times_;
  Step step_;
  int64_t tables_bytes_ = 0;
  int64_t tables_used_ = 0;
  PendingNorm norm_;
  std::map<Shape, device::Graph> graphs_;
};

}  // namespace weir
