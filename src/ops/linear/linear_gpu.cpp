#include "ops/linear/linear_gpu.h"

#include <algorithm>

#include "base/check.h"

namespace weir {

void linear(Gpu& gpu, GpuLinearArgs args) {
  // Output columns of a block of eight warps.
  const int64_t columns = args.rows <= 1 ? 16 : 8;
  constexpr int64_t kRows = 8;  // rows of a block
  WEIR_CHECK(args.count > 0 && args.count <= kGpuLinearGroupMax, "{} matrices", args.count);
  if (args.rows == 0) return;
  int64_t blocks = 0;
  for (int32_t i = 0; i < args.count; ++i) {
    const GpuMatrix& weight = args.outputs[i].weight;
    WEIR_CHECK(weight.n > 0 && weight.k == args.outputs[0].weight.k, "a matrix of {} x {} beside K {}", weight.n,
               weight.k, args.outputs[0].weight.k);
    blocks += (weight.n + columns - 1) / columns;
    args.outputs[i].block_end = static_cast<int32_t>(blocks);
  }
  constexpr int64_t kRowsALaunch = 65'535 * kRows;
  const std::string_view kernel =
      args.rows <= 1 ? "weir_linear_1" : (args.rows <= 4 ? "weir_linear_4" : "weir_linear_8");
  for (int64_t left = args.rows; left > 0; left -= kRowsALaunch) {
    args.rows = std::min(left, kRowsALaunch);
    device::Grid grid;
    grid.x = blocks;
    grid.y = (args.rows + kRows - 1) / kRows;
    grid.threads = 256;
    gpu.launch(kernel, grid, args);
    args.x += args.rows * args.x_stride;
    for (int32_t i = 0; i < args.count; ++i) args.outputs[i].y += args.rows * args.outputs[i].y_stride;
  }
}

}  // namespace weir
