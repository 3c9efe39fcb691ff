// Runs a program's operations in order on the CPU.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "models/program.h"
#include "ops/attention/attention.h"
#include "ops/cpu/cpu.h"
#include "ops/gdn/gdn.h"
#include "runner/cpu_weights.h"

namespace weir {

// One step as the operations see it. All spans live until the call returns.
struct CpuBatch {
  std::span<const int32_t> tokens;   // [T]
  std::span<const KvSequence> kv;    // of the page class that the program's attention uses
  std::span<const GdnSequence> gdn;  // empty for programs without recurrent layers
  std::span<const int32_t> sampled;  // rows of T whose logits are wanted
};

// Logits and normed hidden rows of sampled rows [first, first + count): [count, V] and [count, D], valid in the call
// only.
struct SampledBlock {
  int64_t first = 0;
  int64_t count = 0;
  const float* logits = nullptr;
  const float* normed = nullptr;
};

class CpuExecutor {
 public:
  // Buffers for steps of at most `rows_max` tokens. Borrows all of its arguments.
  CpuExecutor(const Program& program, const ModelConfig& config, const CpuWeights& weights, const RopeTable& rope,
              Cpu& cpu, int64_t rows_max);

  // Scratch that the Cpu must hold for steps of this size.
  int64_t scratch_bytes() const;
  // Bytes of the program's buffers.
  int64_t buffer_bytes() const { return buffer_bytes_; }

  // The rows that a draft program is fed with: [rows_max, D].
  float* hidden_in() { return data({program_.hidden_in, 0}); }

  // Runs the body over the batch, then the head over the sampled rows, block by block.
  void run(const CpuBatch& batch, const std::function<void(const SampledBlock&)>& consume);

  // Sampled rows whose logits exist at once: enough for a full decode step of a usual server in one pass over the head.
  static constexpr int64_t kHeadBlockRows = 64;

 private:
  struct Rows {
    const CpuBatch* batch;
    std::span<const int32_t> sampled;  // of this block
    bool head;
  };
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
  int64_t buffer_bytes_ = 0;
  std::vector<Buffer> buffers_;
};

}  // namespace weir
