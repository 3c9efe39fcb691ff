#include "runner/packed_weights.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <utility>

#include "base/check.h"
#include "ops/attention/attention_paged_args.h"
#include "ops/cpu/aligned.h"
#include "ops/gdn/gdn_chunks_gpu.h"
#include "ops/linear/linear_packed_gpu.h"
#include "ops/moe/moe_packed_args.h"
#include "runner/cpu_weights.h"
#include "runner/weight_stage.h"

namespace weir {
namespace {

constexpr int64_t kAlign = 256;
constexpr int64_t kPartBytes = 64 << 20;  // of staging memory: long enough copies, and every pair of experts fits

Status refuse(std::string what) {
  return with_remedy(Error{ErrorCode::kUnsupported, std::move(what), {}}, "run this model on the CPU: --device cpu");
}

// What PackedFeedForward::stride says.
int64_t stride_of(const PackedFeedForward& layer) {
  const std::vector<GpuPackedMlp>& mlps = layer.mlps;
  const size_t like = mlps.size() - (layer.shared_apart() ? 1 : 0);
  if (like < 2) return 0;
  const int64_t stride = mlps[1].gate_up.data - mlps[0].gate_up.data;
  const auto apart = [&](const float* a, const float* b) {
    if (a == nullptr && b == nullptr) return stride;
    return reinterpret_cast<const uint8_t*>(b) - reinterpret_cast<const uint8_t*>(a);
  };
  for (size_t e = 1; e < like; ++e) {
    const GpuPackedMlp& a = mlps[e - 1];
    const GpuPackedMlp& b = mlps[e];
    if (b.gate_up.data - a.gate_up.data != stride || b.down.data - a.down.data != stride ||
        apart(a.gate_up.scales, b.gate_up.scales) != stride || apart(a.down.scales, b.down.scales) != stride) {
      return 0;
    }
  }
  return stride;
}

bool no_packed_form(const WeightMatrix& w) {
  return packed_tile_bytes(gpu_format(w.format)) == 0;
}

}  // namespace

Status packed_takes(const ModelConfig& config) {
  if (config.hidden % kTileK != 0) return refuse(fmt::format("rows of {} values", config.hidden));
  if (config.count_layers(LayerKind::kFull) > 0) {
    if (config.head_dim != kPagedHeadDim || config.heads / config.kv_heads > kPagedGroupMax) {
      return refuse(
          fmt::format("{} attention heads of {} values over {}", config.heads, config.head_dim, config.kv_heads));
    }
  }
  if (config.count_layers(LayerKind::kLinear) > 0 && !gdn_packed_takes(gdn_shape(config))) {
    return refuse("Gated DeltaNet heads of another size than 128");
  }
  if (config.moe()) {
    if (config.experts > kPackedExpertsMax || config.experts_per_token > kPackedTopMax ||
        config.expert_width % kTileK != 0) {
      return refuse(
          fmt::format("{} of {} experts of {} values", config.experts_per_token, config.experts, config.expert_width));
    }
    if (config.shared_width > 0 && config.shared_width != config.expert_width) {
      return refuse(
          fmt::format("a shared expert of {} values beside experts of {}", config.shared_width, config.expert_width));
    }
  } else if (config.dense_width % kTileK != 0) {
    return refuse(fmt::format("a hidden width of {}", config.dense_width));
  }
  return Ok{};
}

bool takes_e4m3(const WeightMatrix& w) {
  return w.format == WeightFormat::kFp8Block && w.k % kBlockK == 0;
}

bool takes_e4m3(const MlpWeights& mlp) {
  return takes_e4m3(mlp.gate) && takes_e4m3(mlp.down);
}

// Lays everything out first, so that one allocation holds it and what does not fit is said before anything is copied.
class PackedWeights::Uploader {
 public:
  void add(GpuPacked* target, const WeightMatrix* source, const WeightMatrix* second = nullptr) {
    if (no_packed_form(*source) || (second != nullptr && second->format != source->format)) {
      refused_ = refuse("a matrix of float32 values, or a pair of two formats");
      return;
    }
    *target = packed_shape(second == nullptr ? source->n : 2 * source->n, source->k, gpu_format(source->format));
    const int64_t data = take(packed_data_bytes(*target));
    const int64_t scales = take(packed_scale_floats(*target) * static_cast<int64_t>(sizeof(float)));
    jobs_.push_back([=](std::byte* base, Gpu gpu, WeightStage* stage) -> Status {
      target->data = reinterpret_cast<const uint8_t*>(base + data);
      const auto* scale_place = reinterpret_cast<const float*>(base + scales);
      if (target->format == kGpuFp8Block) target->scales = scale_place;
      if (target->format == kGpuFp8Row) target->row_scales = scale_place;
      return pack_all(*target, source, second, gpu, stage);
    });
  }

