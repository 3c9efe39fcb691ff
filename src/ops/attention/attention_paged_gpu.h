// Gated attention over paged keys and values of bf16 or FP8 on a GPU, for heads of 256 values: y = softmax(q k^T /
// sqrt(E)) v * sigmoid(gate), float32 softmax, bf16 operands of the products. A step calls prepare once for all its
// rows, then rows for generated and prompt for prompt rows; a row's bits depend on its position and context alone,
// within each of the two, and over FP8 pages they are those over bf16 pages with the same values. All of it may be
// recorded in a graph; launches overlap the kernels before them.
#pragma once

#include <span>
#include <vector>

#include "ops/attention/attention_paged_args.h"
#include "ops/gpu/gpu.h"

namespace weir {

// Writes q, and keys and values of rows [0, rows) into their pages. Cost: 4 (E H + 2 E K) bytes read, half as many
// written a row.
void paged_attention_prepare(Gpu& gpu, const GpuPagedAttentionArgs& args, int64_t rows);

// Attends `count` generated rows, each to its positions up to its own; args.count, slots and spread are set here. No
// row has more than segments_max segments of kPagedSegment tokens; the launches depend on count and segments_max alone:
// two, or one for rows of one segment. Cost: 4 E K bytes a token of context and row, 2 (E + 1) K of FP8.
void paged_attention_rows(Gpu& gpu, const GpuPagedAttentionArgs& args, int64_t count, int64_t segments_max);

// Bytes of args.partial for calls of at most this many rows and segments.
int64_t paged_attention_partial_bytes(int64_t heads, int64_t kv_heads, int64_t count_max, int64_t segments_max);

// Tokens [position, position + row_count) of a sequence: rows from row_begin on.
struct PromptRows {
  int64_t row_begin = 0;
  int64_t row_count = 0;
  int64_t sequence = 0;
  int64_t position = 0;
};

// The tiles that cover these rows, the longest contexts first. At most paged_prompt_tiles_max of them.
std::vector<GpuPromptTile> paged_attention_tiles(std::span<const PromptRows> prompts, int64_t group);
int64_t paged_prompt_tiles_max(int64_t rows, int64_t prompts, int64_t group);

// Attends the rows of args.tiles[0, tiles). Cost: 4 E H operations a token of context and row.
void paged_attention_prompt(Gpu& gpu, const GpuPagedAttentionArgs& args, int64_t tiles);

}  // namespace weir
