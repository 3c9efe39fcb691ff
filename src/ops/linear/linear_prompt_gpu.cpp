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

PromptShape prompt_shape(int64_t rows, int64_t strips, int64_t multiprocessors, bool e4m3) {
  // Clocks of 64 k: the matrix units', 4 a row of x for 8 strips (of e4m3 2), or bringing 8 KB of FP8 weights and the
  // rows at 40 bytes a clock, or what a stage costs at the least.
  struct Choice {
    PromptShape shape;
    int64_t clocks;
    int64_t clocks_e4m3;
  };
  constexpr Choice kChoices[] = {{{8, 128, 128}, 614, 410}, {{8, 64, 64}, 410, 307},  {{8, 32, 32}, 307, 256},
                                 {{8, 16, 16}, 256, 230},   {{4, 64, 128}, 512, 307}, {{4, 32, 64}, 307, 205},
                                 {{4, 16, 32}, 205, 154}};
  PromptShape best;
  int64_t best_clocks = 0;
  for (const Choice& choice : kChoices) {
    const int64_t units = ceil_div(rows, choice.shape.rows) * ceil_div(strips, choice.shape.strips);
    const int64_t clocks = ceil_div(units, multiprocessors) * (e4m3 ? choice.clocks_e4m3 : choice.clocks);
    if (best_clocks == 0 || clocks < best_clocks) {
      best = choice.shape;
      best_clocks = clocks;
    }
  }
  return best;
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
  const bool e4m3 = args.x_e4m3 != nullptr;
  WEIR_CHECK(args.x_stride % (e4m3 ? 16 : 8) == 0 && first.k % 8 == 0 && args.x_stride >= first.k,
             "K {} and rows {} apart", first.k, args.x_stride);
  WEIR_CHECK(!e4m3 || (args.x_scales != nullptr && args.scale_stride >= args.rows),
             "{} quantised rows, scales {} apart", args.rows, args.scale_stride);
  int32_t tile_bytes = 0;
  int64_t strips = 0;
  for (int32_t i = 0; i < args.count; ++i) {
    const GpuPacked& w = args.outputs[i].weight;
    WEIR_CHECK(w.n > 0 && w.n <= w.strips * kStripRows && w.k == first.k && w.tiles == ceil_div(w.k, kTileK) &&
                   packed_tile_bytes(w.format) > 0,
               "a packed matrix of {} x {} in format {} beside K {}", w.n, w.k, w.format, first.k);
    WEIR_CHECK(!e4m3 || takes_e4m3(w), "quantised rows for a matrix in format {}, K {}", w.format, w.k);
    WEIR_CHECK(e4m3 || (operand_type(w.format) == kOperandF16 ? args.x_f16 : args.x_bf16) != nullptr,
               "no rows for a matrix in format {}", w.format);
    tile_bytes = std::max(tile_bytes, packed_tile_bytes(w.format));
    strips += w.strips;
  }
  const PromptShape shape = prompt_shape(args.rows, strips, gpu.device->info().multiprocessors, e4m3);
  args.strips = shape.strips;
  args.columns = shape.columns;
  args.unit_rows = shape.rows;
  args.row_tiles = 0;
  for (int32_t i = 0; i < args.count; ++i) {
    args.row_tiles += static_cast<int32_t>(ceil_div(args.outputs[i].weight.strips, shape.strips));
    args.outputs[i].tile_end = args.row_tiles;
  }
  args.token_tiles = static_cast<int32_t>(ceil_div(args.rows, args.unit_rows));
  const PromptStages stages = prompt_stages(tile_bytes, 0, e4m3);
  args.slots = stages.slots;
  args.weight_bytes = stages.weight_bytes;
  gpu.launch(e4m3 ? "weir_linear_prompt_e4m3" : "weir_linear_prompt",
             prompt_grid(gpu, int64_t{args.row_tiles} * args.token_tiles, stages), args);
}

}  // namespace weir
