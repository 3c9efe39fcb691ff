// The weights of a model in host memory: views into the mapped checkpoint where the stored form is used as it is, owned
// copies where loading changes it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "models/binding.h"
#include "models/config.h"
#include "plan/ids.h"
#include "tensor/dtype.h"
#include "weights/checkpoint.h"

namespace weir {

// Gated DeltaNet mixer. nk/nv heads of dk/dv; C = 2 nk dk + nv dv.
struct GdnWeights {
  WeightMatrix in_qkv;  // [C, D]: all q heads, all k heads, all v heads
  WeightMatrix in_z;    // [nv * dv, D]
  WeightMatrix in_b;    // [nv, D]
  WeightMatrix in_a;    // [nv, D]
  WeightMatrix out;     // [D, nv * dv]
  VectorView conv;      // [C * 4]: four taps a channel, the last multiplies the current token
  VectorView a_log;     // [nv]
  VectorView dt_bias;   // [nv]
  VectorView norm;      // [dv], plain (not 1 + w)
};

struct AttentionWeights {
  WeightMatrix q;     // [2 H E, D]: per head E query rows, then E gate rows
  WeightMatrix k;     // [K E, D]
  WeightMatrix v;     // [K E, D]
  WeightMatrix o;     // [D, H E]
  VectorView q_norm;  // [E], zero-centred
  VectorView k_norm;  // [E], zero-centred
};

// down(silu(gate x) * up x).
struct MlpWeights {
  WeightMatrix gate;  // [F, D]
  WeightMatrix up;    // [F, D]
  WeightMatrix down;  // [D, F]
};

struct MoeWeights {
  WeightMatrix router;       // [X, D]
  WeightMatrix shared_gate;  // [1, D]
  MlpWeights shared;
  std::vector<MlpWeights> experts;  // X
};

struct LayerWeights {
  LayerKind kind = LayerKind::kLinear;
  VectorView input_norm;       // [D], zero-centred
  VectorView post_norm;        // [D], zero-centred
  GdnWeights gdn;              // kLinear
  AttentionWeights attention;  // kFull
  MoeWeights moe;              // config.moe()
  MlpWeights dense;            // otherwise
};

// The multi-token prediction head: one full-attention layer of the model's own MLP kind.
struct MtpWeights {
  WeightMatrix fc;            // [D, 2 D]: embedding columns first
  VectorView norm_embedding;  // [D], zero-centred
  VectorView norm_hidden;     // [D], zero-centred
  VectorView norm;            // [D], zero-centred
  LayerWeights layer;
  // What drafts are drawn from, where that is not lm_head (draft_head.h).
  WeightMatrix head;              // [head_ids, D]; n is 0: lm_head
  std::vector<TokenId> head_ids;  // of its rows
};

// Owned memory that views point into; addresses are stable and aligned to 64 bytes (a cache line, and a vector
// register). Taken from the system in blocks that grow with the whole, on huge pages where it grants them.
class WeightStore {
 public:
  WeightStore() = default;
  WeightStore(WeightStore&&) noexcept = default;
  WeightStore& operator=(WeightStore&&) noexcept = default;
  std::span<std::byte> allocate(int64_t bytes);
  // Bytes handed out.
  int64_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(std::byte* block) const;
  };
  std::vector<std::unique_ptr<std::byte[], Free>> blocks_;
  std::span<std::byte> left_;  // of the last block
  int64_t bytes_ = 0;
};

struct ModelWeights {
  WeightMatrix embed;    // [V, D], BF16 or F32
  WeightMatrix lm_head;  // [V, D]; the same view as `embed` when tied
  VectorView final_norm;
  std::vector<LayerWeights> layers;
  std::optional<MtpWeights> mtp;
  WeightStore store;

  // Bytes of all the weights as stored (a tied head counts once).
  int64_t total_bytes = 0;
};

// The prefix of the text tensors in this checkpoint: a text model exported from a nested config may carry either, and
// the embedding's name tells. The config's own where neither is found.
std::string find_prefix(const ModelConfig& config, const Checkpoint& checkpoint);

// What the tensors' names say beyond the config; `config.prefix` is the checkpoint's.
BindingVariant find_variant(const ModelConfig& config, const Checkpoint& checkpoint);

// Binds every tensor of `checkpoint` to its place. Matrices keep their stored format, which is read from each tensor's
// own dtype and scales; their views point into the checkpoint, which must outlive the weights (data is aligned to its
// element: misaligned tensors are copied). qwen3_next projections are de-interleaved into copies. Errors (kCorrupt)
// name the tensor: missing ones (the first 8 and a count), unknown ones (model.visual.* is skipped), wrong shapes and
// dtypes with what was expected and found.
Result<ModelWeights> load_weights(const ModelConfig& config, const Checkpoint& checkpoint);

// What `load_weights` would refuse, found from the headers alone.
Status check_weights(const ModelConfig& config, const Checkpoint& checkpoint);

// The place of a slot; `layer` is kNoLayer, kMtpLayer or an index, `expert` matters to the expert slots alone. nullptr
// where the model has none: an MTP slot of a model without the head, or a slot that loading turns into others
// (kGdnQkvz, kGdnBa, kExpertsGateUp, kExpertsDown).
WeightMatrix* find_matrix(ModelWeights* weights, Slot slot, int32_t layer, int32_t expert = kNoExpert);
VectorView* find_vector(ModelWeights* weights, Slot slot, int32_t layer);
const WeightMatrix* find_matrix(const ModelWeights& weights, Slot slot, int32_t layer, int32_t expert = kNoExpert);
const VectorView* find_vector(const ModelWeights& weights, Slot slot, int32_t layer);

// Weights with every layer, expert and (if `mtp`) draft head in place and nothing in them yet.
ModelWeights empty_weights(const ModelConfig& config, bool mtp);

// Random weights of the config's shapes, no file read; every tensor has its own memory. Linears that official
// checkpoints quantise get `format` (kBf16, kFp8Block or kMxfp4; where K does not suit the format, BF16), the rest
// BF16. Scaled so that activations stay near 1 and routing looks random: over M tokens a layer uses about X (1 - (1 -
// k/X)^M) experts. Equal for equal seeds, whatever the number of threads. `mtp` adds the draft head.
Result<ModelWeights> dummy_weights(const ModelConfig& config, WeightFormat format, uint64_t seed, bool mtp = true);

// The shapes, formats and total bytes of what dummy_weights() would make, with no data behind them.
Result<ModelWeights> dummy_shapes(const ModelConfig& config, WeightFormat format, bool mtp = true);

}  // namespace weir
