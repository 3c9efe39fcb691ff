// The model page of qwen3_5_moe, qwen3_5 and qwen3_next: one program for all three, since the loader has already
// brought their tensors into one form.
#include "models/program.h"

#include <algorithm>

namespace weir {
namespace {

class Builder {
 public:
  Builder(const ModelConfig& config, std::string name) : config_(config) { program_.name = std::move(name); }

  BufferRef buffer(std::string name, int64_t width, RowSpace space = RowSpace::kStep) {
    program_.buffers.push_back({std::move(name), width, space});
    return {BufferId::from(program_.buffers.size() - 1), 0};
  }
  template <class Op>
  void add(Op op) {
    program_.body.push_back(std::move(op));
  }
  void norm(BufferRef x, BufferRef y, Slot slot, int32_t layer) { add(NormOp{x, y, {slot, layer}}); }

  // h += mixer(norm(h)) by softmax attention.
  void attention(int32_t layer, BufferRef h, PageClassId page_class, int64_t page_offset) {
    const int64_t kv = config_.kv_heads * config_.head_dim;
    const int64_t q = config_.heads * config_.head_dim;
    need(&qg_, "attention.qg", 2 * q);
    need(&k_, "attention.k", kv);
    need(&v_, "attention.v", kv);
    need(&mixed_, "mixed", std::max(q, config_.value_width()));
    norm(h, x_, Slot::kInputNorm, layer);
    add(LinearOp{x_, {{{Slot::kAttnQ, layer}, qg_}, {{Slot::kAttnK, layer}, k_}, {{Slot::kAttnV, layer}, v_}}});
    add(AttentionOp{qg_, k_, v_, mixed_, layer, page_class, page_offset});
    add(LinearOp{mixed_, {{{Slot::kAttnO, layer}, h, true}}});
  }

  // h += mixer(norm(h)) by Gated DeltaNet.
  void gdn(int32_t layer, BufferRef h, int64_t slot_offset) {
    need(&u_, "gdn.qkv", config_.qkv_width());
    need(&z_, "gdn.z", config_.value_width());
    need(&b_, "gdn.b", config_.gdn_value_heads);
    need(&a_, "gdn.a", config_.gdn_value_heads);
    need(&mixed_, "mixed", std::max(config_.heads * config_.head_dim, config_.value_width()));
    norm(h, x_, Slot::kInputNorm, layer);
    add(LinearOp{x_,
                 {{{Slot::kGdnQkv, layer}, u_},
                  {{Slot::kGdnZ, layer}, z_},
                  {{Slot::kGdnB, layer}, b_},
                  {{Slot::kGdnA, layer}, a_}}});
    add(GdnOp{u_, z_, b_, a_, mixed_, layer, slot_offset});
    add(LinearOp{mixed_, {{{Slot::kGdnOut, layer}, h, true}}});
  }

  void feed_forward(int32_t layer, BufferRef h) {
    norm(h, x_, Slot::kPostNorm, layer);
    add(FeedForwardOp{x_, h, layer});
  }

  // Sampled rows: final norm, then the head over `ids` of the vocabulary.
  void head(BufferRef h, WeightRef final_norm, WeightRef head, int64_t ids) {
    const BufferRef normed = buffer("normed", config_.hidden, RowSpace::kSampled);
    const BufferRef logits = buffer("logits", ids, RowSpace::kSampled);
    program_.head.push_back(NormOp{h, normed, final_norm});
    program_.head.push_back(LinearOp{normed, {{head, logits}}});
    program_.normed = normed.buffer;
    program_.logits = logits.buffer;
  }

  void set_x() { x_ = buffer("x", config_.hidden); }
  Program take() { return std::move(program_); }
  Program& program() { return program_; }

 private:
  // Layers share their work buffers: the first layer of a kind makes them.
  void need(BufferRef* ref, const char* name, int64_t width) {
    if (!ref->buffer.valid()) *ref = buffer(name, width);
  }

  const ModelConfig& config_;
  Program program_;
  BufferRef x_, qg_, k_, v_, u_, z_, b_, a_, mixed_;
};

}  // namespace

std::string_view operation_name(const Operation& operation) {
  constexpr std::string_view kNames[] = {"embed", "norm", "linear", "attention", "gdn", "feed-forward"};
  return kNames[operation.index()];
}

bool Program::recurrent() const {
  return std::any_of(body.begin(), body.end(), [](const Operation& op) { return std::holds_alternative<GdnOp>(op); });
}

Program make_main_program(const ModelConfig& config, const CacheSizes& sizes) {
  Builder build(config, "main");
  const BufferRef h = build.buffer("hidden", config.hidden);
  build.set_x();
  build.add(EmbedOp{h});
  int64_t full = 0;
  int64_t linear = 0;
  for (int32_t layer = 0; layer < config.layer_count(); ++layer) {
    if (config.layers[static_cast<size_t>(layer)] == LayerKind::kFull) {
      build.attention(layer, h, kKvClass, full++ * sizes.kv_page_bytes);
    } else {
      build.gdn(layer, h, linear++ * sizes.gdn_slot_bytes);
    }
    build.feed_forward(layer, h);
  }
  build.head(h, {Slot::kFinalNorm, kNoLayer}, {Slot::kLmHead, kNoLayer}, config.vocabulary);
  return build.take();
}

Program make_draft_program(const ModelConfig& config, int64_t head_rows) {
  Builder build(config, "draft");
  const BufferRef hidden_in = build.buffer("hidden_in", config.hidden);
  const BufferRef embedded = build.buffer("embedded", config.hidden);
  const BufferRef joined = build.buffer("joined", 2 * config.hidden);
  const BufferRef h = build.buffer("hidden", config.hidden);
  build.set_x();
  build.add(EmbedOp{embedded});
  build.norm(embedded, joined, Slot::kMtpNormEmbedding, kMtpLayer);
  build.norm(hidden_in, {joined.buffer, config.hidden}, Slot::kMtpNormHidden, kMtpLayer);
  build.add(LinearOp{joined, {{{Slot::kMtpFc, kMtpLayer}, h}}});
  build.attention(kMtpLayer, h, kDraftKvClass, 0);
  build.feed_forward(kMtpLayer, h);
  const WeightRef head = head_rows > 0 ? WeightRef{Slot::kMtpHead, kMtpLayer} : WeightRef{Slot::kLmHead, kNoLayer};
  build.head(h, {Slot::kMtpNorm, kMtpLayer}, head, head_rows > 0 ? head_rows : config.vocabulary);
  Program program = build.take();
  program.hidden_in = hidden_in.buffer;
  return program;
}

}  // namespace weir
