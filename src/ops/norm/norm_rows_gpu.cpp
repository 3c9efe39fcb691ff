#include "ops/norm/norm_rows_gpu.h"

#include "base/check.h"

namespace weir {

void norm_rows(Gpu& gpu, const GpuNormRowsArgs& args, int64_t rows) {
  WEIR_CHECK(args.size % 32 == 0 && args.x_stride % 4 == 0 && args.y_stride % 4 == 0, "rows of {}", args.size);
  if (rows == 0) return;
  device::Grid grid;
  grid.x = rows;
  grid.threads = 256;
  grid.overlap = true;
  gpu.launch("weir_norm_rows", grid, args);
}

}  // namespace weir
