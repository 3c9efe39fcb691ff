#include "ops/linear/linear_prompt_gpu.h"

#include <algorithm>

#include "base/check.h"

namespace weir {
namespace {

constexpr int kThreads = 384;  // two warpgroups that compute, one that brings

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

int32_t prompt_unit_rows(int64_t rows, int64_t row_tiles, int64_t multiprocessors) {
  struct Size {
    int32_t rows;
    int64_t clocks;  // of a block of K: the matrix units' for 128 rows, below that mostly turning weights into bf16
  };
  constexpr Size kSizes[] = {{128, 1100}, {64, 600}, {32, 500}};
  Size best = kSizes[0];
  int64_t best_clocks = 0;
  for (const Size& size : kSizes) {
    const int64_t rounds = ceil_div(ceil_div(rows, size.rows) * row_tiles, multiprocessors);
    if (best_clocks == 0 || rounds * size.clocks < best_clocks) {
      best = size;
      best_clocks = rounds * size.clocks;
    }
  }
  return best.rows;
}

device::Grid prompt_grid(const Gpu& gpu, int64_t units, const PromptStages& stages) {
  device::Grid grid;
  grid.x = std::min<int64_t>(units, gpu.device->info().multiprocessors);
  grid.threads = kThreads;
  grid.shared_bytes = stages.shared_bytes;
  grid.overlap = true;
  return grid;
}

void linear_prompt(Gpu& gpu, GpuPromptArgs args) {
  WEIR_CHECK(args.count > 0 && args.count <= kGpuLinearGroupMax, "{} matrices", args.count);
  WEIR_CHECK(args.rows >= 0 && args.rows <= kPromptRowsMax, "{} rows", args.rows);
  if (args.rows == 0) return;
  const GpuPacked& first = args.outputs[0].weight;
  WEIR_CHECK(args.x_stride % 8 == 0 && first.k % 8 == 0 && args.x_stride >= first.k, "K {} and rows {} apart", first.k,
             args.x_stride);
  int32_t tile_bytes = 0;
  args.row_tiles = 0;
  for (int32_t i = 0; i < args.count; ++i) {
    const GpuPacked& w = args.outputs[i].weight;
    WEIR_CHECK(w.n > 0 && w.n <= w.strips * kStripRows && w.k == first.k && w.tiles == ceil_div(w.k, kTileK) &&
                   packed_tile_bytes(w.format) > 0,
               "a packed matrix of {} x {} in format {} beside K {}", w.n, w.k, w.format, first.k);
    tile_bytes = std::max(tile_bytes, packed_tile_bytes(w.format));
    args.row_tiles += static_cast<int32_t>(ceil_div(w.strips, kPromptStrips));
    args.outputs[i].tile_end = args.row_tiles;
  }
  args.unit_rows = prompt_unit_rows(args.rows, args.row_tiles, gpu.device->info().multiprocessors);
  args.token_tiles = static_cast<int32_t>(ceil_div(args.rows, args.unit_rows));
  const PromptStages stages = prompt_stages(tile_bytes);
  args.slots = stages.slots;
  args.weight_bytes = stages.weight_bytes;
  gpu.launch("weir_linear_prompt", prompt_grid(gpu, int64_t{args.row_tiles} * args.token_tiles, stages), args);
}

}  // namespace weir
