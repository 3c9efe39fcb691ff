#include "ops/linear/linear_gpu.h"

#include "base/check.h"

namespace weir {

void linear(Gpu& gpu, const GpuLinearArgs& args) {
  constexpr int64_t kWarps = 8;  // output columns of a block
  constexpr int64_t kRows = 8;   // rows of a block
  WEIR_CHECK(args.weight.n > 0 && args.weight.k > 0, "a matrix of {} x {}", args.weight.n, args.weight.k);
  if (args.rows == 0) return;
  device::Grid grid;
  grid.x = (args.weight.n + kWarps - 1) / kWarps;
  grid.y = (args.rows + kRows - 1) / kRows;
  grid.threads = kWarps * 32;
  gpu.launch(args.rows <= 1 ? "weir_linear_1" : (args.rows <= 4 ? "weir_linear_4" : "weir_linear_8"), grid, args);
}

}  // namespace weir