  // FP8 matrices over the same rows lie behind each other, and so do their scales.
  void add_group(const std::vector<std::pair<GpuPacked*, const WeightMatrix*>>& group) {
    int64_t floats = 0;
    for (const auto& [target, source] : group) {
      if (source->format != WeightFormat::kFp8Block || source->k != group.front().second->k) {
        for (const auto& [one, from] : group) add(one, from);
        return;
      }
      *target = packed_shape(source->n, source->k, kGpuFp8Block);
      floats += packed_scale_floats(*target);
    }
    const int64_t scales = take(floats * static_cast<int64_t>(sizeof(float)));
    int64_t scale_place = scales;
    for (const auto& [target, source] : group) {
      const int64_t data = take(packed_data_bytes(*target));
      jobs_.push_back([target = target, source = source, data, scale_place](std::byte* base, Gpu gpu,
                                                                            WeightStage* stage) -> Status {
        target->data = reinterpret_cast<const uint8_t*>(base + data);
        target->scales = reinterpret_cast<const float*>(base + scale_place);
        return pack_all(*target, source, nullptr, gpu, stage);
      });
      scale_place += int64_t{target->strips} * ((target->tiles + 1) / 2) * 2 * static_cast<int64_t>(sizeof(float));
    }
  }

  void refuse_because(std::string what) { refused_ = refuse(std::move(what)); }

  void add(GpuPackedMlp* target, const MlpWeights* source) {
    if (operand_type(gpu_format(source->gate.format)) != operand_type(gpu_format(source->down.format))) {
      refuse_because("an MLP whose matrices take activations of two types");
    }
    add(&target->gate_up, &source->gate, &source->up);
    add(&target->down, &source->down);
  }

  // Values whose place is then given to `found`.
  template <class T>
  void add(std::vector<T> values, std::function<void(const T*)> found) {
    const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
    const int64_t place = take(bytes);
    jobs_.push_back([values = std::move(values), place, bytes, found = std::move(found)](std::byte* base, Gpu,
                                                                                         WeightStage* stage) -> Status {
      found(reinterpret_cast<const T*>(base + place));
      return stage->copy(base + place, values.data(), bytes);
    });
  }

  // The table of a layer's MLPs, once they have addresses.
  void add_table(PackedFeedForward* layer) {
    const auto bytes = static_cast<int64_t>(layer->mlps.size() * sizeof(GpuPackedMlp));
    const int64_t place = take(bytes);
    jobs_.push_back([=](std::byte* base, Gpu, WeightStage* stage) -> Status {
      layer->table = reinterpret_cast<const GpuPackedMlp*>(base + place);
      return stage->copy(base + place, layer->mlps.data(), bytes);
    });
  }

  void add_rows(GpuMatrix* target, const WeightMatrix* source) {
    target->n = static_cast<int32_t>(source->n);
    target->k = static_cast<int32_t>(source->k);
    target->format = gpu_format(source->format);
    target->row_bytes = stored_row_bytes(*source);
    const int64_t place = take(target->row_bytes * source->n);
    WEIR_CHECK(source->row_bytes == target->row_bytes, "rows {} bytes apart", source->row_bytes);
    jobs_.push_back([=](std::byte* base, Gpu, WeightStage* stage) -> Status {
      target->data = reinterpret_cast<const uint8_t*>(base + place);
      return stage->copy(base + place, source->data, target->row_bytes * source->n);
    });
  }

  Result<device::Bytes> run(Gpu gpu) {
    if (!refused_.ok()) return refused_.error();
    WEIR_ASSIGN_OR_RETURN(device::Bytes memory,
                          gpu.device->allocate(bytes_, "the model's weights", "use a smaller model or format"));
    WEIR_ASSIGN_OR_RETURN(WeightStage stage, WeightStage::create(gpu, kPartBytes));
    for (auto& job : jobs_) WEIR_RETURN_IF_ERROR(job(memory.data(), gpu, &stage));
    WEIR_RETURN_IF_ERROR(gpu.stream->wait());
    return memory;
  }

