// Runs a program's operations in order on a GPU. The host waits for every step: its logits are sampled there.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "ops/attention/gpu_args.h"
#include "ops/gdn/gpu_args.h"
#include "runner/gpu_caches.h"
#include "runner/gpu_weights.h"
#include "runner/model.h"

namespace weir {

// Rotations as the attention kernels read them.
struct GpuRope {
  device::Bytes memory;
  const double* coarse = nullptr;
  const double* fine = nullptr;
};

class GpuExecutor final : public Executor {
 public:
  // Borrows all but the limits. Everything that steps of these limits need is allocated here.
  static Result<std::unique_ptr<GpuExecutor>> create(const Program& program, const ModelConfig& config,
                                                     const GpuWeights& weights, const GpuRope& rope, Gpu gpu,
                                                     GpuCaches* caches, const ExecutorLimits& limits);

  void set_hidden(int64_t first, int64_t count, const float* rows) override;
  void enqueue(const StepBatch& batch) override;
  void collect(const Consume& consume) override;
  int64_t buffer_bytes() const override { return memory_.size(); }

 private:
  // Where the step's tables stand in device memory.
  struct Tables {
    const int32_t* tokens = nullptr;
    const GpuRow* rows = nullptr;
    uint8_t* const* const* pages = nullptr;
    const GpuGdnSequence* gdn = nullptr;
    const int32_t* sampled = nullptr;
  };
  // Rows of the body, or of a block of the head.
  struct Rows {
    int64_t count = 0;
    const int32_t* sampled = nullptr;  // the head's rows, null in the body
  };

  GpuExecutor(const Program& program, const ModelConfig& config, const GpuWeights& weights, const GpuRope& rope,
              Gpu gpu, GpuCaches* caches, const ExecutorLimits& limits);
  Status allocate();
  // In pinned host memory.
  struct Output {
    float* logits = nullptr;
    float* normed = nullptr;
    int32_t* fault = nullptr;
  };
  Output output() const;
  void lay_out_tables(const StepBatch& batch);
  void enqueue_body(int64_t tokens);
  void enqueue_head(int64_t first, int64_t count);
  bool replay(const StepBatch& batch);
  int64_t partial_bytes_a_row(int64_t segments) const;
  void execute(const EmbedOp& op, const Rows& rows);
  void execute(const NormOp& op, const Rows& rows);
  void execute(const LinearOp& op, const Rows& rows);
  void execute(const AttentionOp& op, const Rows& rows);
  void execute(const GdnOp& op, const Rows& rows);
  void execute(const FeedForwardOp& op, const Rows& rows);
  void wait();

  float* data(BufferRef ref) const { return buffers_[ref.buffer.index()] + ref.column; }
  int64_t stride(BufferRef ref) const { return program_.buffer(ref.buffer).width; }

  const Program& program_;
  const ModelConfig& config_;
  const GpuWeights& weights_;
  const GpuRope& rope_;
  Gpu gpu_;
  GpuCaches* caches_;
  const ExecutorLimits limits_;

  device::Bytes memory_;
  std::vector<float*> buffers_;
  float* q_ = nullptr;
  float* hidden_ = nullptr;
  float* router_logits_ = nullptr;
  float* shared_logits_ = nullptr;
  int32_t* experts_ = nullptr;
  float* expert_weights_ = nullptr;
  int32_t* fault_ = nullptr;
  float* partial_ = nullptr;
  std::byte* tables_ = nullptr;
  int64_t tables_bytes_ = 0;
  device::PinnedBytes staging_;  // the tables, then a block of logits, normed rows and the fault
  Tables step_;
  int64_t tables_used_ = 0;
  int64_t gdn_sequences_ = 0;
  int32_t segments_ = 1;  // of the step's longest row, a power of two
  bool spread_ = false;
  int64_t sampled_ = 0;                                          // rows of the step between enqueue() and collect()
  bool empty_ = false;                                           // that step has no tokens
  bool replayed_ = false;                                        // its head is enqueued too
  std::map<std::pair<int64_t, int32_t>, device::Graph> graphs_;  // by tokens and segments
};

}  // namespace weir
