// The weights of a model in a GPU's memory in the order of ops/linear/packed.h, found by their place in the binding
// table.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "base/result.h"
#include "models/config.h"
#include "models/program.h"
#include "models/weights.h"
#include "ops/gdn/gdn_packed_args.h"
#include "ops/gpu/gpu.h"
#include "ops/linear/packed.h"

namespace weir {

// A sparse layer, or a dense one: then the table holds one MLP and there is no router.
struct PackedFeedForward {
  GpuPacked router;                     // n 0: dense
  GpuPacked shared_gate;                // n 0: no shared expert
  std::vector<GpuPackedMlp> mlps;       // experts, then the shared one; or the dense one
  const GpuPackedMlp* table = nullptr;  // the same on the device
  int32_t experts = 0;                  // X
  int32_t top_k = 0;
  int32_t shared = 0;
  int32_t width = 0;          // F
  int32_t format = 0;         // of the routed experts, or of the dense MLP
  int32_t shared_format = 0;  // of the shared expert; `format` where there is none
  // Bytes from one MLP's weights to the next one's, of every kind, of those of the routed experts' format; 0: they lie
  // otherwise.
  int64_t stride = 0;

  int32_t slots() const { return router.n > 0 ? top_k + shared : 1; }
  bool shared_apart() const { return shared != 0 && shared_format != format; }
};

// Why the packed path does not take a model, or nothing.
Status packed_takes(const ModelConfig& config);

// takes_e4m3() of what they become.
bool takes_e4m3(const WeightMatrix& w);
bool takes_e4m3(const MlpWeights& mlp);

class PackedWeights {
 public:
  // Copies every matrix once and packs it on the device; `weights` may be released afterwards. kTooLarge: the device's
  // memory does not hold them. kUnsupported: a matrix has no packed form.
  static Result<PackedWeights> upload(const ModelConfig& config, const ModelWeights& weights, Gpu gpu);

  const GpuPacked& matrix(WeightRef ref) const;
  const float* vector(WeightRef ref) const;
  const GpuMatrix& embedding() const { return embed_; }
  // Shape and parameters filled in; buffers and sequences are the caller's.
  const GpuGdnPackedArgs& gdn(int32_t layer) const { return layers_.at(index(layer)).gdn; }
  const PackedFeedForward& feed_forward(int32_t layer) const { return layers_.at(index(layer)).feed_forward; }

  bool has_draft_head() const { return has_draft_head_; }
  int64_t bytes() const { return memory_.size(); }

 private:
  struct Layer {
    GpuGdnPackedArgs gdn;
    PackedFeedForward feed_forward;
  };
  class Uploader;
  static int32_t key(WeightRef ref);
  size_t index(int32_t layer) const { return layer == kMtpLayer ? layers_.size() - 1 : static_cast<size_t>(layer); }
  void collect(const ModelConfig& config, const ModelWeights& weights, Uploader* uploader);
  void collect_layer(const ModelConfig& config, int32_t index, const LayerWeights& source, Uploader* uploader);

  std::map<int32_t, GpuPacked> matrices_;
  std::map<int32_t, const float*> vectors_;
  std::vector<Layer> layers_;  // the draft head's behind the backbone's
  GpuMatrix embed_;
  device::Bytes memory_;
  bool has_draft_head_ = false;
};

}  // namespace weir
