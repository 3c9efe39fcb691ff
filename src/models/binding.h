// The one table that ties a checkpoint's tensor names to places in the model: the loader, its self-tests, dummy weights
// and tensor parallelism all read it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "models/config.h"
#include "tensor/dtype.h"
#include "tensor/shape.h"

namespace weir {

// Where a tensor goes. Shapes in comments: D hidden, X experts, F expert width, nk/nv GDN heads, C = qkv width.
enum class Slot : uint8_t {
  kEmbed,      // [V, D]
  kFinalNorm,  // [D]
  kLmHead,     // [V, D]; absent when tied
  kInputNorm,  // [D]
  kPostNorm,   // [D]
  // Gated DeltaNet.
  kGdnQkv,     // [C, D]
  kGdnZ,       // [nv * dv, D]
  kGdnB,       // [nv, D]
  kGdnA,       // [nv, D]
  kGdnQkvz,    // [2 nk dk + 2 nv dv, D], interleaved per key head (qwen3_next)
  kGdnBa,      // [2 nv, D], interleaved per key head (qwen3_next)
  kGdnConv,    // [C, 1, 4]
  kGdnALog,    // [nv]
  kGdnDtBias,  // [nv]
  kGdnNorm,    // [dv]
  kGdnOut,     // [D, nv * dv]
  // Gated attention.
  kAttnQ,      // [2 H E, D]: per head E query rows, then E gate rows
  kAttnK,      // [K E, D]
  kAttnV,      // [K E, D]
  kAttnO,      // [D, H E]
  kAttnQNorm,  // [E]
  kAttnKNorm,  // [E]
  // Mixture of experts.
  kRouter,          // [X, D]
  kSharedGate,      // [1, D]: scales the shared expert's output
  kSharedGateProj,  // [S, D]
  kSharedUpProj,    // [S, D]
  kSharedDownProj,  // [D, S]
  kExpertsGateUp,   // [X, 2 F, D] fused: F gate rows, then F up rows
  kExpertsDown,     // [X, D, F] fused
  kExpertGate,      // [F, D]
  kExpertUp,        // [F, D]
  kExpertDown,      // [D, F]
  // Dense MLP.
  kDenseGate,  // [dense, D]
  kDenseUp,    // [dense, D]
  kDenseDown,  // [D, dense]
  // Multi-token prediction head; its layer uses the slots above with layer == kMtpLayer.
  kMtpFc,             // [D, 2 D]: embedding columns first
  kMtpNormEmbedding,  // [D]
  kMtpNormHidden,     // [D]
  kMtpNorm,           // [D]
  kMtpHead,           // [ids, D]: in no checkpoint, see draft_head.h
};

// Which stored dtypes a slot accepts and what loading makes of it.
enum class DTypeRule : uint8_t {
  kVector,       // BF16 or F32, becomes float32
  kPlainMatrix,  // BF16 or F32, kept as stored
  kMatrix,       // BF16, F32, block FP8, row FP8 or MXFP4, kept as stored
};

// How a tensor-parallel group cuts it.
enum class ShardRule : uint8_t {
  kReplicate,
  kRows,          // output rows, evenly
  kColumns,       // input columns, evenly
  kHeadRows,      // rows by query head (pairs of query and gate rows stay together)
  kKvHeadRows,    // rows by key/value head; replicated once ranks outnumber heads
  kHeadColumns,   // columns by query head
  kGdnSections,   // q, k and v sections each by key-head group
  kGdnRows,       // rows (or elements) by value head, grouped by key head
  kGdnColumns,    // columns by value head, grouped by key head
  kGdnKeyGroups,  // rows by key head: the interleaved projections
  kExpertRows,    // expert width along rows; whole experts under expert parallelism
  kExpertColumns,
  kFusedExpertRows,  // gate and up sections each
};

inline constexpr int32_t kNoLayer = -1;
inline constexpr int32_t kMtpLayer = -2;
inline constexpr int32_t kNoExpert = -1;

struct Binding {
  std::string name;  // of the checkpoint's tensor, whole
  Slot slot = Slot::kEmbed;
  int32_t layer = kNoLayer;
  int32_t expert = kNoExpert;
  Shape shape;  // of the unquantised tensor
  DTypeRule rule = DTypeRule::kVector;
  ShardRule shard = ShardRule::kReplicate;
};

// What a config does not say and the tensor names do.
struct BindingVariant {
  bool fused_experts = false;      // backbone: `experts.gate_up_proj` instead of a tensor per expert
  bool fused_mtp_experts = false;  // the same in the MTP layer
  bool mtp = false;                // mtp.* tensors are there
};

// Every tensor of the text model, in the order of the layers; the MTP head last.
std::vector<Binding> make_bindings(const ModelConfig& config, const BindingVariant& variant);

// The published layouts that are known by their totals.
enum class StorageLayout : uint8_t {
  kBf16,      // every tensor BF16
  kFp8Block,  // official -FP8: linears FP8 with BF16 block scales, per-expert names
  kMxfp4,     // AMD Quark: routed experts of the backbone U8 codes and U8 scales, the rest BF16
};

// The format that a layout gives to a slot's tensor (`layer` tells the MTP layer, which Quark leaves alone).
WeightFormat stored_format(StorageLayout layout, Slot slot, int32_t layer);

struct StoredTensor {
  std::string name;
  DType dtype = DType::kBf16;
  Shape shape;
  int64_t bytes() const { return shape.elements() * dtype_bytes(dtype); }
};

// Adds what `binding` becomes on disk: the tensor, and its scales where the layout quantises it. `gdn_f32`: A_log and
// the GDN norm are F32 (the 122B and 397B checkpoints).
void append_stored(const Binding& binding, StorageLayout layout, bool gdn_f32, std::vector<StoredTensor>* out);

std::string_view slot_name(Slot slot);

}  // namespace weir
