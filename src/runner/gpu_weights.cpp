#include "runner/gpu_weights.h"

#include <algorithm>
#include <cstring>
#include <functional>

#include "base/check.h"
#include "ops/gdn/gdn_gpu.h"
#include "runner/cpu_weights.h"
#include "runner/weight_stage.h"

namespace weir {
namespace {

constexpr int64_t kRowAlign = 16;  // a chunk of ops/linear/dot.h
constexpr int64_t kMatrixAlign = 256;

}  // namespace

// Lays everything out first, so that one allocation holds it and what does not fit is said before anything is copied.
class GpuWeights::Uploader {
 public:
  void add(GpuMatrix* target, const WeightMatrix& source) {
    target->n = static_cast<int32_t>(source.n);
    target->k = static_cast<int32_t>(source.k);
    target->format = gpu_format(source.format);
    target->row_bytes = round_up(stored_row_bytes(source), kRowAlign);
    std::vector<std::byte> scales = device_scales(source, &target->scale_stride);
    const int64_t data = take(target->row_bytes * source.n);
    const int64_t scale_data = take(static_cast<int64_t>(scales.size()));
    jobs_.push_back([target, source, scales = std::move(scales), data, scale_data](std::byte* base, device::Stream* s) {
      target->data = reinterpret_cast<const uint8_t*>(base + data);
      target->scales = reinterpret_cast<const uint8_t*>(base + scale_data);
      copy_rows(base + data, target->row_bytes, source, s);
      s->copy_in(base + scale_data, scales.data(), static_cast<int64_t>(scales.size()));
    });
  }

  void add(GpuMlp* target, const MlpWeights& source) {
    add(&target->gate, source.gate);
    add(&target->up, source.up);
    add(&target->down, source.down);
  }

  // Floats whose place is then given to `found`.
  void add(std::vector<float> values, std::function<void(const float*)> found) {
    const int64_t place = take(static_cast<int64_t>(values.size() * sizeof(float)));
    jobs_.push_back([values = std::move(values), place, found = std::move(found)](std::byte* base, device::Stream* s) {
      s->copy_in(base + place, values.data(), static_cast<int64_t>(values.size() * sizeof(float)));
      found(reinterpret_cast<const float*>(base + place));
    });
  }

  // A table of experts, copied once their matrices have addresses.
  void add_table(std::vector<GpuMlp>* table, std::function<void(const GpuMlp*)> found) {
    const int64_t bytes = static_cast<int64_t>(table->size() * sizeof(GpuMlp));
    const int64_t place = take(bytes);
    jobs_.push_back([table, place, bytes, found = std::move(found)](std::byte* base, device::Stream* s) {
      s->copy_in(base + place, table->data(), bytes);
      found(reinterpret_cast<const GpuMlp*>(base + place));
    });
  }

  // Lives as long as the uploader; its entries are given to add().
  std::vector<GpuMlp>* new_table(size_t size) {
    tables_.push_back(std::make_unique<std::vector<GpuMlp>>(size));
    return tables_.back().get();
  }

  Result<device::Bytes> run(device::Device* device, device::Stream* stream) {
    WEIR_ASSIGN_OR_RETURN(device::Bytes memory,
                          device->allocate(bytes_, "the model's weights", "use a smaller model or format"));
    stream->zero(memory.data(), memory.size());
    for (auto& job : jobs_) {
      job(memory.data(), stream);
      // What is copied from may be temporary.
      WEIR_RETURN_IF_ERROR(stream->wait());
    }
    return memory;
  }

 private:
  int64_t take(int64_t bytes) {
    const int64_t place = bytes_;
    bytes_ = round_up(bytes_ + bytes, kMatrixAlign);
    return place;
  }

  static void copy_rows(std::byte* to, int64_t row_bytes, const WeightMatrix& source, device::Stream* stream) {
    const int64_t stored = stored_row_bytes(source);
    if (source.row_bytes == row_bytes) return stream->copy_in(to, source.data, row_bytes * source.n);
    for (int64_t n = 0; n < source.n; ++n) {
      stream->copy_in(to + n * row_bytes, source.data + n * source.row_bytes, stored);
    }
  }

