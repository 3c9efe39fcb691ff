#include "runner/gpu_executor.h"

#include <algorithm>
#include <bit>

#include "base/check.h"
#include "ops/attention/attention_gpu.h"
#include "ops/embed/embed_gpu.h"
#include "ops/gdn/gdn_gpu.h"
#include "ops/linear/linear_gpu.h"
#include "ops/moe/moe_gpu.h"
#include "ops/norm/rms_norm_gpu.h"
#include "runner/gpu_parts.h"

namespace weir {
namespace {

constexpr int64_t kFloat = sizeof(float);
// For the segments of a decode step's attention: 35B shapes at 262,144 tokens take 8.5 MB a row. Steps that need more
// take a block's segments one after the other.
constexpr int64_t kPartialBytes = 64 << 20;
// Shapes of decode steps that are recorded; a graph of 500 launches takes about a megabyte. Others run call by call.
constexpr size_t kGraphsMax = 256;

void add_output(const GpuMatrix& weight, float* y, int64_t y_stride, bool add, GpuLinearArgs* args) {
  WEIR_CHECK(args->count < kGpuLinearGroupMax, "more than {} matrices in a group", kGpuLinearGroupMax);
  args->outputs[args->count++] = {weight, y, y_stride, add ? 1 : 0, 0};
}

}  // namespace

Result<std::unique_ptr<GpuExecutor>> GpuExecutor::create(const Program& program, const ModelConfig& config,
                                                         const GpuWeights& weights, const GpuRope& rope, Gpu gpu,
                                                         GpuCaches* caches, const ExecutorLimits& limits) {
  std::unique_ptr<GpuExecutor> executor(new GpuExecutor(program, config, weights, rope, gpu, caches, limits));
  WEIR_RETURN_IF_ERROR(executor->allocate());
  return executor;
}

GpuExecutor::GpuExecutor(const Program& program, const ModelConfig& config, const GpuWeights& weights,
                         const GpuRope& rope, Gpu gpu, GpuCaches* caches, const ExecutorLimits& limits)
    : program_(program), config_(config), weights_(weights), rope_(rope), gpu_(gpu), caches_(caches), limits_(limits) {}

Status GpuExecutor::allocate() {
  const int64_t head_rows = std::min(limits_.rows, kHeadBlockRows);
  {
    GpuParts tables(nullptr);
    tables.take<int32_t>(limits_.rows);
    tables.take<GpuRow>(limits_.rows);
    tables.take<uint8_t*>(limits_.sequences);
    for (int64_t i = 0; i < limits_.sequences; ++i) tables.take<uint8_t*>(pages_of(limits_.positions));
    tables.take<GpuGdnSequence>(limits_.sequences);
    tables.take<int32_t>(limits_.rows);
    tables_bytes_ = tables.used();
  }
  buffers_.resize(program_.buffers.size());
  const auto lay_out = [&](std::byte* base) {
    GpuParts parts(base);
    for (size_t i = 0; i < program_.buffers.size(); ++i) {
      const BufferSpec& spec = program_.buffers[i];
      buffers_[i] = parts.take<float>((spec.space == RowSpace::kStep ? limits_.rows : head_rows) * spec.width);
    }
    q_ = parts.take<float>(limits_.rows * config_.heads * config_.head_dim);
    hidden_ = parts.take<float>(limits_.rows * weights_.hidden_floats_a_row());
    router_logits_ = parts.take<float>(limits_.rows * weights_.experts_max());
    shared_logits_ = parts.take<float>(limits_.rows);
    experts_ = parts.take<int32_t>(limits_.rows * weights_.slots_max());
    expert_weights_ = parts.take<float>(limits_.rows * weights_.slots_max());
    fault_ = parts.take<int32_t>(1);
    partial_ = parts.take<float>(kPartialBytes / kFloat);
    tables_ = parts.take<std::byte>(tables_bytes_);
    return parts.used();
  };
  WEIR_ASSIGN_OR_RETURN(memory_,
                        gpu_.device->allocate(lay_out(nullptr), "work buffers", "lower --max-num-batched-tokens"));
  lay_out(memory_.data());
  const int64_t block_bytes = head_rows * (config_.vocabulary + config_.hidden) * kFloat;
  WEIR_ASSIGN_OR_RETURN(staging_,
                        gpu_.device->allocate_pinned(tables_bytes_ + block_bytes + kGpuPartAlign, "step tables"));
  gpu_.stream->zero(memory_.data(), memory_.size());
  return gpu_.stream->wait();
}

void GpuExecutor::wait() {
  const Status status = gpu_.stream->wait();
  WEIR_CHECK(status.ok(), "{}", status.error().text());
}

void GpuExecutor::set_hidden(int64_t first, int64_t count, const float* rows) {
  const BufferRef hidden{program_.hidden_in, 0};
  gpu_.stream->copy_in(reinterpret_cast<std::byte*>(data(hidden) + first * stride(hidden)), rows,
                       count * stride(hidden) * kFloat);
  wait();
}

// Everything that the step's kernels look up, for one copy.
void GpuExecutor::lay_out_tables(const StepBatch& batch) {
  WEIR_CHECK(static_cast<int64_t>(batch.kv.size()) <= limits_.sequences, "{} sequences in a step of {}",
             batch.kv.size(), limits_.sequences);
  const auto tokens = static_cast<int64_t>(batch.tokens.size());
  GpuParts host(staging_.data());
  const auto on_device = [&](const void* place) {
    return tables_ + (static_cast<const std::byte*>(place) - staging_.data());
  };
  // Places depend on how many tokens, sequences, sampled rows and segments there are, never on their contents: a graph
  // recorded for one step fits every step of the same shape.
  int64_t last = 0;
  for (const KvSequence& s : batch.kv) last = std::max(last, s.position + s.row_count - 1);
  segments_ = static_cast<int32_t>(std::bit_ceil(static_cast<uint64_t>(last / kGpuSegment + 1)));
  spread_ = tokens * partial_bytes_a_row(segments_) <= kPartialBytes;
  const int64_t pages_a_sequence =
      std::min<int64_t>(segments_ * (kGpuSegment / kGridTokens), pages_of(limits_.positions));
  auto* ids = host.take<int32_t>(tokens);
  auto* rows = host.take<GpuRow>(tokens);
  auto* lists = host.take<uint8_t**>(static_cast<int64_t>(batch.kv.size()));
  auto* sampled = host.take<int32_t>(static_cast<int64_t>(batch.sampled.size()));
  auto* gdn = host.take<GpuGdnSequence>(static_cast<int64_t>(batch.gdn.size()));
  std::copy(batch.tokens.begin(), batch.tokens.end(), ids);
  std::copy(batch.sampled.begin(), batch.sampled.end(), sampled);
  for (size_t i = 0; i < batch.kv.size(); ++i) {
    const KvSequence& s = batch.kv[i];
    WEIR_CHECK(s.first == 0, "a sequence without its first {} tokens on a GPU", s.first);
    for (int64_t r = 0; r < s.row_count; ++r) {
      rows[s.row_begin + r] = {static_cast<int32_t>(i), static_cast<int32_t>(s.position + r)};
    }
    const int64_t count = pages_of(s.position + s.row_count);
    WEIR_CHECK(count <= pages_a_sequence, "{} tokens in a step of at most {}", s.position + s.row_count,
               limits_.positions);
    auto* pages = host.take<uint8_t*>(pages_a_sequence);
    WEIR_CHECK(host.used() <= tables_bytes_, "step tables of {} bytes, {} reserved", host.used(), tables_bytes_);
    for (int64_t p = 0; p < count; ++p) pages[p] = reinterpret_cast<uint8_t*>(s.pages[p]);
    lists[i] = reinterpret_cast<uint8_t**>(on_device(pages));
  }
  for (size_t i = 0; i < batch.gdn.size(); ++i) {
    const GdnSequence& s = batch.gdn[i];
    const int64_t base = caches_->base(s.slot);
    WEIR_CHECK(s.position >= base && s.position <= base + kGdnChunk, "position {} with a slot at {}", s.position, base);
    gdn[i] = {reinterpret_cast<uint8_t*>(s.slot), static_cast<int32_t>(s.row_begin), static_cast<int32_t>(s.row_count),
              static_cast<int32_t>(s.position), static_cast<int32_t>(base)};
    if (s.row_count > 0) caches_->advance(s.slot, s.position + s.row_count);
  }
  gdn_sequences_ = static_cast<int64_t>(batch.gdn.size());
  step_.tokens = reinterpret_cast<const int32_t*>(on_device(ids));
  step_.rows = reinterpret_cast<const GpuRow*>(on_device(rows));
  step_.pages = reinterpret_cast<uint8_t* const* const*>(on_device(lists));
  step_.gdn = reinterpret_cast<const GpuGdnSequence*>(on_device(gdn));
  step_.sampled = reinterpret_cast<const int32_t*>(on_device(sampled));
  tables_used_ = host.used();
}

int64_t GpuExecutor::partial_bytes_a_row(int64_t segments) const {
  return config_.heads * segments * (2 + config_.head_dim) * kFloat;
}

// What the host reads when the step is over.
GpuExecutor::Output GpuExecutor::output() const {
  const int64_t block_rows = std::min(limits_.rows, kHeadBlockRows);
  Output out;
  out.logits = reinterpret_cast<float*>(staging_.data() + tables_bytes_);
  out.normed = out.logits + block_rows * config_.vocabulary;
  out.fault = reinterpret_cast<int32_t*>(out.normed + block_rows * config_.hidden);
  return out;
}

void GpuExecutor::enqueue_body(int64_t tokens) {
  gpu_.stream->copy_in(tables_, staging_.data(), tables_used_);
  gpu_.stream->zero(reinterpret_cast<std::byte*>(fault_), sizeof(int32_t));
  const Rows body{tokens, nullptr};
  for (const Operation& operation : program_.body) {
    std::visit([&](const auto& op) { execute(op, body); }, operation);
  }
  gpu_.stream->copy_out(output().fault, reinterpret_cast<const std::byte*>(fault_), sizeof(int32_t));
}

void GpuExecutor::enqueue_head(int64_t first, int64_t count) {
  const Rows block{count, step_.sampled + first};
  for (const Operation& operation : program_.head) {
    std::visit([&](const auto& op) { execute(op, block); }, operation);
  }
  gpu_.stream->copy_out(output().logits, reinterpret_cast<const std::byte*>(data({program_.logits, 0})),
                        count * config_.vocabulary * kFloat);
  gpu_.stream->copy_out(output().normed, reinterpret_cast<const std::byte*>(data({program_.normed, 0})),
                        count * config_.hidden * kFloat);
}

// Decode steps repeat their shape: recorded once, replayed afterwards.
bool GpuExecutor::replay(const StepBatch& batch) {
  const auto tokens = static_cast<int64_t>(batch.tokens.size());
  const auto sampled = static_cast<int64_t>(batch.sampled.size());
  if (tokens != static_cast<int64_t>(batch.kv.size()) || tokens > kHeadBlockRows || sampled != tokens) return false;
  const std::pair<int64_t, int32_t> shape{tokens, segments_};
  if (graphs_.size() >= kGraphsMax && graphs_.count(shape) == 0) return false;
  device::Graph& graph = graphs_[shape];
  if (!graph) {
    gpu_.stream->begin_graph();
    enqueue_body(tokens);
    enqueue_head(0, sampled);
    auto recorded = gpu_.stream->end_graph();
    // Without memory for one more graph the same calls are made one by one.
    if (!recorded.ok()) return false;
    graph = std::move(*recorded);
  }
  gpu_.stream->replay(graph);
  return true;
}

void GpuExecutor::enqueue(const StepBatch& batch) {
  const auto tokens = static_cast<int64_t>(batch.tokens.size());
  WEIR_CHECK(tokens <= limits_.rows, "{} rows in a step of {}", tokens, limits_.rows);
  empty_ = tokens == 0;
  sampled_ = static_cast<int64_t>(batch.sampled.size());
  if (empty_) return;
  lay_out_tables(batch);
  replayed_ = replay(batch);
  if (!replayed_) enqueue_body(tokens);
}

void GpuExecutor::collect(const Consume& consume) {
  if (empty_) return;
  const Output out = output();
  const auto done = [&] {
    wait();
    WEIR_CHECK(*out.fault == 0, "the token id of row {} is outside the vocabulary", *out.fault - 1);
  };
  if (replayed_) {
    done();
    consume({0, sampled_, out.logits, out.normed, nullptr});
    return;
  }
  const int64_t block_rows = std::min(limits_.rows, kHeadBlockRows);
  for (int64_t first = 0; first < sampled_; first += block_rows) {
    const int64_t count = std::min(block_rows, sampled_ - first);
    enqueue_head(first, count);
    done();
    consume({first, count, out.logits, out.normed, nullptr});
  }
  if (sampled_ == 0) done();
}

void GpuExecutor::execute(const EmbedOp& op, const Rows& rows) {
  GpuEmbedArgs args;
  args.table = weights_.embedding();
  args.ids = step_.tokens;
  args.y = data(op.y);
  args.y_stride = stride(op.y);
  args.fault = fault_;
  embed(gpu_, args, rows.count);
}

void GpuExecutor::execute(const NormOp& op, const Rows& rows) {
  GpuRmsNormArgs args;
  args.x = data(op.x);
  args.x_stride = stride(op.x);
  args.x_rows = rows.sampled;
  args.weight = weights_.vector(op.weight);
  args.size = static_cast<int32_t>(config_.hidden);
  args.eps = config_.rms_eps;
  args.y = data(op.y);
  args.y_stride = stride(op.y);
  rms_norm(gpu_, args, rows.count);
}

void GpuExecutor::execute(const LinearOp& op, const Rows& rows) {
  GpuLinearArgs args;
  args.x = data(op.x);
  args.x_stride = stride(op.x);
  args.rows = rows.count;
  for (const LinearOp::Output& output : op.outputs) {
    add_output(weights_.matrix(output.weight), data(output.y), stride(output.y), output.add, &args);
  }
  linear(gpu_, args);
}

void GpuExecutor::execute(const AttentionOp& op, const Rows& rows) {
  GpuAttentionArgs args;
  args.qg = data(op.qg);
  args.qg_stride = stride(op.qg);
  args.k = data(op.k);
  args.k_stride = stride(op.k);
  args.v = data(op.v);
  args.v_stride = stride(op.v);
  args.q = q_;
  args.y = data(op.y);
  args.y_stride = stride(op.y);
  args.q_norm = weights_.vector({Slot::kAttnQNorm, op.layer});
  args.k_norm = weights_.vector({Slot::kAttnKNorm, op.layer});
  args.coarse = rope_.coarse;
  args.fine = rope_.fine;
  args.rows = step_.rows;
  args.pages = step_.pages;
  args.page_offset = op.page_offset;
  args.partial = spread_ ? partial_ : nullptr;
  args.segments = segments_;
  args.heads = static_cast<int32_t>(config_.heads);
  args.kv_heads = static_cast<int32_t>(config_.kv_heads);
  args.head_dim = static_cast<int32_t>(config_.head_dim);
  args.value_stride = static_cast<int32_t>(round_up(config_.head_dim, 16));
  args.rope_half = static_cast<int32_t>(config_.rope_dims / 2);
  args.eps = config_.rms_eps;
  attention(gpu_, args, rows.count);
}

void GpuExecutor::execute(const GdnOp& op, const Rows&) {
  GpuGdnArgs args = weights_.gdn(op.layer);
  args.sequences = step_.gdn;
  args.u = data(op.u);
  args.u_stride = stride(op.u);
  args.z = data(op.z);
  args.z_stride = stride(op.z);
  args.b = data(op.b);
  args.b_stride = stride(op.b);
  args.a = data(op.a);
  args.a_stride = stride(op.a);
  args.y = data(op.y);
  args.y_stride = stride(op.y);
  args.slot_offset = op.slot_offset;
  gdn(gpu_, args, gdn_sequences_);
}

void GpuExecutor::execute(const FeedForwardOp& op, const Rows& rows) {
  const GpuFeedForward& layer = weights_.feed_forward(op.layer);
  GpuFeedForwardArgs args;
  args.table = layer.table;
  args.x = data(op.x);
  args.x_stride = stride(op.x);
  args.y = data(op.y);
  args.y_stride = stride(op.y);
  args.hidden = hidden_;
  args.slots = layer.slots;
  args.width = layer.width;
  args.columns = static_cast<int32_t>(config_.hidden);
  if (layer.router.n > 0) {
    GpuLinearArgs score;
    score.x = args.x;
    score.x_stride = args.x_stride;
    score.rows = rows.count;
    add_output(layer.router, router_logits_, layer.experts_total, false, &score);
    if (layer.shared_gate.n > 0) add_output(layer.shared_gate, shared_logits_, 1, false, &score);
    linear(gpu_, score);
    GpuRouteArgs choice;
    if (layer.shared_gate.n > 0) choice.shared_logits = shared_logits_;
    choice.logits = router_logits_;
    choice.experts = experts_;
    choice.weights = expert_weights_;
    choice.experts_total = layer.experts_total;
    choice.top_k = layer.top_k;
    choice.slots = layer.slots;
    route(gpu_, choice, rows.count);
    args.experts = experts_;
    args.weights = expert_weights_;
  }
  feed_forward(gpu_, args, rows.count);
}

}  // namespace weir
