// The weights of a model as the CPU's operations want them: packed once, found by their place in the binding table.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "models/config.h"
#include "models/program.h"
#include "models/weights.h"
#include "ops/attention/attention.h"
#include "ops/cpu/cpu.h"
#include "ops/gdn/gdn.h"
#include "ops/linear/linear.h"
#include "ops/moe/moe.h"

namespace weir {

class CpuWeights {
 public:
  // Repacks every matrix on the pool's threads; `weights` may be released afterwards.
  static CpuWeights pack(const ModelConfig& config, const ModelWeights& weights, Cpu& cpu);

  const PackedMatrix& matrix(WeightRef ref) const;
  VectorView vector(WeightRef ref) const;
  const PackedMatrix& embedding() const { return embed_.empty() ? matrix({Slot::kLmHead, kNoLayer}) : embed_; }
  const GdnParameters& gdn(int32_t layer) const;
  // The layer's experts, or null for a dense layer.
  const PackedMoe* moe(int32_t layer) const;
  const PackedMlp& mlp(int32_t layer) const;

  bool has_draft_head() const { return has_draft_head_; }
  // Bytes held, scales included.
  int64_t bytes() const { return bytes_; }
  // Most scratch that any feed-forward of `rows` rows needs.
  int64_t feed_forward_scratch_bytes(int64_t rows, int threads) const;

 private:
  struct Layer {
    GdnParameters gdn;
    PackedMoe moe;
    PackedMlp mlp;
  };
  class Packer;
  static int32_t key(WeightRef ref);
  Layer& layer(int32_t index);
  const Layer& layer(int32_t index) const;

  std::map<int32_t, PackedMatrix> matrices_;
  std::map<int32_t, std::vector<float>> vectors_;
  std::vector<Layer> layers_;  // the draft head's behind the backbone's
  PackedMatrix embed_;         // untied models only
  bool moe_ = false;
  bool has_draft_head_ = false;
  int64_t bytes_ = 0;
};

GdnShape gdn_shape(const ModelConfig& config);
AttentionShape attention_shape(const ModelConfig& config);
// How much of a page and of a slot one layer takes on the CPU.
CacheSizes cpu_cache_sizes(const ModelConfig& config);

}  // namespace weir
