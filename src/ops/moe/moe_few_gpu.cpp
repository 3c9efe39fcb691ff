#include "ops/moe/moe_few_gpu.h"

#include <algorithm>

#include "base/check.h"
#include "ops/linear/few_share.h"
#include "ops/moe/moe_packed_args.h"

namespace weir {
namespace {

constexpr int64_t kFloat = sizeof(float);
constexpr int64_t kBarrier = 8;
// Shared memory that the kernels have beside what is asked for: of moe_one.cu, and of moe_few.cu.
constexpr int64_t kOneStatic = 1024;
static_assert(kOneStatic >= sizeof(OneRoutes) + 2 * (16 + 32) * 4, "the routes, and candidates for them");
constexpr int64_t kFewStatic = 3072;
static_assert(kFewStatic >= sizeof(FewRoutes) + kPackedExpertsMax * 9 / 8 + 16, "the routes, and how they are found");
constexpr int64_t kFewSlotBytes = kFewWarps * kFewUnitBytes;

int64_t few_room(const Gpu& gpu, const GpuFewExpertsArgs& args) {
  return gpu.device->info().shared_bytes_max - (args.rows == 1 ? kOneStatic : kFewStatic);
}

bool power_of_two(int64_t n) {
  return n > 0 && (n & (n - 1)) == 0;
}
// 128 times a power of two: places are found by shifts.
bool whole_blocks(int64_t k) {
  return k % kBlockK == 0 && power_of_two(k / kBlockK);
}

int64_t strips(const GpuFewExpertsArgs& args) {
  return args.f / (kStripRows / 2);
}
// Strips of experts, if no two rows share one.
int64_t items(const GpuFewExpertsArgs& args) {
  return int64_t{args.rows} * args.top_k * strips(args);
}

// Units of a share of gate and up, and of a strip of down, at most.
int64_t gate_up_units(const GpuFewExpertsArgs& args) {
  return args.items_max * int64_t{args.d / kBlockK};
}
int64_t down_units(const GpuFewExpertsArgs& args) {
  return (int64_t{args.rows} * args.top_k + args.shared) * (args.f / kBlockK);
}

void share_items(GpuFewExpertsArgs* args, int64_t grid) {
  args->items_max = static_cast<int32_t>((items(*args) + grid - 1) / grid);
}

// What a block of moe_one.cu has beside its ring.
int64_t one_bytes(int64_t rows, int64_t width, int64_t units) {
  return (rows + 1) * 2 * width + units * (kStripRows + 2) * kFloat + kFewBarriers * kBarrier;
}

device::Grid one_gate_up_grid(const Gpu& gpu, GpuFewExpertsArgs* args) {
  const int64_t grid = std::min<int64_t>(gpu.device->info().multiprocessors, items(*args));
  share_items(args, grid);
  args->under_way = 6;
  const int64_t fixed = one_bytes(1, args->d, gate_up_units(*args));
  args->ring_bytes = few_ring_bytes(gate_up_units(*args), kFewSlotBytes, few_room(gpu, *args) - fixed);
  return few_grid(grid, args->ring_bytes + fixed, true);
}

device::Grid one_down_grid(const Gpu& gpu, GpuFewExpertsArgs* args) {
  args->under_way = 1;  // they come while the kernel before reads its own
  const int64_t fixed = one_bytes(args->top_k + args->shared, args->f, down_units(*args));
  args->ring_bytes = few_ring_bytes(down_units(*args), kFewSlotBytes, few_room(gpu, *args) - fixed);
  return few_grid((args->d + kStripRows - 1) / kStripRows, args->ring_bytes + fixed, false);
}

// Pairs of an item and a row that has chosen its expert, of one of `grid` shares, whatever the rows choose. Where a
// share has at most one strip of an expert: each of `here` experts that it has a strip of may be every row's, but each
// of the others is a row's at least.
int64_t pairs_max(const GpuFewExpertsArgs& args, int64_t grid) {
  const int64_t entries = int64_t{args.rows} * args.top_k;
  if (strips(args) > grid) return entries * ((strips(args) + grid - 1) / grid);
  int64_t most = 0;
  for (int64_t experts = args.top_k; experts <= entries; ++experts) {
    const int64_t here = (experts * strips(args) + grid - 1) / grid;
    most = std::max(most, std::min(here * args.rows, entries - (experts - here)));
  }
  return most;
}

// What a block of moe_few.cu has for a half of its work beside ring and barriers.
int64_t half_bytes(int64_t rows, int64_t width, int64_t dots, int64_t pad, int64_t experts) {
  const int64_t blocks = width / kBlockK;
  return rows * (2 * width + kFewRowPad) + dots * (blocks * kStripRows + pad) * kFloat +
         experts * (2 * blocks + kFewScalesPad) * kFloat;
}

device::Grid few_experts_grid(const Gpu& gpu, GpuFewExpertsArgs* args) {
  const int64_t routed = int64_t{args->rows} * args->top_k;
  const int64_t entries = routed + int64_t{args->rows} * args->shared;
  const int64_t work = std::max(items(*args), int64_t{args->d + kStripRows - 1} / kStripRows);
  const int64_t grid = std::min<int64_t>(gpu.device->info().multiprocessors, work);
  share_items(args, grid);
  args->pairs_max = static_cast<int32_t>(pairs_max(*args, grid));
  args->under_way = 4;
  // An item's columns and a pair's item: 16 and 4 bytes.
  const int64_t up = half_bytes(args->rows, args->d, args->pairs_max, kFewGatePad, args->items_max) +
                     args->items_max * int64_t{2 * kFewMoeRows} + args->pairs_max * int64_t{4};
  const int64_t down = half_bytes(entries + 1, args->f, entries, kFewDownPad, routed + args->shared);
  const int64_t fixed = std::max(up, down) + kFewExpertsBarriers * kBarrier;
  const int64_t units = std::max(gate_up_units(*args), down_units(*args));
  args->ring_bytes = few_ring_bytes(units, kFewSlotBytes, few_room(gpu, *args) - fixed, few_room(gpu, *args));
  device::Grid out = few_grid(grid, args->ring_bytes + fixed, true);
  out.threads = kFewExpertsThreads;
  return out;
}

// As moe_some.cu and routes.h lay out their memory.
constexpr int64_t kColumns = 8;
constexpr int64_t kSlotWeights = kFewWarps * kFewUnitBytes + kFewWarps * 8;
constexpr int64_t kSomeBarriers = (kFewBarriers + 4) * kBarrier;
constexpr int64_t kSomeSlotsMax = 6;
constexpr int kSomeDownThreads = 544;

int64_t some_routes_bytes(const GpuFewExpertsArgs& args) {
  const int64_t entries = route_entries_max(args.rows, args.experts, args.top_k);
  return (16 + kPackedMoeRows * kRouteSlots * kFloat + entries * kRouteEntryBytes + 15) / 16 * 16;
}

device::Grid some_routes_grid(const GpuFewExpertsArgs& args) {
  device::Grid grid;
  grid.threads = 1024;
  grid.shared_bytes = routes_bytes(args.rows, args.experts, args.top_k);
  grid.overlap = true;
  return grid;
}

device::Grid some_grid(const Gpu& gpu, GpuFewExpertsArgs* args, int64_t blocks, int64_t slot_bytes, int64_t fixed) {
  fixed += kSomeBarriers + some_routes_bytes(*args);
  const int64_t room = gpu.device->info().shared_bytes_max - fixed;
  const int64_t slots = std::min<int64_t>(kSomeSlotsMax, room / slot_bytes);
  args->ring_bytes = static_cast<int32_t>(std::max<int64_t>(slots, 2) * slot_bytes);
  return few_grid(blocks, args->ring_bytes + fixed, true);
}

device::Grid some_gate_up_grid(const Gpu& gpu, GpuFewExpertsArgs* args) {
  const int64_t units = args->d / kBlockK;
  const int64_t fixed = 2 * kColumns * (2 * int64_t{args->d} + 16) + 2 * units * (kColumns * kStripRows + 2) * kFloat;
  return some_grid(gpu, args, gpu.device->info().multiprocessors, kSlotWeights, fixed);
}

device::Grid some_down_grid(const Gpu& gpu, GpuFewExpertsArgs* args) {
  const int64_t together = kFewWarps / (args->f / kBlockK);
  const int64_t slot = kSlotWeights + together * kColumns * (2 * int64_t{args->f} + 16);
  return some_grid(gpu, args, (args->d + kStripRows - 1) / kStripRows, slot,
                   2 * kFewWarps * (kColumns * kStripRows + 2) * kFloat);
}

}  // namespace

bool some_experts_takes(const Gpu& gpu, const GpuFewExpertsArgs& args) {
  if (args.rows < 1 || args.rows > kPackedMoeRows || args.top_k > kPackedTopMax || args.experts > kPackedExpertsMax ||
      !whole_blocks(args.d) || !whole_blocks(args.f) || args.d < kFewWarps * kBlockK || args.f < 2 * kBlockK ||
      args.f > kFewWarps * kBlockK || args.stride == 0 || some_routes_bytes(args) > kSomeRoutesBytes) {
    return false;
  }
  GpuFewExpertsArgs sized = args;
  const int64_t room = gpu.device->info().shared_bytes_max;
  return some_routes_grid(args).shared_bytes <= room && some_gate_up_grid(gpu, &sized).shared_bytes <= room &&
         some_down_grid(gpu, &sized).shared_bytes <= room;
}

void experts_some(Gpu& gpu, GpuFewExpertsArgs args) {
  WEIR_CHECK(some_experts_takes(gpu, args) && args.routes != nullptr, "{} rows, top {} of {} experts, {} x {}",
             args.rows, args.top_k, args.experts, args.d, args.f);
  gpu.launch("weir_some_routes", some_routes_grid(args), args);
  args.routes_bytes = static_cast<int32_t>(some_routes_bytes(args));
  const device::Grid up = some_gate_up_grid(gpu, &args);
  gpu.launch("weir_some_gate_up", up, args);
  device::Grid down = some_down_grid(gpu, &args);
  down.threads = kSomeDownThreads;
  gpu.launch("weir_some_down", down, args);
}

bool few_experts_takes(const Gpu& gpu, const GpuFewExpertsArgs& args) {
  if (args.rows < 1 || args.rows > kFewMoeRows || args.top_k + args.shared > kFewSlots ||
      args.experts > kPackedExpertsMax || !whole_blocks(args.d) || !whole_blocks(args.f) || args.stride == 0 ||
      gpu.device->info().multiprocessors < 2) {
    return false;
  }
  GpuFewExpertsArgs sized = args;
  const int64_t room = few_room(gpu, args);
  const auto fits = [&](const device::Grid& grid, int64_t units) {
    return grid.shared_bytes <= room && few_ring_hides(sized.ring_bytes, units, kFewSlotBytes);
  };
  if (args.rows > 1) {
    const device::Grid grid = few_experts_grid(gpu, &sized);
    return fits(grid, std::max(gate_up_units(sized), down_units(sized)));
  }
  const device::Grid up = one_gate_up_grid(gpu, &sized);
  if (!fits(up, gate_up_units(sized))) return false;
  const device::Grid down = one_down_grid(gpu, &sized);
  return fits(down, down_units(sized));
}

void experts_few(Gpu& gpu, GpuFewExpertsArgs args) {
  WEIR_CHECK(few_experts_takes(gpu, args), "{} rows, top {} of {} experts, {} x {}", args.rows, args.top_k,
             args.experts, args.d, args.f);
  const bool many = args.experts > 256;  // a lane looks at 8 or 16
  if (args.rows > 1) {
    WEIR_CHECK(args.turns != nullptr, "{} rows without memory for turns", args.rows);
    const device::Grid grid = few_experts_grid(gpu, &args);
    gpu.launch(many ? "weir_few_experts_many" : "weir_few_experts", grid, args);
    return;
  }
  const device::Grid up = one_gate_up_grid(gpu, &args);
  gpu.launch(many ? "weir_one_gate_up_many" : "weir_one_gate_up", up, args);
  const device::Grid down = one_down_grid(gpu, &args);
  gpu.launch(many ? "weir_one_down_many" : "weir_one_down", down, args);
}

}  // namespace weir
