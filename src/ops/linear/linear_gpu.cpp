#include "ops/linear/linear_gpu.h"

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
  device::Grid grid;
  grid.x = blocks;
  grid.y = (args.rows + kRows - 1) / kRows;
  grid.threads = 256;
  gpu.launch(args.rows <= 1 ? "weir_linear_1" : (args.rows <= 4 ? "weir_linear_4" : "weir_linear_8"), grid, args);
}

}  // namespace weir
