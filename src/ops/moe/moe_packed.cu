// The sparse experts over up to 64 rows: bound by reading the weights of the experts that the rows chose, once. Every
// block works out the routing for itself. Gate and up: the strips of all chosen experts are shared out evenly, an
// expert's rows are the columns of its products. Down: a block owns output columns and goes through the chosen experts
// in ascending order, so the sum over experts never leaves it. Who brings, multiplies and joins: packed_ring.h.
#include "ops/moe/moe_packed_down.h"
#include "ops/moe/moe_packed_gate_up.h"

namespace weir {
namespace {

WEIR_DEVICE uint8_t* behind_routes(const GpuExpertsArgs& args, uint8_t* at) {
  return at + (routes_bytes(args.rows, args.experts, args.top_k) + 15) / 16 * 16;
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_experts_gate_up, GpuExpertsArgs, kPackedThreads, 2) {
  extern __shared__ __align__(128) uint8_t shared[];
  const int kept = min(args.rows, 8);
  const OwnColumns columns{shared, packed_row_bytes(args.d)};
  const Pipe pipe(args.ring, shared + kept * columns.row_bytes);
  const Routes routes(pipe.behind(), args.rows, args.experts, args.top_k);
  auto* weights = reinterpret_cast<EntryWeights*>(behind_routes(args, pipe.behind()));
  prefetch_table(args);
  device::wait_for_previous();
  device::start_next();
  if (multiplies() && args.rows <= 8) columns.ask(args, args.rows, [](int i) { return i; });
  const int entries = make_routes<kPackedThreads>(args, routes, false);
  find_weights(routes.entries, entries, weights, [&](int e) -> const GpuPacked& { return args.table[e].gate_up; });
  __syncthreads();
  const GateUpWalk walk(args, routes.entries, weights, entries);
  if (brings()) return bring_gate_up(walk, pipe);
  if (multiplies()) return multiply_gate_up(args, walk, pipe, columns);
  join_gate_up(args, walk, pipe);
}

WEIR_KERNEL_BOUNDED(weir_experts_down, GpuExpertsArgs, kPackedThreads, 2) {
  extern __shared__ __align__(128) uint8_t shared[];
  const Pipe pipe(args.ring, shared);
  const Routes routes(pipe.behind(), args.rows, args.experts, args.top_k);
  uint8_t* at = behind_routes(args, pipe.behind());
  auto* weights = reinterpret_cast<EntryWeights*>(at);
  const int entries_max = route_entries_max(args.rows, args.experts, args.top_k);
  auto* pairs = reinterpret_cast<RoutePair*>(weights + entries_max + 1);
  auto* totals = reinterpret_cast<float*>(pairs + args.rows * (args.top_k + args.shared));
  // The router's logits are of the kernel before the one before this, which has ended.
  const int entries = make_routes<kPackedThreads>(args, routes, true);
  find_weights(routes.entries, entries, weights, [&](int e) -> const GpuPacked& { return args.table[e].down; });
  if (joiner() == 0) list_pairs(routes, entries, weights, pairs);
  __syncthreads();
  const DownWalk walk(args, routes.entries, weights, entries);
  const DownPipe down(args, pipe);
  if (brings()) return bring_down(down, walk);
  if (multiplies()) {
    device::wait_for_previous();
    device::start_next();
    return multiply_down(down, walk);
  }
  join_down(args, walk, pipe, pairs, totals, totals + args.rows * kStripRows);
}

}  // namespace weir
