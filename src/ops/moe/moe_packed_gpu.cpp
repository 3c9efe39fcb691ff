#include "ops/moe/moe_packed_gpu.h"

#include <algorithm>
#include <span>
#include <vector>

#include "base/check.h"
#include "ops/cpu/aligned.h"

namespace weir {
namespace {

// As packed_ring.h and routes.h have them.
constexpr int kWarps = 8;
constexpr int kThreads = 32 * (kWarps + 1 + 2);
constexpr int kUnits = 2 * kWarps;
constexpr int64_t kScaleSlotBytes = 160;
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

struct RingSize {
  int32_t units = 0;  // blocks of K of a stage
  int32_t slot_bytes = 0;
  int32_t slots = 0;
  int64_t bytes = 0;  // of shared memory in all
};

// Bytes of a stage beyond its weights, and of what is beside the ring, for stages of so many units.
struct Extra {
  int64_t slot = 0;
  int64_t fixed = 0;
};

// The first of `choices` with which three stages fit while another block runs beside this one; where none does, the
// first, and the multiprocessor belongs to one block.
template <class Extras>
RingSize ring_size(const GpuExpertsArgs& args, const device::DeviceInfo& info, std::span<const int32_t> choices,
                   const Extras& extras) {
  const auto of = [&](int32_t units, int64_t room) {
    RingSize size;
    size.units = units;
    size.slot_bytes = units * 2 * packed_tile_bytes(args.format);
    const Extra extra = extras(units, size.slot_bytes);
    size.slots =
        static_cast<int32_t>(std::clamp<int64_t>((room - extra.fixed) / (size.slot_bytes + extra.slot), 0, kSlotsMax));
    size.bytes = round_up(extra.fixed + size.slots * (size.slot_bytes + extra.slot), 16);
    return size;
  };
  const int64_t half = (info.shared_bytes_max + kReservedShared) / 2 - kReservedShared;
  for (const int64_t room : {half, info.shared_bytes_max}) {
    for (const int32_t units : choices) {
      const RingSize size = of(units, room);
      if (size.slots >= 3) return size;
    }
  }
  check_failed(__FILE__, __LINE__, "slots >= 3", "no room for a ring beside the rows");
}

void set(const RingSize& size, GpuExpertsArgs* args, device::Grid* grid) {
  args->units = size.units;
  args->slot_bytes = size.slot_bytes;
  args->slots = size.slots;
  grid->shared_bytes = size.bytes;
}

}  // namespace

void experts_packed(Gpu& gpu, GpuExpertsArgs args) {
  WEIR_CHECK(args.rows <= kPackedMoeRows && args.experts <= kPackedExpertsMax && args.top_k <= kPackedTopMax &&
                 args.top_k <= args.experts && args.d % kTileK == 0 && args.f % kTileK == 0,
             "{} rows, top {} of {} experts, {} x {}", args.rows, args.top_k, args.experts, args.d, args.f);
  if (args.rows == 0) return;
  const device::DeviceInfo& info = gpu.device->info();
  const int64_t rows = std::min(args.rows, 8);
  args.sum_slots = args.rows <= 2 ? 4 : 2;
  const auto sums = [&](int64_t units) {
    return args.sum_slots * units * (rows * kStripRows + 2) * static_cast<int64_t>(sizeof(float));
  };
  const int64_t others = 2 * (kSlotsMax + args.sum_slots) * static_cast<int64_t>(sizeof(uint64_t)) + routes_bytes(args);
  device::Grid grid;
  grid.threads = kThreads;
  grid.overlap = true;

  const int64_t routed = int64_t{args.rows} * args.top_k;
  const int64_t strips = args.f / (kStripRows / 2);
  constexpr int32_t kGateUpUnits[] = {kUnits, kWarps};
  set(ring_size(args, info, kGateUpUnits,
                [&](int32_t units, int64_t) {
                  return Extra{kScaleSlotBytes, (rows + 1) * row_bytes(args.d) + sums(units) + others};
                }),
      &args, &grid);
  grid.x = std::min<int64_t>(info.multiprocessors, std::min<int64_t>(routed, args.experts) * strips);
  gpu.launch("weir_experts_gate_up", grid, args);

  // Twelve blocks are three experts of 512 hidden values: with eight and the shared one, three stages hold them all.
  const int64_t blocks = (args.f / kTileK + 1) / 2;
  std::vector<int32_t> choices;
  for (const int32_t units : {12, kWarps, kUnits}) {
    if (units >= blocks) choices.push_back(units);
  }
  WEIR_CHECK(!choices.empty(), "experts of {} hidden values", args.f);
  set(ring_size(args, info, choices,
                [&](int32_t units, int64_t) {
                  const int64_t slot =
                      units / blocks * (rows * row_bytes(args.f) + round_up(blocks * 8 + 32, 16)) + kScaleSlotBytes;
                  return Extra{slot, sums(units) + row_bytes(kBlockK) + others};
                }),
      &args, &grid);
  grid.x = std::min<int64_t>(info.multiprocessors, (args.d + kStripRows - 1) / kStripRows);
  gpu.launch("weir_experts_down", grid, args);
}

}  // namespace weir