 private:
  int64_t take(int64_t bytes) {
    const int64_t place = bytes_;
    bytes_ = round_up(bytes_ + bytes, kAlign);
    return place;
  }

  // Part by part, each a number of whole strips.
  static Status pack_all(const GpuPacked& target, const WeightMatrix* source, const WeightMatrix* second, Gpu gpu,
                         WeightStage* stage) {
    std::vector<const WeightMatrix*> both = {source};
    if (second != nullptr) both.push_back(second);
    const auto count = static_cast<int64_t>(both.size());
    const int64_t rows = stage->rows_at_once(*source, count);
    for (int64_t first = 0; first < source->n; first += rows) {
      const int64_t part = std::min(rows, source->n - first);
      WEIR_ASSIGN_OR_RETURN(const std::vector<GpuMatrix> brought, stage->bring(both, first, part));
      GpuPackArgs args;
      args.source = brought[0];
      args.interleaved = second != nullptr ? 1 : 0;
      if (second != nullptr) args.second = brought[1];
      const int64_t strip = first * count / kStripRows;
      args.target = packed_shape(part * count, source->k, target.format);
      args.target.data = target.data + strip * target.tiles * packed_tile_bytes(target.format);
      if (target.scales != nullptr) args.target.scales = target.scales + strip * ((target.tiles + 1) / 2) * 2;
      if (target.row_scales != nullptr) args.target.row_scales = target.row_scales + strip * kStripRows;
      pack(gpu, args);
      stage->done();
    }
    return Ok{};
  }

