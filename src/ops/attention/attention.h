// Gated attention over paged keys and values.
//
// Page layout (float32), per key head: keys transposed [E][64 tokens], then values [64 tokens][E]. Token t of a
// sequence lies in its page t / 64, column t % 64. Pages of FP8 (tensor/fp8_row.h; a row is a token's keys, or values,
// of a key head) are in attention_fp8_pages.h. Softmax runs online over absolute 64-token blocks in ascending order, so
// the bits of a row depend on its position and its context alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ops/cpu/cpu.h"

namespace weir {

inline constexpr int64_t kKvPageTokens = 64;

struct AttentionShape {
  int64_t heads = 0;     // H, a multiple of kv_heads: query head j reads key head j / (H / kv_heads)
  int64_t kv_heads = 0;  // K
  int64_t head_dim = 0;  // E
  int64_t rope_dim = 0;  // even, <= E: the first rope_dim dims are rotated (half-split pairs i, i + rope_dim / 2)
  float eps = 1e-6F;     // of the query and key norms
  bool fp8 = false;      // pages of FP8
};

// Bytes of one layer's part of a page: K * 2 * E * 64 * 4, of FP8 K * 2 * (E + 4) * 64; E rounded up.
int64_t kv_page_bytes(const AttentionShape& shape);

// Cosines and sines of position * theta^(-2i / rope_dim), to float32 rounding, from two small double tables.
class RopeTable {
 public:
  RopeTable() = default;
  RopeTable(int64_t rope_dim, double theta, int64_t positions);
  int64_t rope_dim() const { return 2 * half_; }
  int64_t positions() const { return positions_; }
  // cos[rope_dim / 2], sin[rope_dim / 2] of one position.
  void at(int64_t position, float* cos, float* sin) const;

  // The rotation of position p is coarse[p / 256] times fine[p % 256]: tables [.][rope_dim / 2].
  struct Turn {
    double cos;
    double sin;
  };
  std::span<const Turn> coarse() const { return coarse_; }
  std::span<const Turn> fine() const { return fine_; }

 private:
  int64_t half_ = 0;
  int64_t positions_ = 0;
  std::vector<Turn> coarse_;  // [ceil(positions / 256)][half]
  std::vector<Turn> fine_;    // [256][half]
};

// Rows [row_begin, row_begin + row_count) of the step are tokens [position, position + row_count) of one sequence.
// pages[i] is the base of the page of tokens [64 i, 64 i + 64); all up to the last row's page must be there.
// No row sees a token before `first`, [0, 63] and at most `position`; what their columns hold may be anything.
struct KvSequence {
  int64_t row_begin = 0;
  int64_t row_count = 0;
  int64_t position = 0;
  std::byte* const* pages = nullptr;
  int64_t first = 0;
  int64_t page_count = 0;  // pages that are there, where later passes of the step need more than these rows; 0: unsaid
};

struct AttentionArgs {
  AttentionShape shape;
  const float* qg = nullptr;  // [T, H * 2E], per head E query then E gate values, as q_proj gives them
  int64_t qg_stride = 0;
  const float* k = nullptr;  // [T, K * E]
  int64_t k_stride = 0;
  const float* v = nullptr;  // [T, K * E]
  int64_t v_stride = 0;
  const float* q_norm = nullptr;  // [E], zero-centred
  const float* k_norm = nullptr;  // [E], zero-centred
  const RopeTable* rope = nullptr;
  std::span<const KvSequence> sequences;
  int64_t page_offset = 0;  // bytes from a page's base to this layer's part
  float* y = nullptr;       // [T, H * E]: softmax(q k^T / sqrt(E)) v * sigmoid(gate); must not overlap the inputs
  int64_t y_stride = 0;
};

// Norms and rotates queries and keys, writes keys and values of all rows into their pages, then attends. Causal. Two
// parallel regions. Cost: reads each context page once per 16 query rows of a key head, at most.
void attention(Cpu& cpu, const AttentionArgs& args);

// Scratch for steps of at most `rows` rows.
int64_t attention_scratch_bytes(const AttentionShape& shape, int64_t rows, int threads);

}  // namespace weir
