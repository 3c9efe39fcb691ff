// The weights of a model in a GPU's memory, in their stored format, found by their place in the binding table.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "base/result.h"
#include "models/config.h"
#include "models/program.h"
#include "models/weights.h"
#include "ops/gdn/gpu_args.h"
#include "ops/gpu/gpu.h"
#include "ops/linear/gpu_args.h"

namespace weir {

// A sparse layer, or a dense one: then `table` holds one MLP and there is no router.
struct GpuFeedForward {
  GpuMatrix router;       // n 0: dense
  GpuMatrix shared_gate;  // n 0: no shared expert
  const GpuMlp* table = nullptr;
  int32_t experts_total = 0;
  int32_t top_k = 0;
  int32_t slots = 1;
  int32_t width = 0;  // the largest F
};

class GpuWeights {
 public:
  // Copies every matrix once; `weights` may be released afterwards. Fails when the device's memory does not hold them.
  static Result<GpuWeights> upload(const ModelConfig& config, const ModelWeights& weights, device::Device* device,
                                   device::Stream* stream);

  const GpuMatrix& matrix(WeightRef ref) const;
  const float* vector(WeightRef ref) const;
  const GpuMatrix& embedding() const { return embed_; }
  // Parameters filled in; buffers and sequences are the caller's.
  const GpuGdnArgs& gdn(int32_t layer) const;
  const GpuFeedForward& feed_forward(int32_t layer) const;
  // The most slots times width of any layer's feed-forward, and the most experts.
  int64_t hidden_floats_a_row() const { return hidden_floats_a_row_; }
  int64_t experts_max() const { return experts_max_; }
  int64_t slots_max() const { return slots_max_; }

  bool has_draft_head() const { return has_draft_head_; }
  int64_t bytes() const { return memory_.size(); }

 private:
  struct Layer {
    GpuGdnArgs gdn;
    GpuFeedForward feed_forward;
  };
  class Uploader;
  static int32_t key(WeightRef ref);
  Layer& layer(int32_t index);
  const Layer& layer(int32_t index) const;
  void collect(const ModelConfig& config, const ModelWeights& weights, Uploader* uploader);
  void collect_layer(const ModelConfig& config, int32_t index, const LayerWeights& source, Uploader* uploader);

  std::map<int32_t, GpuMatrix> matrices_;
  std::map<int32_t, const float*> vectors_;
  std::vector<Layer> layers_;  // the draft head's behind the backbone's
  GpuMatrix embed_;
  device::Bytes memory_;
  int64_t hidden_floats_a_row_ = 0;
  int64_t experts_max_ = 0;
  int64_t slots_max_ = 1;
  bool has_draft_head_ = false;
};

}  // namespace weir
