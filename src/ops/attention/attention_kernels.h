#pragma once

#include <cstddef>
#include <cstdint>

namespace weir {

inline constexpr int64_t kAttentionBlock = 64;  // tokens of a softmax block: one page
// Tokens of a segment: the softmax runs online over the blocks of a segment, then segments are merged in ascending
// order, so a long context of few rows can be computed by several threads with the bits of one.
inline constexpr int64_t kAttentionSegment = 512;

// One row: norm, rotation and scale of its queries; its keys and values go to column `column` of the page.
struct AttentionPrepareRow {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t value_stride = 0;  // head_dim rounded up to 16: between the page's value rows
  int64_t rope_half = 0;
  float eps = 0;
  float scale = 0;
  const float* qg = nullptr;
  const float* k = nullptr;
  const float* v = nullptr;
  const float* q_norm = nullptr;
  const float* k_norm = nullptr;
  const float* cos = nullptr;
  const float* sin = nullptr;
  float* q = nullptr;     // [H * E]
  float* temp = nullptr;  // [E]; without a page [K * E], where the keys are left
  float* page = nullptr;  // this layer's part; null: somebody else puts keys and values into it
  int64_t column = 0;
};

// Softmax state of `units` = rows * group (query heads of one key head), unit = row * group + head.
struct AttendState {
  float* max = nullptr;  // [units]; -infinity: no token of the segment is visible to the row
  float* sum = nullptr;  // [units][16] lanes of the sum of exponentials
  float* out = nullptr;  // [units][value_stride]
};

struct AttendSegment {
  int64_t head_dim = 0;
  int64_t value_stride = 0;
  int64_t group = 0;
  int64_t rows = 0;
  int64_t position = 0;      // of the first row
  int64_t first = 0;         // tokens before it are not seen; in the first block
  const float* q = nullptr;  // row 0, first head of the group; heads are head_dim apart
  int64_t q_stride = 0;
  std::byte* const* pages = nullptr;
  int64_t page_offset = 0;  // to this layer's and key head's part
  int64_t token_begin = 0;  // the segment, a multiple of 64
  int64_t token_end = 0;
  AttendState state;                  // overwritten
  float* expanded = nullptr;          // of FP8 pages: [64][E rounded up to 4] and [64][value_stride], for a block
  float* scores = nullptr;            // [units][64]
  const float** rows_of_a = nullptr;  // [2 * units]
};

// into = merge(into, from), from being the later segment.
struct AttendMerge {
  int64_t units = 0;
  int64_t value_stride = 0;
  AttendState into;
  AttendState from;
};

// y = out / sum * sigmoid(gate).
struct AttendFinish {
  int64_t rows = 0;
  int64_t group = 0;
  int64_t head_dim = 0;
  int64_t value_stride = 0;
  AttendState state;
  const float* gate = nullptr;  // row 0, first head of the group; heads are 2 * head_dim apart
  int64_t gate_stride = 0;
  float* y = nullptr;  // row 0, first head; heads are head_dim apart
  int64_t y_stride = 0;
};

}  // namespace weir
