#include "ops/moe/moe_packed_gpu.h"

#include <algorithm>

#include "base/check.h"
#include "ops/cpu/aligned.h"

namespace weir {
namespace {

// As packed_ring.h and routes.h have them.
constexpr int kWarps = 8;
constexpr int kThreads = 32 * (kWarps + 1);
constexpr int64_t kScaleSlotBytes = 96;
constexpr int64_t kEntryBytes = 24;
constexpr int64_t kRouteSlots = kPackedTopMax + 1;
constexpr int kSlotsMax = 12;
constexpr int64_t kReservedShared = 1024;

int64_t row_bytes(int64_t k) {
  return 2 * k + 16;
}

int64_t routes_bytes(const GpuExpertsArgs& args) {
  const int64_t words = (args.rows + 7) / 8;
  const int64_t routed = int64_t{args.rows} * args.top_k;
  const int64_t entries = std::min(routed, args.experts + routed / 8) + words;
  return entries * kEntryBytes + 4 * (args.rows * kRouteSlots + args.experts * (2 + words) + 33);
}

// Stages of `slot` bytes beside `fixed`: so that two blocks fit a multiprocessor where that leaves three of them.
int32_t ring_slots(const device::DeviceInfo& info, int64_t fixed, int64_t slot) {
  int64_t room = (info.shared_bytes_max + kReservedShared) / 2 - kReservedShared - fixed;
  if (room < 3 * slot) room = info.shared_bytes_max - fixed;
  const int64_t slots = std::min<int64_t>(room / slot, kSlotsMax);
  WEIR_CHECK(slots >= 2, "no room for a ring of {} bytes beside {}", slot, fixed);
  return static_cast<int32_t>(slots);
}

}  // namespace

void experts_packed(Gpu& gpu, GpuExpertsArgs args) {
  WEIR_CHECK(args.rows <= kPackedMoeRows && args.experts <= kPackedExpertsMax && args.top_k <= kPackedTopMax &&
                 args.top_k <= args.experts && args.d % kTileK == 0 && args.f % kTileK == 0,
             "{} rows, top {} of {} experts, {} x {}", args.rows, args.top_k, args.experts, args.d, args.f);
  if (args.rows == 0) return;
  const device::DeviceInfo& info = gpu.device->info();
  const int64_t rows = std::min(args.rows, 8);
  const int64_t partials = 2 * kWarps * rows * kStripRows * static_cast<int64_t>(sizeof(float));
  const int64_t barriers = 2 * kSlotsMax * static_cast<int64_t>(sizeof(uint64_t));
  args.slot_bytes = kWarps * 2 * packed_tile_bytes(args.format);
  device::Grid grid;
  grid.threads = kThreads;
  grid.overlap = true;

  const int64_t routed = int64_t{args.rows} * args.top_k;
  const int64_t strips = args.f / (kStripRows / 2);
  int64_t fixed = (rows + 1) * row_bytes(args.d) + partials + barriers + routes_bytes(args);
  int64_t slot = args.slot_bytes + kScaleSlotBytes;
  args.slots = ring_slots(info, fixed, slot);
  grid.x = std::min<int64_t>(info.multiprocessors, std::min<int64_t>(routed, args.experts) * strips);
  grid.shared_bytes = round_up(fixed + args.slots * slot, 16);
  gpu.launch("weir_experts_gate_up", grid, args);

  fixed = partials + row_bytes(kWarps * kBlockK) + barriers + routes_bytes(args);
  slot = args.slot_bytes + kWarps * (rows * row_bytes(kBlockK) + kScaleSlotBytes);
  args.slots = ring_slots(info, fixed, slot);
  grid.x = std::min<int64_t>(info.multiprocessors, (args.d + kStripRows - 1) / kStripRows);
  grid.shared_bytes = round_up(fixed + args.slots * slot, 16);
  gpu.launch("weir_experts_down", grid, args);
}

}  // namespace weir