  int64_t bytes_ = 0;
  Status refused_ = Ok{};
  std::vector<std::function<Status(std::byte*, Gpu, WeightStage*)>> jobs_;
};

int32_t PackedWeights::key(WeightRef ref) {
  return (ref.layer - kMtpLayer) * 256 + static_cast<int32_t>(ref.slot);
}

void PackedWeights::collect_layer(const ModelConfig& config, int32_t at, const LayerWeights& source,
                                  Uploader* uploader) {
  const auto matrix = [&](Slot slot, const WeightMatrix& from) { uploader->add(&matrices_[key({slot, at})], &from); };
  const auto vector = [&](Slot slot, VectorView from) {
    const float** target = &vectors_[key({slot, at})];
    uploader->add<float>({from.data, from.data + from.size}, [target](const float* data) { *target = data; });
  };
  vector(Slot::kInputNorm, source.input_norm);
  vector(Slot::kPostNorm, source.post_norm);
  Layer& target = layers_.at(index(at));
  if (source.kind == LayerKind::kLinear) {
    uploader->add_group({{&matrices_[key({Slot::kGdnQkv, at})], &source.gdn.in_qkv},
                         {&matrices_[key({Slot::kGdnZ, at})], &source.gdn.in_z}});
    matrix(Slot::kGdnB, source.gdn.in_b);
    matrix(Slot::kGdnA, source.gdn.in_a);
    matrix(Slot::kGdnOut, source.gdn.out);
    const GdnShape shape = gdn_shape(config);
    GdnParameters p =
        make_gdn_parameters(shape, source.gdn.conv, source.gdn.a_log, source.gdn.dt_bias, source.gdn.norm);
    GpuGdnPackedArgs* args = &target.gdn;
    set_shape(shape, args);
    uploader->add<float>(std::move(p.conv), [args](const float* data) { args->conv = data; });
    uploader->add<float>(std::move(p.decay), [args](const float* data) { args->decay = data; });
    uploader->add<float>(std::move(p.dt_bias), [args](const float* data) { args->dt_bias = data; });
    uploader->add<float>(std::move(p.norm), [args](const float* data) { args->norm = data; });
  } else {
    uploader->add_group({{&matrices_[key({Slot::kAttnQ, at})], &source.attention.q},
                         {&matrices_[key({Slot::kAttnK, at})], &source.attention.k},
                         {&matrices_[key({Slot::kAttnV, at})], &source.attention.v}});
    matrix(Slot::kAttnO, source.attention.o);
    vector(Slot::kAttnQNorm, source.attention.q_norm);
    vector(Slot::kAttnKNorm, source.attention.k_norm);
  }
  PackedFeedForward* ff = &target.feed_forward;
  if (config.moe()) {
    uploader->add(&ff->router, &source.moe.router);
    ff->experts = static_cast<int32_t>(source.moe.experts.size());
    ff->top_k = static_cast<int32_t>(config.experts_per_token);
    ff->shared = source.moe.shared_gate.n > 0 ? 1 : 0;
    ff->mlps.resize(source.moe.experts.size() + static_cast<size_t>(ff->shared));
    ff->format = ff->shared_format = gpu_format(source.moe.experts.front().gate.format);
    for (size_t e = 0; e < source.moe.experts.size(); ++e) {
      const MlpWeights& expert = source.moe.experts[e];
      if (gpu_format(expert.gate.format) != ff->format || gpu_format(expert.down.format) != ff->format) {
        uploader->refuse_because("routed experts of two formats");
      }
      uploader->add(&ff->mlps[e], &expert);
    }
    if (ff->shared != 0) {
      uploader->add(&ff->mlps.back(), &source.moe.shared);
      ff->shared_format = gpu_format(source.moe.shared.gate.format);
      if (gpu_format(source.moe.shared.down.format) != ff->shared_format) {
        uploader->refuse_because("a shared expert of two formats");
      }
      uploader->add(&ff->shared_gate, &source.moe.shared_gate);
    }
    ff->width = static_cast<int32_t>(source.moe.experts.front().gate.n);
  } else {
    ff->mlps.resize(1);
    uploader->add(ff->mlps.data(), &source.dense);
    ff->experts = 1;
    ff->top_k = 1;
    ff->width = static_cast<int32_t>(source.dense.gate.n);
    ff->format = ff->shared_format = gpu_format(source.dense.gate.format);
  }
  uploader->add_table(ff);
}

void PackedWeights::collect(const ModelConfig& config, const ModelWeights& weights, Uploader* uploader) {
  has_draft_head_ = weights.mtp.has_value();
  layers_.resize(weights.layers.size() + (has_draft_head_ ? 1 : 0));
  const auto vector = [&](Slot slot, int32_t layer, VectorView from) {
    const float** target = &vectors_[key({slot, layer})];
    uploader->add<float>({from.data, from.data + from.size}, [target](const float* data) { *target = data; });
  };
  uploader->add(&matrices_[key({Slot::kLmHead, kNoLayer})], &weights.lm_head);
  uploader->add_rows(&embed_, &weights.embed);
  vector(Slot::kFinalNorm, kNoLayer, weights.final_norm);
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    collect_layer(config, static_cast<int32_t>(i), weights.layers[i], uploader);
  }
  if (weights.mtp) {
    uploader->add(&matrices_[key({Slot::kMtpFc, kMtpLayer})], &weights.mtp->fc);
    vector(Slot::kMtpNormEmbedding, kMtpLayer, weights.mtp->norm_embedding);
    vector(Slot::kMtpNormHidden, kMtpLayer, weights.mtp->norm_hidden);
    vector(Slot::kMtpNorm, kMtpLayer, weights.mtp->norm);
    if (weights.mtp->head.n > 0) uploader->add(&matrices_[key({Slot::kMtpHead, kMtpLayer})], &weights.mtp->head);
    collect_layer(config, kMtpLayer, weights.mtp->layer, uploader);
  }
}

Result<PackedWeights> PackedWeights::upload(const ModelConfig& config, const ModelWeights& weights, Gpu gpu) {
  PackedWeights out;
  Uploader uploader;
  out.collect(config, weights, &uploader);
  WEIR_ASSIGN_OR_RETURN(out.memory_, uploader.run(gpu));
  for (Layer& layer : out.layers_) layer.feed_forward.stride = stride_of(layer.feed_forward);
  return out;
}

const GpuPacked& PackedWeights::matrix(WeightRef ref) const {
  const auto found = matrices_.find(key(ref));
  WEIR_CHECK(found != matrices_.end(), "no matrix {} in layer {}", slot_name(ref.slot), ref.layer);
  return found->second;
}

const float* PackedWeights::vector(WeightRef ref) const {
  const auto found = vectors_.find(key(ref));
  WEIR_CHECK(found != vectors_.end(), "no vector {} in layer {}", slot_name(ref.slot), ref.layer);
  return found->second;
}

}  // namespace weir