  int64_t bytes_ = 0;
  std::vector<std::function<void(std::byte*, device::Stream*)>> jobs_;
  std::vector<std::unique_ptr<std::vector<GpuMlp>>> tables_;
};

int32_t GpuWeights::key(WeightRef ref) {
  return (ref.layer - kMtpLayer) * 256 + static_cast<int32_t>(ref.slot);
}

GpuWeights::Layer& GpuWeights::layer(int32_t index) {
  return index == kMtpLayer ? layers_.back() : layers_.at(static_cast<size_t>(index));
}
const GpuWeights::Layer& GpuWeights::layer(int32_t index) const {
  return index == kMtpLayer ? layers_.back() : layers_.at(static_cast<size_t>(index));
}

void GpuWeights::collect_layer(const ModelConfig& config, int32_t index, const LayerWeights& source,
                               Uploader* uploader) {
  const auto matrix = [&](Slot slot, const WeightMatrix& from) { uploader->add(&matrices_[key({slot, index})], from); };
  const auto vector = [&](Slot slot, VectorView from) {
    const float** target = &vectors_[key({slot, index})];
    uploader->add({from.data, from.data + from.size}, [target](const float* data) { *target = data; });
  };
  vector(Slot::kInputNorm, source.input_norm);
  vector(Slot::kPostNorm, source.post_norm);
  Layer& target = layer(index);
  if (source.kind == LayerKind::kLinear) {
    matrix(Slot::kGdnQkv, source.gdn.in_qkv);
    matrix(Slot::kGdnZ, source.gdn.in_z);
    matrix(Slot::kGdnB, source.gdn.in_b);
    matrix(Slot::kGdnA, source.gdn.in_a);
    matrix(Slot::kGdnOut, source.gdn.out);
    const GdnShape shape = gdn_shape(config);
    GdnParameters p =
        make_gdn_parameters(shape, source.gdn.conv, source.gdn.a_log, source.gdn.dt_bias, source.gdn.norm);
    GpuGdnArgs* args = &target.gdn;
    set_shape(shape, args);
    uploader->add(std::move(p.conv), [args](const float* data) { args->conv = data; });
    uploader->add(std::move(p.decay), [args](const float* data) { args->decay = data; });
    uploader->add(std::move(p.dt_bias), [args](const float* data) { args->dt_bias = data; });
    uploader->add(std::move(p.norm), [args](const float* data) { args->norm = data; });
  } else {
    matrix(Slot::kAttnQ, source.attention.q);
    matrix(Slot::kAttnK, source.attention.k);
    matrix(Slot::kAttnV, source.attention.v);
    matrix(Slot::kAttnO, source.attention.o);
    vector(Slot::kAttnQNorm, source.attention.q_norm);
    vector(Slot::kAttnKNorm, source.attention.k_norm);
  }
  GpuFeedForward* ff = &target.feed_forward;
  const bool sparse = config.moe();
  const bool shared = sparse && source.moe.shared_gate.n > 0;
  const size_t routed = sparse ? source.moe.experts.size() : 1;
  std::vector<GpuMlp>* table = uploader->new_table(routed + (shared ? 1 : 0));
  const auto expert = [&](size_t i, const MlpWeights& from) {
    uploader->add(&(*table)[i], from);
    ff->width = std::max(ff->width, static_cast<int32_t>(from.gate.n));
  };
  if (sparse) {
    uploader->add(&ff->router, source.moe.router);
    for (size_t e = 0; e < routed; ++e) expert(e, source.moe.experts[e]);
    ff->experts_total = static_cast<int32_t>(routed);
    ff->top_k = static_cast<int32_t>(config.experts_per_token);
    ff->slots = ff->top_k + (shared ? 1 : 0);
    if (shared) {
      uploader->add(&ff->shared_gate, source.moe.shared_gate);
      expert(routed, source.moe.shared);
    }
  } else {
    expert(0, source.dense);
  }
  uploader->add_table(table, [ff](const GpuMlp* data) { ff->table = data; });
  hidden_floats_a_row_ = std::max<int64_t>(hidden_floats_a_row_, int64_t{ff->slots} * ff->width);
  experts_max_ = std::max<int64_t>(experts_max_, ff->experts_total);
  slots_max_ = std::max<int64_t>(slots_max_, ff->slots);
}

void GpuWeights::collect(const ModelConfig& config, const ModelWeights& weights, Uploader* uploader) {
  has_draft_head_ = weights.mtp.has_value();
  layers_.resize(weights.layers.size() + (has_draft_head_ ? 1 : 0));
  const auto vector = [&](Slot slot, int32_t layer, VectorView from) {
    const float** target = &vectors_[key({slot, layer})];
    uploader->add({from.data, from.data + from.size}, [target](const float* data) { *target = data; });
  };
  uploader->add(&matrices_[key({Slot::kLmHead, kNoLayer})], weights.lm_head);
  if (!config.tied) uploader->add(&embed_, weights.embed);
  vector(Slot::kFinalNorm, kNoLayer, weights.final_norm);
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    collect_layer(config, static_cast<int32_t>(i), weights.layers[i], uploader);
  }
  if (weights.mtp) {
    uploader->add(&matrices_[key({Slot::kMtpFc, kMtpLayer})], weights.mtp->fc);
    vector(Slot::kMtpNormEmbedding, kMtpLayer, weights.mtp->norm_embedding);
    vector(Slot::kMtpNormHidden, kMtpLayer, weights.mtp->norm_hidden);
    vector(Slot::kMtpNorm, kMtpLayer, weights.mtp->norm);
    collect_layer(config, kMtpLayer, weights.mtp->layer, uploader);
  }
}

Result<GpuWeights> GpuWeights::upload(const ModelConfig& config, const ModelWeights& weights, device::Device* device,
                                      device::Stream* stream) {
  GpuWeights out;
  Uploader uploader;
  out.collect(config, weights, &uploader);
  WEIR_ASSIGN_OR_RETURN(out.memory_, uploader.run(device, stream));
  if (config.tied) out.embed_ = out.matrix({Slot::kLmHead, kNoLayer});
  return out;
}

const GpuMatrix& GpuWeights::matrix(WeightRef ref) const {
  const auto found = matrices_.find(key(ref));
  WEIR_CHECK(found != matrices_.end(), "no matrix {} in layer {}", slot_name(ref.slot), ref.layer);
  return found->second;
}

const float* GpuWeights::vector(WeightRef ref) const {
  const auto found = vectors_.find(key(ref));
  WEIR_CHECK(found != vectors_.end(), "no vector {} in layer {}", slot_name(ref.slot), ref.layer);
  return found->second;
}

const GpuGdnArgs& GpuWeights::gdn(int32_t index) const {
  return layer(index).gdn;
}

const GpuFeedForward& GpuWeights::feed_forward(int32_t index) const {
  return layer(index).feed_forward;
}

}  // namespace weir
