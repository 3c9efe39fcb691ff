#include "ops/moe/moe_prompt_gpu.h"

#include <algorithm>
#include <string_view>

#include "base/check.h"
#include "ops/linear/linear_prompt_gpu.h"
#include "ops/quantize/quantize_rows_gpu.h"

namespace weir {
namespace {

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Lays out work memory from `work` on, which may be null to measure; returns its end. `e4m3`: of quantised rows.
int64_t lay_out(GpuMoePromptArgs* args, std::byte* work, bool e4m3) {
  int64_t bytes = 0;
  const auto take = [&]<class T>(T** pointer, int64_t count) {
    if (work != nullptr) *pointer = reinterpret_cast<T*>(work + bytes);
    bytes += ceil_div(count * static_cast<int64_t>(sizeof(T)), 256) * 256;
  };
  const int64_t assignments = int64_t{args->rows} * args->slots;
  take(&args->counts, ceil_div(args->rows, kMoePromptChunk) * args->experts_total);
  take(&args->list, assignments);
  take(&args->positions, assignments);
  take(&args->tiles, assignments / kPromptTokens + args->experts_total);
  take(&args->tile_count, 1);
  take(&args->counters, 2);
  take(&args->hidden, assignments * args->width);
  take(&args->products, assignments * ceil_div(args->columns, kMoePromptColumns) * kMoePromptColumns);
  if (e4m3) {
    take(&args->hidden_e4m3, assignments * args->width);
    take(&args->hidden_scales, assignments * (args->width / kBlockK));
  }
  return bytes;
}

// Places the assignments of all rows; bounded by the latency of its memory.
void place(Gpu& gpu, const GpuMoePromptArgs& args) {
  device::Grid grid;
  grid.x = ceil_div(args.rows, kMoePromptChunk);
  grid.threads = static_cast<int>(ceil_div(args.experts_total, 32) * 32);  // an expert a thread, whole warps
  grid.overlap = true;
  if (grid.x > 1) gpu.launch("weir_moe_prompt_count", grid, args);
  gpu.launch("weir_moe_prompt_place", grid, args);
}

// Launches a kernel over units of experts' matrices with up to `n` rows.
void products(Gpu& gpu, std::string_view kernel, GpuMoePromptArgs args, int64_t n, int32_t beside) {
  const PromptStages stages = prompt_stages(args.tile_bytes, beside, args.x_e4m3 != nullptr);
  args.slots_of_ring = stages.slots;
  args.weight_bytes = stages.weight_bytes;
  args.row_tiles = static_cast<int32_t>(ceil_div(n, int64_t{kPromptStrips} * kStripRows));
  // The most units there can be: every whole tile of rows, and one that is not whole of each expert.
  const int64_t row_tiles = int64_t{args.rows} * args.slots / kPromptTokens + args.experts_total;
  gpu.launch(kernel, prompt_grid(gpu, row_tiles * args.row_tiles, stages), args);
}

void quantize_hidden(Gpu& gpu, const GpuMoePromptArgs& args) {
  GpuQuantizeRowsArgs hidden;
  hidden.x_f16 = args.hidden;
  hidden.e4m3 = args.hidden_e4m3;
  hidden.scales = args.hidden_scales;
  hidden.x_stride = args.width;
  hidden.rows = args.rows * args.slots;
  hidden.scale_stride = hidden.rows;
  hidden.size = args.width;
  quantize_rows(gpu, hidden);
}

}  // namespace

int64_t moe_prompt_work_bytes(int64_t rows, int64_t slots, int64_t experts_total, int64_t columns, int64_t width,
                              bool e4m3) {
  GpuMoePromptArgs args;
  args.rows = static_cast<int32_t>(std::min(rows, kMoePromptRows));
  args.slots = static_cast<int32_t>(slots);
  args.experts_total = static_cast<int32_t>(experts_total);
  args.columns = static_cast<int32_t>(columns);
  args.width = static_cast<int32_t>(width);
  return lay_out(&args, nullptr, e4m3);
}

void moe_prompt(Gpu& gpu, GpuMoePromptArgs args, std::byte* work) {
  WEIR_CHECK(args.slots > 0 && args.slots <= kMoePromptSlotsMax, "{} experts a row", args.slots);
  WEIR_CHECK(args.experts_total > 0 && args.experts_total <= kMoePromptTableMax, "{} experts", args.experts_total);
  WEIR_CHECK(args.columns % 8 == 0 && args.width % 8 == 0 && args.x_stride % 8 == 0 && args.y_stride % 4 == 0,
             "D {}, F {}, rows {} and {} apart", args.columns, args.width, args.x_stride, args.y_stride);
  const bool e4m3 = args.x_e4m3 != nullptr;
  WEIR_CHECK(!e4m3 || (args.columns % kBlockK == 0 && args.width % kBlockK == 0 && args.x_stride % 16 == 0 &&
                       args.tile_bytes == packed_tile_bytes(kGpuFp8Block) && args.x_scales != nullptr &&
                       args.scale_stride >= args.rows),
             "{} quantised rows, D {}, F {}, rows {} and scales {} apart, tiles of {} bytes", args.rows, args.columns,
             args.width, args.x_stride, args.scale_stride, args.tile_bytes);
  for (int64_t left = args.rows; left > 0; left -= kMoePromptRows) {
    args.rows = static_cast<int32_t>(std::min(left, kMoePromptRows));
    lay_out(&args, work, e4m3);
    place(gpu, args);
    products(gpu, e4m3 ? "weir_moe_prompt_hidden_e4m3" : "weir_moe_prompt_hidden", args, 2 * int64_t{args.width}, 0);
    if (e4m3) quantize_hidden(gpu, args);
    products(gpu, e4m3 ? "weir_moe_prompt_products_e4m3" : "weir_moe_prompt_products", args, args.columns,
             kMoePromptStaging);
    device::Grid grid;
    grid.x = args.rows;
    grid.threads = 256;
    grid.overlap = true;
    gpu.launch("weir_moe_prompt_join", grid, args);
    if (args.x_bf16 != nullptr) args.x_bf16 += args.rows * args.x_stride;
    if (args.x_f16 != nullptr) args.x_f16 += args.rows * args.x_stride;
    if (e4m3) {
      args.x_e4m3 += args.rows * args.x_stride;
      args.x_scales += args.rows;
    }
    args.y += args.rows * args.y_stride;
    args.experts += int64_t{args.rows} * args.slots;
    args.weights += int64_t{args.rows} * args.slots;
  }
}

}  // namespace weir
