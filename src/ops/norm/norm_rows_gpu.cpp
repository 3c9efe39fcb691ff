#include "ops/norm/norm_rows_gpu.h"

#include "base/check.h"
#include "ops/linear/few_share.h"
#include "ops/linear/packed.h"

namespace weir {

void norm_rows(Gpu& gpu, GpuNormRowsArgs args, int64_t rows) {
  WEIR_CHECK(args.size % 32 == 0 && args.x_stride % 4 == 0 && args.y_stride % 4 == 0, "rows of {}", args.size);
  const bool e4m3 = args.e4m3 != nullptr;
  WEIR_CHECK(!e4m3 || (args.size % kBlockK == 0 && args.scale_stride >= rows),
             "{} rows of {} quantised, scales {} apart", rows, args.size, args.scale_stride);
  if (rows == 0) return;
  device::Grid grid;
  grid.overlap = true;
  // So many that a multiprocessor has more rows than warps.
  constexpr int64_t kMany = 1024;
  if (rows >= kMany && (args.size == 1024 || args.size == 2048)) {
    constexpr int64_t kRows = kNormRowsThreads / 32;  // of a block
    args.rows = static_cast<int32_t>(rows);
    grid.x = (rows + kRows - 1) / kRows;
    grid.threads = kNormRowsThreads;
    const bool small = args.size == 1024;
    if (e4m3) {
      gpu.launch(small ? "weir_norm_rows_many_1024_e4m3" : "weir_norm_rows_many_2048_e4m3", grid, args);
    } else {
      gpu.launch(small ? "weir_norm_rows_many_1024" : "weir_norm_rows_many_2048", grid, args);
    }
    return;
  }
  if (rows <= kFewRows) grid.shared_split = kFewSplit;
  grid.x = rows;
  grid.threads = 256;
  gpu.launch(e4m3 ? "weir_norm_rows_e4m3" : "weir_norm_rows", grid, args);
}

}  // namespace weir
