// Runs a program's operations in order on the CPU.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "models/program.h"
#include "ops/attention/attention.h"
#include "ops/cpu/cpu.h"
#include "ops/gdn/gdn.h"
#include "runner/cpu_weights.h"
#include "runner/model.h"

namespace weir {

class CpuExecutor final : public Executor {
 public:
  // Buffers for steps of at most `rows_max` tokens. Borrows all of its arguments.
  CpuExecutor(const Program& program, const ModelConfig& config, const CpuWeights& weights, const RopeTable& rope,
              Cpu& cpu, int64_t rows_max);

  // Scratch that the Cpu must hold for steps of this size.
  int64_t scratch_bytes() const;
  int64_t buffer_bytes() const override { return buffer_bytes_; }

  void set_hidden(int64_t first, int64_t count, const float* rows) override;
  void normed_rows(std::span<const int32_t> rows, float* out) override;
  // Runs the body; collect() runs the head over the sampled rows.
  void enqueue(const StepBatch& batch) override;
  void collect(const Consume& consume) override;

 private:
  struct Rows {
    const StepBatch* batch;
    std::span<const int32_t> sampled;  // of this block
    bool head;
  };
  // The norm of `count` rows of op.x, those of `rows` if it is not null.
  void norm(const NormOp& op, const int32_t* rows, int64_t count, float* y, int64_t y_stride);
  void execute(const EmbedOp& op, const Rows& rows);
  void execute(const NormOp& op, const Rows& rows);
  void execute(const LinearOp& op, const Rows& rows);
  void execute(const AttentionOp& op, const Rows& rows);
  void execute(const GdnOp& op, const Rows& rows);
  void execute(const FeedForwardOp& op, const Rows& rows);

  float* data(BufferRef ref) { return buffers_[ref.buffer.index()].data + ref.column; }
  int64_t stride(BufferRef ref) const { return program_.buffer(ref.buffer).width; }

  struct Buffer {
    AlignedBytes memory;
    float* data = nullptr;
  };

  const Program& program_;
  const ModelConfig& config_;
  const CpuWeights& weights_;
  const RopeTable& rope_;
  Cpu& cpu_;
  int64_t rows_max_;
  StepBatch batch_;  // of the step between enqueue() and collect()
  int64_t buffer_bytes_ = 0;
  std::vector<Buffer> buffers_;
};

}  // namespace weir
