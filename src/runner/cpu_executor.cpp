#include "runner/cpu_executor.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/planted.h"
#include "ops/embed/embed.h"
#include "ops/norm/rms_norm.h"

namespace weir {
namespace {

// The planted bug: the same norm with its squares summed one after the other, as a kernel for large batches might.
[[maybe_unused]] void sum_in_other_order(const RmsNormArgs& args) {
  for (int64_t row = 0; row < args.rows; ++row) {
    const float* x = args.x + (args.x_rows == nullptr ? row : args.x_rows[row]) * args.x_stride;
    float sum = 0;
    for (int64_t i = 0; i < args.size; ++i) sum += x[i] * x[i];
    const float scale = 1.0F / std::sqrt(sum / static_cast<float>(args.size) + args.eps);
    for (int64_t i = 0; i < args.size; ++i) args.y[row * args.y_stride + i] = (1.0F + args.weight[i]) * (x[i] * scale);
  }
}

}  // namespace

CpuExecutor::CpuExecutor(const Program& program, const ModelConfig& config, const CpuWeights& weights,
                         const RopeTable& rope, Cpu& cpu, int64_t rows_max)
    : program_(program), config_(config), weights_(weights), rope_(rope), cpu_(cpu), rows_max_(rows_max) {
  for (const BufferSpec& spec : program.buffers) {
    const int64_t rows = spec.space == RowSpace::kStep ? rows_max : std::min(rows_max, kHeadBlockRows);
    Buffer buffer;
    buffer.memory = AlignedBytes(rows * spec.width * static_cast<int64_t>(sizeof(float)));
    buffer.data = reinterpret_cast<float*>(buffer.memory.data());
    buffer_bytes_ += buffer.memory.size();
    buffers_.push_back(std::move(buffer));
  }
  cpu.reserve_scratch(scratch_bytes());
}

int64_t CpuExecutor::scratch_bytes() const {
  const int threads = cpu_.threads();
  int64_t bytes = std::max(linear_scratch_bytes(threads), weights_.feed_forward_scratch_bytes(rows_max_, threads));
  bytes = std::max(bytes, attention_scratch_bytes(attention_shape(config_), rows_max_, threads));
  if (config_.count_layers(LayerKind::kLinear) > 0) {
    bytes = std::max(bytes, gdn_scratch_bytes(gdn_shape(config_), threads));
  }
  return bytes;
}

void CpuExecutor::set_hidden(int64_t first, int64_t count, const float* rows) {
  const BufferRef hidden{program_.hidden_in, 0};
  std::copy_n(rows, count * stride(hidden), data(hidden) + first * stride(hidden));
}

void CpuExecutor::enqueue(const StepBatch& batch) {
  WEIR_CHECK(static_cast<int64_t>(batch.tokens.size()) <= rows_max_, "{} rows in a step of {}", batch.tokens.size(),
             rows_max_);
  batch_ = batch;
  if (batch.tokens.empty()) return;
  const Rows step{&batch_, {}, false};
  for (const Operation& operation : program_.body) {
    std::visit([&](const auto& op) { execute(op, step); }, operation);
  }
}

void CpuExecutor::collect(const Consume& consume) {
  const auto total = static_cast<int64_t>(batch_.sampled.size());
  const int64_t block_rows = std::min(rows_max_, kHeadBlockRows);
  for (int64_t first = 0; first < total; first += block_rows) {
    const int64_t count = std::min(block_rows, total - first);
    const Rows block{&batch_, batch_.sampled.subspan(static_cast<size_t>(first), static_cast<size_t>(count)), true};
    for (const Operation& operation : program_.head) {
      std::visit([&](const auto& op) { execute(op, block); }, operation);
    }
    consume({first, count, data({program_.logits, 0}), data({program_.normed, 0}), nullptr});
  }
}

void CpuExecutor::execute(const EmbedOp& op, const Rows& rows) {
  embed(cpu_, weights_.embedding(), rows.batch->tokens, data(op.y), stride(op.y));
}

void CpuExecutor::normed_rows(std::span<const int32_t> rows, float* out) {
  norm(std::get<NormOp>(program_.head.front()), rows.data(), static_cast<int64_t>(rows.size()), out, config_.hidden);
}

void CpuExecutor::execute(const NormOp& op, const Rows& rows) {
  if (rows.head) {
    norm(op, rows.sampled.data(), static_cast<int64_t>(rows.sampled.size()), data(op.y), stride(op.y));
  } else {
    norm(op, nullptr, static_cast<int64_t>(rows.batch->tokens.size()), data(op.y), stride(op.y));
  }
}

void CpuExecutor::norm(const NormOp& op, const int32_t* rows, int64_t count, float* y, int64_t y_stride) {
  RmsNormArgs args;
  args.x = data(op.x);
  args.x_stride = stride(op.x);
  args.x_rows = rows;
  args.rows = count;
  const VectorView weight = weights_.vector(op.weight);
  args.size = weight.size;
  args.weight = weight.data;
  args.eps = config_.rms_eps;
  args.y = y;
  args.y_stride = y_stride;
  rms_norm(cpu_, args);
  if (planted(PlantedBug::kBatchDependentSplit) && args.rows > 8) sum_in_other_order(args);
}

void CpuExecutor::execute(const LinearOp& op, const Rows& rows) {
  std::array<LinearOutput, kLinearGroupMax> outputs;
  WEIR_CHECK(op.outputs.size() <= outputs.size(), "{} matrices in a group", op.outputs.size());
  for (size_t i = 0; i < op.outputs.size(); ++i) {
    const LinearOp::Output& output = op.outputs[i];
    outputs[i] = {&weights_.matrix(output.weight), data(output.y), stride(output.y), output.add};
  }
  LinearArgs args;
  args.x = data(op.x);
  args.x_stride = stride(op.x);
  args.rows = static_cast<int64_t>(rows.head ? rows.sampled.size() : rows.batch->tokens.size());
  args.outputs = std::span<const LinearOutput>(outputs).first(op.outputs.size());
  linear_group(cpu_, args);
}

void CpuExecutor::execute(const AttentionOp& op, const Rows& rows) {
  AttentionArgs args;
  args.shape = attention_shape(config_);
  args.qg = data(op.qg);
  args.qg_stride = stride(op.qg);
  args.k = data(op.k);
  args.k_stride = stride(op.k);
  args.v = data(op.v);
  args.v_stride = stride(op.v);
  args.q_norm = weights_.vector({Slot::kAttnQNorm, op.layer}).data;
  args.k_norm = weights_.vector({Slot::kAttnKNorm, op.layer}).data;
  args.rope = &rope_;
  args.sequences = rows.batch->kv;
  args.page_offset = op.page_offset;
  args.y = data(op.y);
  args.y_stride = stride(op.y);
  attention(cpu_, args);
}

void CpuExecutor::execute(const GdnOp& op, const Rows& rows) {
  GdnArgs args;
  args.parameters = &weights_.gdn(op.layer);
  args.u = data(op.u);
  args.u_stride = stride(op.u);
  args.z = data(op.z);
  args.z_stride = stride(op.z);
  args.b = data(op.b);
  args.b_stride = stride(op.b);
  args.a = data(op.a);
  args.a_stride = stride(op.a);
  args.sequences = rows.batch->gdn;
  args.slot_offset = op.slot_offset;
  args.y = data(op.y);
  args.y_stride = stride(op.y);
  gdn(cpu_, args);
}

void CpuExecutor::execute(const FeedForwardOp& op, const Rows& rows) {
  FeedForwardArgs args;
  args.x = data(op.x);
  args.x_stride = stride(op.x);
  args.rows = static_cast<int64_t>(rows.batch->tokens.size());
  args.y = data(op.y);
  args.y_stride = stride(op.y);
  args.add = true;
  if (const PackedMoe* experts = weights_.moe(op.layer)) {
    moe(cpu_, *experts, args);
  } else {
    mlp(cpu_, weights_.mlp(op.layer), args);
  }
}

}  // namespace weir
