#include "ops/moe/moe_packed_gpu.h"

#include <algorithm>

#include "base/check.h"
#include "ops/cpu/aligned.h"
#include "ops/linear/packed_sizes.h"

namespace weir {
namespace {

constexpr int kThreads = 32 * (kPackedWarps + 1 + kPackedJoinWarps);
// As moe_packed.cu has them.
constexpr int64_t kEntryWeightsBytes = 32;
constexpr int64_t kPairBytes = 8;

int64_t routing_bytes(const GpuExpertsArgs& args) {
  const int64_t entries = route_entries_max(args.rows, args.experts, args.top_k);
  return round_up(routes_bytes(args.rows, args.experts, args.top_k), 16) + (entries + 1) * kEntryWeightsBytes +
         args.rows * (args.top_k + args.shared) * kPairBytes;
}

// Large stages beside another block, else alone on the multiprocessor: then more of them are on the way, which the long
// kernels of many rows need. slot_bytes(units): of a stage.
template <class SlotBytes>
void launch(Gpu& gpu, std::string_view kernel, int64_t blocks, int64_t fixed, const SlotBytes& slot_bytes,
            GpuExpertsArgs args) {
  const device::DeviceInfo& info = gpu.device->info();
  PackedRing& ring = args.ring;
  ring.columns = std::min(args.rows, 8);
  ring.sum_slots = args.rows == 1 ? 4 : 2;
  const auto fits = [&](bool alone, int units, int least) {
    ring.units = units;
    ring.slot_bytes = static_cast<int32_t>(slot_bytes(units));
    return ring.slot_bytes > 0 && packed_slots(info.shared_bytes_max, alone, fixed, &ring, least);
  };
  WEIR_CHECK(fits(false, kPackedUnits, 3) || fits(true, kPackedUnits, 3) || fits(true, kPackedWarps, 3) ||
                 fits(true, kPackedUnits, 2),
             "no room for a ring beside {} rows, {} x {}", args.rows, args.d, args.f);
  device::Grid grid;
  grid.x = std::min<int64_t>(info.multiprocessors, blocks);
  grid.threads = kThreads;
  grid.shared_bytes = round_up(fixed + packed_pipe_bytes(ring), 16);
  grid.overlap = true;
  gpu.launch(kernel, grid, args);
}

}  // namespace

void experts_packed(Gpu& gpu, const GpuExpertsArgs& args) {
  WEIR_CHECK(args.rows <= kPackedMoeRows && args.experts <= kPackedExpertsMax && args.top_k <= kPackedTopMax &&
                 args.top_k <= args.experts && args.d % kTileK == 0 && args.f % kTileK == 0 &&
                 args.f <= kPackedUnits * kBlockK,
             "{} rows, top {} of {} experts, {} x {}", args.rows, args.top_k, args.experts, args.d, args.f);
  if (args.rows == 0) return;
  const int columns = std::min(args.rows, 8);
  const int64_t routed = int64_t{args.rows} * args.top_k;
  const int64_t strips = args.f / (kStripRows / 2);
  const int unit_bytes = packed_unit_bytes(args.format);
  launch(
      gpu, "weir_experts_gate_up", std::min<int64_t>(routed, args.experts) * strips,
      int64_t{columns} * packed_row_bytes(args.d) + routing_bytes(args),
      [&](int units) { return packed_stage_units(args.format, units) * unit_bytes; }, args);
  const int blocks = (args.f / kTileK + 1) / 2;
  launch(
      gpu, "weir_experts_down", (args.d + kStripRows - 1) / kStripRows,
      routing_bytes(args) + int64_t{args.rows} * 2 * kStripRows * 4,
      [&](int units) {
        const int here = experts_down_units(args, units);
        if (here < blocks) return 0;
        return experts_down_weight_bytes(args, units) + here / blocks * columns * packed_row_bytes(args.f);
      },
      args);
}

}  // namespace weir
