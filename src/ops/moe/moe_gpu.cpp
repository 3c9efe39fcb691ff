#include "ops/moe/moe_gpu.h"

#include <algorithm>

#include "base/check.h"

namespace weir {
namespace {

constexpr int64_t kWarps = 8;          // hidden values of a block
constexpr int64_t kGridYMax = 65'535;  // blocks along y

}  // namespace

void route(Gpu& gpu, const GpuRouteArgs& args, int64_t rows) {
  WEIR_CHECK(args.top_k > 0 && args.top_k <= std::min(kGpuTopMax, args.experts_total), "top {} of {} experts",
             args.top_k, args.experts_total);
  if (rows == 0) return;
  device::Grid grid;
  grid.x = rows;
  grid.threads = 32;
  gpu.launch("weir_route", grid, args);
}

void feed_forward(Gpu& gpu, const GpuFeedForwardArgs& args, int64_t rows) {
  const int64_t rows_a_launch = kGridYMax / args.slots;
  for (int64_t first = 0; first < rows; first += rows_a_launch) {
    GpuFeedForwardArgs part = args;
    const int64_t count = std::min(rows_a_launch, rows - first);
    part.x += first * args.x_stride;
    part.y += first * args.y_stride;
    part.hidden += first * args.slots * args.width;
    if (args.experts != nullptr) {
      part.experts += first * args.slots;
      part.weights += first * args.slots;
    }
    device::Grid grid;
    grid.threads = kWarps * 32;
    grid.x = (args.width + kWarps - 1) / kWarps;
    grid.y = count * args.slots;
    gpu.launch("weir_expert_hidden", grid, part);
    grid.x = (args.columns + kGpuExpertOutputs - 1) / kGpuExpertOutputs;
    grid.y = count;
    grid.threads = static_cast<int>(std::min<int64_t>(args.slots, 16)) * 32;
    grid.shared_bytes = int64_t{args.slots} * kGpuExpertOutputs * static_cast<int64_t>(sizeof(float));
    gpu.launch("weir_expert_output", grid, part);
  }
}

}  // namespace weir
