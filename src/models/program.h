// A model as a list of typed operation records over named buffers. A model page builds it once from the config; what
// runs it (the CPU loop, graph capture) is someone else's business. Weights are named by their place in the binding
// table, so the program fits every device and every stored format.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "base/id.h"
#include "models/binding.h"
#include "plan/ids.h"

namespace weir {

using BufferId = Id<struct BufferTag>;

// What one row of a buffer stands for.
enum class RowSpace : uint8_t {
  kStep,     // a token of the step
  kSampled,  // a token of the step whose logits are wanted
};

struct BufferSpec {
  std::string name;
  int64_t width = 0;  // float32 values a row
  RowSpace space = RowSpace::kStep;
};

// A buffer from a column on.
struct BufferRef {
  BufferId buffer;
  int64_t column = 0;
};

// A weight by its place; `layer` is kNoLayer, kMtpLayer or an index.
struct WeightRef {
  Slot slot = Slot::kEmbed;
  int32_t layer = kNoLayer;
};

// y = rows of the embedding table at the step's token ids.
struct EmbedOp {
  BufferRef y;
};

// y = RMSNorm(x) * (1 + w), or * w. From kStep to kSampled the sampled rows are gathered.
struct NormOp {
  BufferRef x;
  BufferRef y;
  WeightRef weight;
};

// y_i = x W_i^T (or += when add) for up to four matrices that share x. `head` gathers nothing: x is kSampled already.
struct LinearOp {
  struct Output {
    WeightRef weight;
    BufferRef y;
    bool add = false;
  };
  BufferRef x;
  std::vector<Output> outputs;
};

// Gated attention over the paged KV of `page_class`, this layer's part at page_offset.
struct AttentionOp {
  BufferRef qg;
  BufferRef k;
  BufferRef v;
  BufferRef y;
  int32_t layer = kNoLayer;
  PageClassId page_class;
  int64_t page_offset = 0;
};

// The Gated DeltaNet mixer on this layer's part of the state slot.
struct GdnOp {
  BufferRef u;
  BufferRef z;
  BufferRef b;
  BufferRef a;
  BufferRef y;
  int32_t layer = kNoLayer;
  int64_t slot_offset = 0;
};

// y += experts (or the dense MLP) of x.
struct FeedForwardOp {
  BufferRef x;
  BufferRef y;
  int32_t layer = kNoLayer;
};

using Operation = std::variant<EmbedOp, NormOp, LinearOp, AttentionOp, GdnOp, FeedForwardOp>;

// "embed", "norm", "linear", "attention", "gdn", "moe".
std::string_view operation_name(const Operation& operation);

struct Program {
  std::string name;
  std::vector<BufferSpec> buffers;
  std::vector<Operation> body;  // over the tokens of a step
  std::vector<Operation> head;  // over the sampled rows, in blocks: a block's logits are used before the next
  BufferId hidden_in;           // rows given from outside (the draft program), else none
  BufferId normed;              // kSampled: the final norm's rows, which the draft head is fed with
  BufferId logits;              // kSampled, V wide

  const BufferSpec& buffer(BufferId id) const { return buffers[id.index()]; }
  // Whether its layers have a recurrent state.
  bool recurrent() const;
};

// Bytes of one layer's part of a page and of a slot: the device's choice of layout, asked for by the model page.
struct CacheSizes {
  int64_t kv_page_bytes = 0;
  int64_t gdn_slot_bytes = 0;
};

inline constexpr PageClassId kKvClass{0};
inline constexpr PageClassId kDraftKvClass{1};

// The backbone: tokens to logits. Pages hold the attention layers one after the other, slots the GDN layers.
Program make_main_program(const ModelConfig& config, const CacheSizes& sizes);

// The draft head: hidden rows of the backbone (or of itself) and the tokens behind them to logits of the next but one:
// of every id, or of `head_rows` > 0 ids by a head of its own (draft_head.h).
Program make_draft_program(const ModelConfig& config, int64_t head_rows = 0);

}  // namespace weir
