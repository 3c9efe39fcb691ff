#include "ops/draft/draft_gpu.h"

#include "base/check.h"

namespace weir {
namespace {

constexpr int kThreads = 256;

}  // namespace

void draft_accept(Gpu& gpu, const GpuDraftArgs& args) {
  device::Grid grid;
  grid.threads = kThreads;
  grid.overlap = true;
  gpu.launch("weir_draft_accept", grid, args);
}

void draft_gather(Gpu& gpu, const GpuDraftArgs& args, int64_t rows) {
  WEIR_CHECK(args.width % 4 == 0, "hidden rows of {}", args.width);
  if (rows == 0) return;
  device::Grid grid;
  grid.x = rows;
  grid.threads = kThreads;
  grid.overlap = true;
  gpu.launch("weir_draft_gather", grid, args);
}

void draft_keep(Gpu& gpu, const GpuDraftArgs& args) {
  WEIR_CHECK(args.width % 4 == 0, "hidden rows of {}", args.width);
  if (args.count == 0) return;
  device::Grid grid;
  grid.x = args.slots;
  grid.y = args.count;
  grid.threads = kThreads;
  grid.overlap = true;
  gpu.launch("weir_draft_keep", grid, args);
}

}  // namespace weir
