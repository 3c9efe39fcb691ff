// The operations of a program as launches. Few rows take their norm with the product; many rows are normed first.
#include <algorithm>

#include "base/check.h"
#include "ops/embed/embed_gpu.h"
#include "ops/gdn/gdn_chunks_gpu.h"
#include "ops/linear/linear_few_gpu.h"
#include "ops/linear/linear_prompt_gpu.h"
#include "ops/moe/moe_few_gpu.h"
#include "ops/moe/moe_packed_gpu.h"
#include "ops/moe/moe_prompt_gpu.h"
#include "ops/moe/routes_gpu.h"
#include "ops/norm/norm_rows_gpu.h"
#include "ops/quantize/quantize_rows_gpu.h"
#include "ops/sample/sample_gpu.h"
#include "runner/packed_executor.h"

namespace weir {
namespace {

// For the states of generated rows' segments; more are worked off in parts.
constexpr int64_t kPartialBytes = 256 << 20;

}  // namespace

void PackedExecutor::execute(const EmbedOp& op, const Rows& rows) {
  GpuEmbedArgs args;
  args.table = weights_.embedding();
  args.ids = step_.tokens;
  args.next_tokens = step_.sampled_before;
  args.y = data(op.y);
  args.y_stride = stride(op.y);
  args.fault = fault_;
  embed(gpu_, args, rows.count);
}

// A norm of whole rows is left to the operation that reads it; a part of a wider row is written at once.
void PackedExecutor::execute(const NormOp& op, const Rows& rows) {
  norm_ = {true, op.x, weights_.vector(op.weight)};
  if (stride(op.y) == config_.hidden) return;
  norm_.there = false;
  GpuNormRowsArgs args;
  args.x = data(op.x);
  args.x_stride = stride(op.x);
  args.weight = norm_.weight;
  args.size = static_cast<int32_t>(config_.hidden);
  args.eps = config_.rms_eps;
  args.y = data(op.y);
  args.y_stride = stride(op.y);
  norm_rows(gpu_, args, rows.count);
}

// The pending norm's rows in the types that are asked for, and as float32 where y is given.
void PackedExecutor::norm_to_operands(const Rows& rows, bool bf16, bool f16, float* y, bool e4m3) {
  GpuNormRowsArgs args;
  args.x = data(norm_.x);
  args.x_stride = stride(norm_.x);
  args.x_rows = rows.chosen;
  args.weight = norm_.weight;
  args.size = static_cast<int32_t>(config_.hidden);
  args.eps = config_.rms_eps;
  args.bf16 = bf16 ? operands(kOperandBf16) : nullptr;
  args.f16 = f16 ? operands(kOperandF16) : nullptr;
  args.y = y;
  args.y_stride = config_.hidden;
  if (e4m3) {
    args.e4m3 = codes_;
    args.scales = code_scales_;
    args.scale_stride = limits_.rows;
  }
  norm_rows(gpu_, args, rows.count);
}

bool PackedExecutor::quantises(const LinearOp& op) const {
  if (!quantises_ || !(norm_.there || op.x.buffer == mixed_id_)) return false;
  return std::any_of(op.outputs.begin(), op.outputs.end(),
                     [&](const LinearOp::Output& output) { return takes_e4m3(weights_.matrix(output.weight)); });
}

bool PackedExecutor::quantises(const FeedForwardOp& op) const {
  if (!quantises_) return false;
  const std::vector<GpuPackedMlp>& mlps = weights_.feed_forward(op.layer).mlps;
  return std::all_of(mlps.begin(), mlps.end(), [](const GpuPackedMlp& mlp) { return takes_e4m3(mlp); });
}

template <class Work>
void PackedExecutor::by_runs(bool quantised, const Rows& rows, const Work& work) {
  const auto prompt = [](const Step::Run& run) { return run.prompt; };
  if (!quantised || rows.chosen != nullptr || std::none_of(step_.runs.begin(), step_.runs.end(), prompt)) {
    return work(rows, false);
  }
  const PendingNorm norm = norm_;
  for (const Step::Run& run : step_.runs) {
    norm_ = norm;
    first_row_ = run.first;
    work({run.count, nullptr, nullptr, nullptr}, run.prompt);
  }
  first_row_ = 0;
}

void PackedExecutor::execute(const LinearOp& op, const Rows& rows) {
  by_runs(quantises(op), rows, [&](const Rows& run, bool prompt) {
    if (prompt) {
      many_rows(op, run, true);
    } else {
      multiply(op, run);
    }
  });
  norm_.there = false;
  if (op.outputs.front().y.buffer == program_.logits) sample_rows(rows);
}

void PackedExecutor::multiply(const LinearOp& op, const Rows& rows) {
  if (!norm_.there && op.x.buffer != mixed_id_) {
    // Rows that lie in a buffer as they are: rounded for the product.
    GpuNormRowsArgs args;
    args.x = data(op.x);
    args.x_stride = stride(op.x);
    args.size = static_cast<int32_t>(stride(op.x));
    args.bf16 = operands(kOperandBf16);
    args.f16 = operands(kOperandF16);
    norm_rows(gpu_, args, rows.count);
  }
  if (rows.count > kRowsWithNorm) {
    if (!some_rows(op, rows)) many_rows(op, rows);
  } else if (rows.count <= kFewRows || !some_rows(op, rows)) {
    few_rows(op, rows);
  }
}

void PackedExecutor::sample_rows(const Rows& rows) {
  if (config_.vocabulary > kGpuSampleWidthMax) return;
  GpuSampleArgs args;
  args.logits = data({program_.logits, 0});
  args.logits_stride = stride({program_.logits, 0});
  args.rows = rows.sample;
  args.scratch = sample_scratch_;
  args.tokens = rows.tokens;
  args.next_tokens = next_tokens_;
  args.width = static_cast<int32_t>(args.logits_stride);
  args.vocabulary = args.width;
  args.ids = sampled_ids_;
  args.identity = sampled_identity_;
  if (sampled_ids_ == nullptr && limits_.vocabulary > 0) args.vocabulary = static_cast<int32_t>(limits_.vocabulary);
  sample(gpu_, args, rows.count);
}

// FP8 outputs, then BF16 ones, of which there may be only one kind, by the kernel for at most eight rows; false where
// it does not take them.
bool PackedExecutor::fewest_rows(const LinearOp& op, const Rows& rows) {
  GpuFewArgs args;
  args.rows = static_cast<int32_t>(rows.count);
  if (rows.count > kFewRows) return false;
  for (const bool fp8 : {true, false}) {
    for (const LinearOp::Output& output : op.outputs) {
      const GpuPacked& weight = weights_.matrix(output.weight);
      if ((weight.format == kGpuFp8Block) != fp8) continue;
      args.k = weight.k;
      args.outputs[args.count++] = {weight, data(output.y), stride(output.y), output.add ? kPackedAdd : kPackedStore,
                                    0};
      args.fp8_count += fp8 ? 1 : 0;
    }
  }
  if (norm_.there) {
    args.x = data(norm_.x);
    args.x_stride = stride(norm_.x);
    args.x_rows = rows.chosen;
    args.norm = norm_.weight;
    args.eps = config_.rms_eps;
    if (rows.chosen != nullptr) args.normed_out = data({program_.normed, 0});
    if (head_few_takes(gpu_, args)) {
      head_few(gpu_, args);
      return true;
    }
    if (rows.chosen != nullptr || !few_takes(gpu_, args)) return false;
  } else {
    take_operands(op, &args);
    args.x_stride = args.k;
    if (!few_takes(gpu_, args)) return false;
  }
  linear_few(gpu_, args);
  return true;
}

// Rows normed by a kernel of their own, while the blocks of the one behind it bring their weights: each of these would
// norm all rows, four at a time.
void PackedExecutor::norm_before(GpuFewArgs* args) {
  norm_to_operands({args->rows, nullptr, nullptr, nullptr}, args->count > args->fp8_count, args->fp8_count > 0,
                   nullptr);
  args->norm = nullptr;
  args->x_out_f16 = nullptr;
  args->x_out_bf16 = nullptr;
  args->x_f16 = operands(kOperandF16);
  args->x_bf16 = operands(kOperandBf16);
  args->x_stride = args->k;
}

void PackedExecutor::few_rows(const LinearOp& op, const Rows& rows) {
  if (fewest_rows(op, rows)) return;
  GpuPackedLinearArgs args;
  args.rows = static_cast<int32_t>(rows.count);
  for (const LinearOp::Output& output : op.outputs) {
    const GpuPacked& weight = weights_.matrix(output.weight);
    args.k = weight.k;
    args.outputs[args.count++] = {weight, data(output.y), stride(output.y), output.add ? kPackedAdd : kPackedStore, 0};
  }
  if (norm_.there) {
    args.x = data(norm_.x);
    args.x_stride = stride(norm_.x);
    args.x_rows = rows.chosen;
    args.norm = norm_.weight;
    args.eps = config_.rms_eps;
    if (rows.chosen != nullptr) args.normed_out = data({program_.normed, 0});
  } else {
    take_operands(op, &args);
    args.x_stride = args.k;
  }
  linear_packed(gpu_, args);
}

// One FP8 or BF16 output of few strips over up to kLinearSomeRows rows that lie there; false where it is something
// else.
bool PackedExecutor::some_rows(const LinearOp& op, const Rows& rows) {
  if (norm_.there || rows.chosen != nullptr || op.outputs.size() != 1 || rows.count > kLinearSomeRows) return false;
  const LinearOp::Output& output = op.outputs.front();
  const GpuPacked& weight = weights_.matrix(output.weight);
  GpuFewArgs args;
  args.rows = static_cast<int32_t>(rows.count);
  args.outputs[args.count++] = {weight, data(output.y), stride(output.y), output.add ? kPackedAdd : kPackedStore, 0};
  args.k = weight.k;
  take_operands(op, &args);
  args.x_stride = weight.k;
  if (!some_rows_takes(gpu_, args)) return false;
  linear_some(gpu_, args);
  return true;
}

// `quantised`: matrices that take rows as FP8 codes have them so.
void PackedExecutor::many_rows(const LinearOp& op, const Rows& rows, bool quantised) {
  GpuPromptArgs of_codes;
  GpuPromptArgs others;
  bool types[2] = {false, false};
  for (const LinearOp::Output& output : op.outputs) {
    const GpuPacked& weight = weights_.matrix(output.weight);
    const bool codes = quantised && takes_e4m3(weight);
    if (!codes) types[operand_type(weight.format)] = true;
    GpuPromptArgs& args = codes ? of_codes : others;
    args.rows = static_cast<int32_t>(rows.count);
    args.x_stride = weight.k;
    args.outputs[args.count++] = {weight, data(output.y), stride(output.y), output.add ? 1 : 0, 0};
  }
  if (norm_.there) {
    norm_to_operands(rows, types[kOperandBf16], types[kOperandF16],
                     rows.chosen != nullptr ? data({program_.normed, 0}) : nullptr, of_codes.count > 0);
  } else if (of_codes.count > 0) {
    quantise_mixed(op, rows);
  }
  if (of_codes.count > 0) {
    of_codes.x_e4m3 = codes_;
    of_codes.x_scales = code_scales_;
    of_codes.scale_stride = limits_.rows;
    linear_prompt(gpu_, of_codes);
  }
  if (others.count > 0) {
    take_operands(op, &others);
    linear_prompt(gpu_, others);
  }
}

// A mixer's rows as FP8 codes.
void PackedExecutor::quantise_mixed(const LinearOp& op, const Rows& rows) {
  const GpuPacked& first = weights_.matrix(op.outputs.front().weight);
  GpuQuantizeRowsArgs args;
  (operand_type(first.format) == kOperandF16 ? args.x_f16 : args.x_bf16) = mixed_rows(op);
  args.e4m3 = codes_;
  args.scales = code_scales_;
  args.scale_stride = limits_.rows;
  args.x_stride = first.k;
  args.size = first.k;
  args.rows = static_cast<int32_t>(rows.count);
  quantize_rows(gpu_, args);
}

// What the mixer's output is multiplied with next decides its type.
int32_t PackedExecutor::mixed_type(Slot slot, int32_t layer) const {
  return operand_type(weights_.matrix({slot, layer}).format);
}

void PackedExecutor::execute(const AttentionOp& op, const Rows& rows) {
  GpuPagedAttentionArgs args;
  args.qg = data(op.qg);
  args.qg_stride = stride(op.qg);
  args.k = data(op.k);
  args.k_stride = stride(op.k);
  args.v = data(op.v);
  args.v_stride = stride(op.v);
  args.q = queries_;
  args.y = mixed_;
  args.y_stride = config_.heads * config_.head_dim;
  args.y_type = mixed_type(Slot::kAttnO, op.layer);
  args.q_norm = weights_.vector({Slot::kAttnQNorm, op.layer});
  args.k_norm = weights_.vector({Slot::kAttnKNorm, op.layer});
  args.coarse = rope_.coarse;
  args.fine = rope_.fine;
  args.rows = step_.rows;
  args.pages = step_.pages;
  args.partial = partial_;
  args.tiles = step_.tiles;
  args.page_offset = op.page_offset;
  args.heads = static_cast<int32_t>(config_.heads);
  args.kv_heads = static_cast<int32_t>(config_.kv_heads);
  args.rope_half = static_cast<int32_t>(config_.rope_dims / 2);
  args.eps = config_.rms_eps;
  args.fresh = static_cast<int32_t>(step_.fresh);
  args.first = static_cast<int32_t>(step_.first);
  args.fp8 = config_.kv_format == KvFormat::kFp8 ? 1 : 0;
  paged_attention_prepare(gpu_, args, rows.count);
  int64_t together = std::max<int64_t>(1, step_.generated_count);
  while (together > 1 &&
         paged_attention_partial_bytes(args.heads, args.kv_heads, together, step_.segments) > kPartialBytes) {
    together = (together + 1) / 2;
  }
  for (int64_t first = 0; first < step_.generated_count; first += together) {
    args.row_list = step_.generated + first;
    paged_attention_rows(gpu_, args, std::min(together, step_.generated_count - first), step_.segments);
  }
  if (step_.tile_count > 0) paged_attention_prompt(gpu_, args, step_.tile_count);
}

void PackedExecutor::execute(const GdnOp& op, const Rows&) {
  GpuGdnPackedArgs args = weights_.gdn(op.layer);
  args.u = data(op.u);
  args.u_stride = stride(op.u);
  args.z = data(op.z);
  args.z_stride = stride(op.z);
  args.b = data(op.b);
  args.b_stride = stride(op.b);
  args.a = data(op.a);
  args.a_stride = stride(op.a);
  args.y = mixed_;
  args.y_stride = config_.value_width();
  args.y_type = mixed_type(Slot::kGdnOut, op.layer);
  args.scratch = gdn_scratch_;
  args.slot_offset = op.slot_offset;
  if (step_.gdn_generated_count > 0) {
    args.sequences = step_.gdn_generated;
    args.sequence_count = static_cast<int32_t>(step_.gdn_generated_count);
    gdn_rows(gpu_, args);
  }
  if (step_.gdn_prompt_count > 0) {
    args.sequences = step_.gdn_prompts;
    args.sequence_count = static_cast<int32_t>(step_.gdn_prompt_count);
    gdn_chunks(gpu_, args, step_.gdn_chunks);
  }
}

void PackedExecutor::execute(const FeedForwardOp& op, const Rows& rows) {
  by_runs(quantises(op), rows, [&](const Rows& run, bool prompt) {
    if (prompt) {
      many_rows_experts(op, weights_.feed_forward(op.layer), run, true);
    } else {
      feed_forward(op, run);
    }
  });
  norm_.there = false;
}

void PackedExecutor::feed_forward(const FeedForwardOp& op, const Rows& rows) {
  const PackedFeedForward& layer = weights_.feed_forward(op.layer);
  const bool sparse = layer.router.n > 0;
  if (sparse && rows.count <= kPackedMoeRows) {
    few_rows_sparse(op, layer, rows);
  } else if (!sparse && rows.count <= kRowsWithNorm) {
    few_rows_dense(op, layer, rows);
  } else {
    many_rows_experts(op, layer, rows);
  }
}

// The same as few_rows_sparse() by the kernels for FP8 and MXFP4 experts; false where they do not take them.
bool PackedExecutor::few_rows_experts(const FeedForwardOp& op, const PackedFeedForward& layer, const Rows& rows) {
  if (layer.shared == 0 || layer.stride == 0) return false;
  const int64_t logits = layer.experts + layer.shared;
  const GpuPackedMlp& first = layer.mlps.front();
  const GpuPackedMlp& shared = layer.mlps.back();
  const int32_t type = operand_type(layer.format);
  GpuFewArgs front;
  front.rows = static_cast<int32_t>(rows.count);
  front.x = data(norm_.x);
  front.x_stride = stride(norm_.x);
  front.norm = norm_.weight;
  front.eps = config_.rms_eps;
  (type == kOperandF16 ? front.x_out_f16 : front.x_out_bf16) = operands(type);
  front.k = layer.router.k;
  front.outputs[front.count++] = {shared.gate_up, hidden_ + rows.count * layer.top_k * layer.width, layer.width,
                                  kPackedSwiglu, operand_type(layer.shared_format)};
  front.fp8_count = layer.shared_format == kGpuFp8Block ? 1 : 0;
  front.outputs[front.count++] = {layer.router, router_, logits, kPackedStore, 0};
  front.outputs[front.count++] = {layer.shared_gate, router_ + layer.experts, logits, kPackedStore, 0};
  GpuFewExpertsArgs args;
  args.format = layer.format;
  args.gate_up = first.gate_up.data;
  args.down = first.down.data;
  args.gate_up_scales = first.gate_up.scales;
  args.down_scales = first.down.scales;
  if (layer.shared_apart()) {
    if (layer.shared_format != kFewApartFormat) return false;
    args.shared_gate_up = shared.gate_up.data;
    args.shared_down = shared.down.data;
  }
  args.stride = layer.stride;
  args.router = router_;
  args.x = operands(type);
  args.hidden = hidden_;
  args.y = data(op.y);
  args.y_stride = stride(op.y);
  args.rows = front.rows;
  args.experts = layer.experts;
  args.top_k = layer.top_k;
  args.shared = layer.shared;
  args.d = layer.router.k;
  args.f = layer.width;
  args.routes = some_routes_;
  args.turns = few_turns_;
  if (few_takes(gpu_, front) && few_experts_takes(gpu_, args)) {
    if (front.rows > kExpertsNormMax) norm_before(&front);
    linear_few(gpu_, front);
    experts_few(gpu_, args);
  } else if (some_experts_takes(gpu_, args)) {
    score_experts(layer, rows);
    experts_some(gpu_, args);
  } else {
    return false;
  }
  return true;
}

// Norm, router and the shared expert's hidden values in one kernel.
void PackedExecutor::front_of_experts(const PackedFeedForward& layer, const Rows& rows) {
  const int32_t type = operand_type(layer.format);
  const int64_t logits = layer.experts + layer.shared;
  GpuPackedLinearArgs front;
  front.x = data(norm_.x);
  front.x_stride = stride(norm_.x);
  front.norm = norm_.weight;
  front.eps = config_.rms_eps;
  (type == kOperandF16 ? front.x_out_f16 : front.x_out_bf16) = operands(type);
  front.k = layer.router.k;
  front.rows = static_cast<int32_t>(rows.count);
  front.outputs[front.count++] = {layer.router, router_, logits, kPackedStore, 0};
  if (layer.shared != 0) {
    front.outputs[front.count++] = {layer.shared_gate, router_ + layer.experts, logits, kPackedStore, 0};
    front.outputs[front.count++] = {layer.mlps.back().gate_up, hidden_ + int64_t{layer.top_k} * layer.width,
                                    int64_t{layer.slots()} * layer.width, kPackedSwiglu,
                                    operand_type(layer.shared_format)};
  }
  linear_packed(gpu_, front);
}

// Then the experts.
void PackedExecutor::few_rows_sparse(const FeedForwardOp& op, const PackedFeedForward& layer, const Rows& rows) {
  if (few_rows_experts(op, layer, rows)) return;
  front_of_experts(layer, rows);
  GpuExpertsArgs args;
  args.table = layer.table;
  args.router = router_;
  args.x = operands(operand_type(layer.format));
  args.hidden = hidden_;
  args.y = data(op.y);
  args.y_stride = stride(op.y);
  args.rows = static_cast<int32_t>(rows.count);
  args.experts = layer.experts;
  args.top_k = layer.top_k;
  args.shared = layer.shared;
  args.d = layer.router.k;
  args.f = layer.width;
  args.format = layer.format;
  args.shared_format = layer.shared_format;
  experts_packed(gpu_, args);
}

void PackedExecutor::few_rows_dense(const FeedForwardOp& op, const PackedFeedForward& layer, const Rows& rows) {
  const GpuPackedMlp& mlp = layer.mlps.front();
  const int32_t type = operand_type(mlp.down.format);
  GpuPackedLinearArgs up;
  up.x = data(norm_.x);
  up.x_stride = stride(norm_.x);
  up.norm = norm_.weight;
  up.eps = config_.rms_eps;
  up.k = mlp.gate_up.k;
  up.rows = static_cast<int32_t>(rows.count);
  up.outputs[up.count++] = {mlp.gate_up, hidden_, layer.width, kPackedSwiglu, type};
  linear_packed(gpu_, up);
  GpuPackedLinearArgs down;
  down.x_bf16 = hidden_;
  down.x_f16 = hidden_;
  down.x_stride = layer.width;
  down.k = mlp.down.k;
  down.rows = up.rows;
  down.outputs[down.count++] = {mlp.down, data(op.y), stride(op.y), kPackedAdd, 0};
  linear_packed(gpu_, down);
}

// Normed rows in the types that experts and router take, and the router's logits, by kernels of many rows.
void PackedExecutor::score_experts(const PackedFeedForward& layer, const Rows& rows, bool quantised) {
  const bool sparse = layer.router.n > 0;
  bool types[2] = {false, false};
  if (!quantised) types[operand_type(layer.format)] = types[operand_type(layer.shared_format)] = true;
  if (sparse) types[operand_type(layer.router.format)] = true;
  if (layer.shared != 0) types[operand_type(layer.shared_gate.format)] = true;
  norm_to_operands(rows, types[kOperandBf16], types[kOperandF16], nullptr, quantised);
  if (!sparse) return;
  const int64_t logits = layer.experts + layer.shared;
  GpuPromptArgs score;
  score.x_bf16 = operands(kOperandBf16);
  score.x_f16 = operands(kOperandF16);
  score.x_stride = layer.router.k;
  score.rows = static_cast<int32_t>(rows.count);
  score.outputs[score.count++] = {layer.router, router_, logits, 0, 0};
  if (layer.shared != 0) score.outputs[score.count++] = {layer.shared_gate, router_ + layer.experts, logits, 0, 0};
  linear_prompt(gpu_, score);
}

void PackedExecutor::many_rows_experts(const FeedForwardOp& op, const PackedFeedForward& layer, const Rows& rows,
                                       bool quantised) {
  const bool sparse = layer.router.n > 0;
  score_experts(layer, rows, quantised);
  if (sparse) {
    GpuRoutesArgs choice;
    choice.router = router_;
    choice.experts = experts_;
    choice.weights = expert_weights_;
    choice.rows = static_cast<int32_t>(rows.count);
    choice.experts_total = layer.experts;
    choice.top_k = layer.top_k;
    choice.shared = layer.shared;
    routes(gpu_, choice);
  }
  GpuMoePromptArgs args;
  args.table = layer.table;
  if (quantised) {
    args.x_e4m3 = codes_;
    args.x_scales = code_scales_;
    args.scale_stride = limits_.rows;
  } else {
    args.x_bf16 = operands(kOperandBf16);
    args.x_f16 = operands(kOperandF16);
  }
  args.x_stride = config_.hidden;
  args.experts = experts_;
  args.weights = expert_weights_;
  args.y = data(op.y);
  args.y_stride = stride(op.y);
  args.rows = static_cast<int32_t>(rows.count);
  args.slots = layer.slots();
  args.experts_total = static_cast<int32_t>(layer.mlps.size());
  args.columns = static_cast<int32_t>(config_.hidden);
  args.width = layer.width;
  args.tile_bytes = std::max(packed_tile_bytes(layer.format), packed_tile_bytes(layer.shared_format));
  moe_prompt(gpu_, args, moe_work_);
}

}  // namespace weir
