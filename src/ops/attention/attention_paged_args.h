// Arguments of attention over paged keys and values of bf16 or FP8, and the layouts of their pages; shared by host code
// and kernels. Heads of E = 256 values, H query heads over K key heads, at most 16 query heads a key head.
//
// A layer's part of a page of 64 tokens: per key head the keys [64 tokens][E], then the values, each a tile of 32 KiB:
// four quarters of 64 columns, each [64 tokens][128 bytes], the 16-byte chunks of a token's 128 bytes exchanged: chunk
// c of token t stands at c ^ (t % 8). A tile is one contiguous copy, and what both kinds of matrix products read
// without bank conflicts. Tiles are aligned to 128 bytes.
//
// Of FP8 (tensor/fp8_row.h: a row is a token's E keys, or values, of a key head): per key head the keys' codes [64
// tokens][E], their scales [64], then the values' codes and theirs. The 16-byte chunks of 16 columns are exchanged as
// above within each eight of them; byte 2 j of a chunk is its column j, byte 2 j + 1 its column 8 + j, so that every
// other byte of a word is what a lane of a matrix product takes.
#pragma once

#include <cstdint>

#include "ops/attention/gpu_args.h"

namespace weir {

inline constexpr int32_t kPagedHeadDim = 256;
inline constexpr int32_t kPagedGroupMax = 16;  // query heads of a key head: the rows of a matrix product
inline constexpr int32_t kPagedTokens = 64;    // of a page
inline constexpr int32_t kPagedQuarter = kPagedTokens * 128;
inline constexpr int32_t kPagedTileBytes = 4 * kPagedQuarter;

inline constexpr int32_t kPagedFp8Codes = kPagedTokens * kPagedHeadDim;
inline constexpr int32_t kPagedFp8TileBytes = kPagedFp8Codes + kPagedTokens;  // with the scales

// A generated row's softmax runs over pages; those of a segment are joined in ascending order, then the segments.
inline constexpr int32_t kPagedSegmentPages = 8;
inline constexpr int32_t kPagedSegment = kPagedSegmentPages * kPagedTokens;
// Rows of a tile of prompt rows times the query heads of a key head.
inline constexpr int32_t kPagedPromptRows = 128;

// Bytes of one layer's part of a page.
constexpr int64_t paged_kv_bytes(int64_t kv_heads, bool fp8) {
  return kv_heads * 2 * (fp8 ? kPagedFp8TileBytes : kPagedTileBytes);
}
// Byte of a tile at which value `column` of a token stands.
constexpr int32_t paged_tile_byte(int32_t token, int32_t column) {
  return column / 64 * kPagedQuarter + token * 128 + (((column / 8) ^ token) % 8) * 16 + column % 8 * 2;
}
// The same of FP8.
constexpr int32_t paged_fp8_byte(int32_t token, int32_t column) {
  return token * kPagedHeadDim + ((column / 16) ^ (token % 8)) * 16 + column % 8 * 2 + column / 8 % 2;
}
// Tokens of a tile of prompt rows: a power of two that divides a page, so that every row of a tile ends in the same
// page, with at most 128 rows of heads.
constexpr int32_t paged_prompt_tokens(int32_t group) {
  int32_t tokens = kPagedTokens;
  while (tokens * group > kPagedPromptRows) tokens /= 2;
  return tokens;
}

// Rows [row_begin, row_begin + row_count) of the step: tokens from `position` on, within one aligned run of
// paged_prompt_tokens. row_count 0: nothing.
struct GpuPromptTile {
  int32_t row_begin = 0;
  int32_t row_count = 0;
  int32_t sequence = 0;
  int32_t position = 0;
};

// T rows; a row with a negative position is left alone. All strides are in elements; the float32 rows are aligned to 16
// bytes, page addresses and page_offset to 128.
struct GpuPagedAttentionArgs {
  const float* qg = nullptr;      // [T][H * 2E]: per head E query, then E gate values
  const float* k = nullptr;       // [T][K * E]
  const float* v = nullptr;       // [T][K * E]
  uint16_t* q = nullptr;          // [T][H * E], bf16: normed and rotated queries; prepare writes, the others read
  uint16_t* y = nullptr;          // [T][H * E], of y_type
  const float* q_norm = nullptr;  // [E], zero-centred
  const float* k_norm = nullptr;
  const double* coarse = nullptr;  // as in GpuAttentionArgs
  const double* fine = nullptr;
  const GpuRow* rows = nullptr;            // [T]
  uint8_t* const* const* pages = nullptr;  // per sequence: its pages' bases
  // Generated rows: row i of a call is row_list[i], or first_row + i without a list.
  const int32_t* row_list = nullptr;
  float* partial = nullptr;  // paged_attention_partial_bytes; one call at a time
  const GpuPromptTile* tiles = nullptr;
  int64_t qg_stride = 0;
  int64_t k_stride = 0;
  int64_t v_stride = 0;
  int64_t y_stride = 0;
  int64_t page_offset = 0;  // bytes from a page's base to this layer's part
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t rope_half = 0;
  float eps = 1e-6F;
  int32_t first_row = 0;
  int32_t y_type = 0;  // 0: bf16, 1: f16 (kOperandBf16, kOperandF16 of ops/linear/packed.h)
  // At most so many tokens of a sequence are new in the step: what is older is read before the kernels before have
  // ended. 0: any number.
  int32_t fresh = 0;
  // 1: no row sees token 0, and none is at position 0; 0: rows see all before them.
  int32_t first = 0;
  // Set by paged_attention_rows: rows of the call, states kept for each (row, head), and whether a state is that of a
  // page (otherwise of a segment). slots 0: the only segment is finished at once.
  int32_t count = 0;
  int32_t slots = 0;
  int32_t spread = 0;
  int32_t fp8 = 0;  // 1: pages of FP8
};

}  // namespace weir
