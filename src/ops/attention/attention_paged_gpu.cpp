#include "ops/attention/attention_paged_gpu.h"

#include <algorithm>

#include "base/check.h"
#include "ops/linear/few_share.h"

namespace weir {
namespace {

constexpr int64_t kPrepareWarps = 8;
constexpr int64_t kManyRows = 256;  // from here on a block a row fills the device
// Up to so many (row, key head, segment), with more than one segment, blocks take pages: there may be as few as a
// quarter of these segments, and a block each of them would leave multiprocessors without one.
constexpr int64_t kSpreadMax = 512;
constexpr int64_t kResident = 396;       // blocks of generated rows at a time: three on each of 132 multiprocessors
constexpr int64_t kFp8Resident = 528;    // of FP8 pages: four
constexpr int64_t kShortPairs = 48;      // (row, key head) of at most a segment: so many clusters run at a time
constexpr int64_t kRowsShared = 76'416;  // three times in 228 KiB
constexpr int64_t kFp8RowsShared = 43'776;
constexpr int64_t kPromptShared = 196'864;  // 64 KiB of queries, two stages of 64 KiB
constexpr int64_t kFp8PromptShared = 229'760;
constexpr int64_t kMergeColumns = 64;
constexpr int64_t kMergeLaneThreads = 16;
constexpr int64_t kMergeWarps = 8;
constexpr int64_t kGridMax = 65'535;  // blocks along y and z

void check(const GpuPagedAttentionArgs& args) {
  WEIR_CHECK(args.kv_heads > 0 && args.heads % args.kv_heads == 0 && args.heads / args.kv_heads <= kPagedGroupMax,
             "{} heads over {}", args.heads, args.kv_heads);
  WEIR_CHECK(args.rope_half >= 0 && args.rope_half <= kPagedHeadDim / 2, "rope over {} pairs", args.rope_half);
  WEIR_CHECK(args.qg_stride % 4 == 0 && args.k_stride % 4 == 0 && args.v_stride % 4 == 0 && args.y_stride % 4 == 0,
             "rows of {}, {}, {} and {} values", args.qg_stride, args.k_stride, args.v_stride, args.y_stride);
  WEIR_CHECK(args.first == 0 || args.first == 1, "rows that see tokens from {} on", args.first);
  WEIR_CHECK(args.page_offset % 128 == 0, "a layer {} bytes into a page", args.page_offset);
}

// Four rows of 10,000 tokens are at the limit, where pages of FP8 gain (25.5 us a layer instead of 40.9) and those of
// BF16 do not (30.9 instead of 29.9).
bool spread(int64_t pairs, int64_t segments_max, bool fp8) {
  return segments_max > 1 && pairs * segments_max < kSpreadMax + (fp8 ? 1 : 0);
}

}  // namespace

void paged_attention_prepare(Gpu& gpu, const GpuPagedAttentionArgs& args, int64_t rows) {
  check(args);
  if (rows == 0) return;
  device::Grid grid;
  grid.x = rows;
  grid.y = rows < kManyRows ? (args.heads + args.kv_heads + kPrepareWarps - 1) / kPrepareWarps : 1;
  grid.threads = kPrepareWarps * 32;
  if (rows <= 8) grid.shared_split = kFewSplit;
  grid.overlap = true;
  gpu.launch(args.fp8 != 0 ? "weir_paged_prepare_fp8" : "weir_paged_prepare", grid, args);
}

void paged_attention_rows(Gpu& gpu, const GpuPagedAttentionArgs& args, int64_t count, int64_t segments_max) {
  check(args);
  WEIR_CHECK(count <= kGridMax && segments_max > 0 && segments_max <= kGridMax, "{} rows of {} segments", count,
             segments_max);
  if (count == 0) return;
  GpuPagedAttentionArgs call = args;
  const int64_t pairs = count * args.kv_heads;
  const bool fp8 = args.fp8 != 0;
  const bool pages = spread(pairs, segments_max, fp8);
  const int64_t slots = segments_max * (pages ? kPagedSegmentPages : 1);
  call.count = static_cast<int32_t>(count);
  call.spread = pages ? 1 : 0;
  call.slots = segments_max == 1 ? 0 : static_cast<int32_t>(slots);
  WEIR_CHECK(call.slots == 0 || args.partial != nullptr, "{} segments and nowhere to join them", segments_max);
  device::Grid grid;
  grid.threads = 128;
  grid.shared_bytes = fp8 ? kFp8RowsShared : kRowsShared;
  if (count <= 8) grid.shared_split = kFewSplit;  // of the merge too, which has none of its own
  grid.overlap = true;
  if (segments_max == 1 && pairs <= kShortPairs) {
    grid.x = grid.cluster = kPagedSegmentPages;
    grid.y = args.kv_heads;
    grid.z = count;
    return gpu.launch(fp8 ? "weir_paged_short_fp8" : "weir_paged_short", grid, call);
  }
  grid.x = args.kv_heads;
  grid.y = count;
  grid.z = pages ? std::clamp<int64_t>((fp8 ? kFp8Resident : kResident) / pairs, 1, slots) : slots;
  gpu.launch(fp8 ? "weir_paged_rows_fp8" : "weir_paged_rows", grid, call);
  if (call.slots == 0) return;
  grid.shared_bytes = 0;
  if (pages) {
    grid.x = kPagedHeadDim / kMergeColumns;
    grid.y = args.heads;
    grid.z = count;
    grid.threads = static_cast<int>(kMergeLaneThreads * std::clamp<int64_t>((segments_max + 1) / 2 * 2, 4, 32));
    return gpu.launch("weir_paged_merge_pages", grid, call);
  }
  grid.x = (count * args.heads * 2 + kMergeWarps - 1) / kMergeWarps;
  grid.y = grid.z = 1;
  grid.threads = kMergeWarps * 32;
  gpu.launch("weir_paged_merge_segments", grid, call);
}

int64_t paged_attention_partial_bytes(int64_t heads, int64_t kv_heads, int64_t count_max, int64_t segments_max) {
  const int64_t segments = count_max * segments_max;
  const int64_t spread_segments = std::min(segments, kSpreadMax / kv_heads);
  const int64_t slots = std::max(segments, spread_segments * kPagedSegmentPages);
  return slots * heads * (kPagedHeadDim + 2) * static_cast<int64_t>(sizeof(float));
}

std::vector<GpuPromptTile> paged_attention_tiles(std::span<const PromptRows> prompts, int64_t group) {
  WEIR_CHECK(group > 0 && group <= kPagedGroupMax, "{} query heads a key head", group);
  const int64_t tokens = paged_prompt_tokens(static_cast<int32_t>(group));
  std::vector<GpuPromptTile> tiles;
  for (const PromptRows& p : prompts) {
    for (int64_t row = 0; row < p.row_count;) {
      const int64_t position = p.position + row;
      const int64_t count = std::min(p.row_count - row, tokens - position % tokens);
      tiles.push_back({static_cast<int32_t>(p.row_begin + row), static_cast<int32_t>(count),
                       static_cast<int32_t>(p.sequence), static_cast<int32_t>(position)});
      row += count;
    }
  }
  std::stable_sort(tiles.begin(), tiles.end(),
                   [](const GpuPromptTile& a, const GpuPromptTile& b) { return a.position > b.position; });
  return tiles;
}

int64_t paged_prompt_tiles_max(int64_t rows, int64_t prompts, int64_t group) {
  const int64_t tokens = paged_prompt_tokens(static_cast<int32_t>(group));
  // A prompt's first and last tile may be broken.
  return std::min(rows, rows / tokens + 2 * prompts);
}

void paged_attention_prompt(Gpu& gpu, const GpuPagedAttentionArgs& args, int64_t tiles) {
  check(args);
  if (tiles == 0) return;
  device::Grid grid;
  grid.x = tiles * args.kv_heads;
  grid.threads = 384;
  grid.shared_bytes = args.fp8 != 0 ? kFp8PromptShared : kPromptShared;
  grid.overlap = true;
  gpu.launch(args.fp8 != 0 ? "weir_paged_prompt_fp8" : "weir_paged_prompt", grid, args);
}

}  // namespace weir
