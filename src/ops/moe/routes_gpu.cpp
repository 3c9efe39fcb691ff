#include "ops/moe/routes_gpu.h"

#include "base/check.h"
#include "ops/moe/moe_packed_args.h"

namespace weir {

void routes(Gpu& gpu, const GpuRoutesArgs& args) {
  WEIR_CHECK(args.experts_total <= kPackedExpertsMax && args.top_k <= kPackedTopMax && args.top_k <= args.experts_total,
             "top {} of {} experts", args.top_k, args.experts_total);
  if (args.rows == 0) return;
  constexpr int64_t kRows = 8;
  // At most what routes.h lays out for eight rows: entries, weights, masks and slots.
  constexpr int64_t kEntryBytes = 24;
  const int64_t entries = kRows * args.top_k + 1;
  device::Grid grid;
  grid.x = (args.rows + kRows - 1) / kRows;
  grid.threads = 256;
  grid.shared_bytes = entries * kEntryBytes + 4 * (kRows * (kPackedTopMax + 1) + 3 * args.experts_total + 64);
  grid.overlap = true;
  gpu.launch("weir_routes", grid, args);
}

}  // namespace weir
