#include "ops/sample/sample_gpu.h"

#include <algorithm>

#include "base/check.h"
#include "ops/sample/sample_shape.h"

namespace weir {
namespace {

// Blocks of one row that is not filtered: enough to spread a few rows over the whole device. The token does not depend
// on it.
int64_t clusters_a_row(int64_t rows) {
  return std::clamp<int64_t>(16 / rows, 1, 8);
}

}  // namespace

void sample(Gpu gpu, GpuSampleArgs args, int64_t rows) {
  if (rows == 0) return;
  WEIR_CHECK(args.vocabulary > 0 && args.vocabulary <= args.width && args.width <= kGpuSampleWidthMax,
             "{} ids of {} logits", args.vocabulary, args.width);
  WEIR_CHECK(args.logits_stride >= args.width, "rows of {} logits {} apart", args.width, args.logits_stride);
  args.aligned = args.logits_stride % 4 == 0 && reinterpret_cast<uintptr_t>(args.logits) % 16 == 0 ? 1 : 0;
  device::Grid grid;
  grid.x = kSampleCluster * clusters_a_row(rows);
  grid.y = rows;
  grid.threads = kSampleThreads;
  grid.cluster = kSampleCluster;
  grid.overlap = true;
  grid.shared_bytes = sample_shared_bytes(args.width);
  gpu.launch("sample_kernel", grid, args);
}

}  // namespace weir
