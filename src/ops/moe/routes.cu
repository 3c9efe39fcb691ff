// The routing of many rows, row by row as routes.h works it out: a block for eight rows, a warp a row.
#include "device/async.h"
#include "ops/moe/routes.h"
#include "ops/moe/routes_args.h"

namespace weir {

inline constexpr int kRows = 8;
inline constexpr int kThreads = kRows * device::kWarp;

WEIR_KERNEL_BOUNDED(weir_routes, GpuRoutesArgs, kThreads, 1) {
  extern __shared__ __align__(16) uint8_t shared[];
  const int first = static_cast<int>(blockIdx.x) * kRows;
  GpuExpertsArgs part;
  part.rows = min(kRows, args.rows - first);
  part.experts = args.experts_total;
  part.top_k = args.top_k;
  part.shared = args.shared;
  part.router = args.router + static_cast<int64_t>(first) * (args.experts_total + args.shared);
  const Routes routes(shared, kRows, args.experts_total, args.top_k);
  for (int i = static_cast<int>(threadIdx.x); i < 3 * args.experts_total; i += kThreads) routes.masks[i] = 0;
  device::wait_for_previous();
  device::start_next();
  __syncthreads();
  if (device::warp() < part.rows) choose_experts(part, device::warp(), routes);
  __syncthreads();
  const int slots = args.top_k + args.shared;
  for (int e = static_cast<int>(threadIdx.x); e < args.experts_total; e += kThreads) {
    const uint32_t mask = routes.masks[2 * e];
    for (int r = 0; r < part.rows; ++r) {
      if ((mask >> r & 1U) == 0) continue;
      const int slot = static_cast<int>(routes.slots[e] >> (4 * r) & 15U);
      args.experts[static_cast<int64_t>(first + r) * slots + slot] = e;
    }
  }
  for (int i = static_cast<int>(threadIdx.x); i < part.rows * slots; i += kThreads) {
    const int r = i / slots;
    const int slot = i % slots;
    const int64_t to = static_cast<int64_t>(first + r) * slots + slot;
    args.weights[to] = routes.weights[r * kRouteSlots + slot];
    if (slot == args.top_k) args.experts[to] = args.experts_total;
  }
}

}  // namespace weir
