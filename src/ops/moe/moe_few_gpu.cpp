#include "ops/moe/moe_few_gpu.h"

#include <algorithm>

#include "base/check.h"
#include "ops/linear/few_share.h"
#include "ops/moe/moe_packed_args.h"

namespace weir {
namespace {

constexpr int64_t kFloat = sizeof(float);
constexpr int64_t kBarrier = 8;
// Shared memory that the kernels have beside what is asked for: of moe_few.cu, and of moe_few_once.cu.
constexpr int64_t kEachStatic = 1024;
static_assert(kEachStatic >= sizeof(FewRoutes));
constexpr int64_t kOnceStatic = 3072;
static_assert(kOnceStatic >= sizeof(OnceRoutes) + kPackedExpertsMax * 9 / 8 + 16, "the routes, and how they are found");
static_assert(kSomeRoutesBytes >= sizeof(OnceRoutes) && kSomeRoutesBytes >= sizeof(FewRoutes));
constexpr int64_t kFewSlotBytes = kFewWarps * kFewUnitBytes;

// Whether an expert is read once for each row that has chosen it.
bool each(const GpuFewExpertsArgs& args) {
  return args.rows <= kFewEachMax;
}
int64_t few_room(const Gpu& gpu, const GpuFewExpertsArgs& args) {
  return gpu.device->info().shared_bytes_max - (each(args) ? kEachStatic : kOnceStatic);
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
int64_t items(const GpuFewExpertsArgs& args) {
  return int64_t{args.rows} * args.top_k * strips(args);
}

// Units of a block of the first kernel, and of the second one, at most.
int64_t gate_up_units(const GpuFewExpertsArgs& args) {
  return args.items_max * int64_t{args.d / kBlockK};
}
int64_t down_units(const GpuFewExpertsArgs& args) {
  return (int64_t{args.rows} * args.top_k + args.shared) * (args.f / kBlockK);
}

// What a block of moe_few.cu has beside its ring.
int64_t each_bytes(int64_t rows, int64_t width, int64_t units) {
  return (rows + 1) * 2 * width + units * (kStripRows + 2) * kFloat + kFewBarriers * kBarrier;
}
int64_t each_gate_up_bytes(const GpuFewExpertsArgs& args) {
  return each_bytes(args.rows, args.d, gate_up_units(args));
}
int64_t each_down_bytes(const GpuFewExpertsArgs& args) {
  const int64_t entries = int64_t{args.rows} * (args.top_k + args.shared);
  return each_bytes(entries, args.f, entries * (args.f / kBlockK));
}

// Pairs of an item and a row that has chosen its expert, of one of `grid` blocks of moe_few_once.cu, whatever the rows
// choose. Where a block has at most one strip of an expert: each of `here` experts that it has a strip of may be every
// row's, but each of the others is a row's at least.
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

// What a block of moe_few_once.cu has beside its ring.
int64_t once_bytes(int64_t rows, int64_t width, int64_t dots, int64_t pad, int64_t experts) {
  const int64_t blocks = width / kBlockK;
  return rows * (2 * width + kOnceRowPad) + dots * (blocks * kStripRows + pad) * kFloat + kFewBarriers * kBarrier +
         experts * (2 * blocks + kOnceScalesPad) * kFloat;
}
int64_t once_gate_up_bytes(const GpuFewExpertsArgs& args) {
  // An item's columns and a pair's item: 16 and 4 bytes.
  return once_bytes(args.rows, args.d, args.pairs_max, kOnceGatePad, args.items_max) +
         args.items_max * int64_t{2 * kFewMoeRows} + args.pairs_max * int64_t{4};
}
int64_t once_down_bytes(const GpuFewExpertsArgs& args) {
  const int64_t routed = int64_t{args.rows} * args.top_k;
  const int64_t entries = routed + int64_t{args.rows} * args.shared;
  return once_bytes(entries + 1, args.f, entries, kOnceDownPad, routed + args.shared);
}

device::Grid gate_up_grid(const Gpu& gpu, GpuFewExpertsArgs* args) {
  const int64_t grid = std::min<int64_t>(gpu.device->info().multiprocessors, items(*args));
  args->items_max = static_cast<int32_t>((items(*args) + grid - 1) / grid);
  args->pairs_max = each(*args) ? 0 : static_cast<int32_t>(pairs_max(*args, grid));
  args->under_way = 6;
  const int64_t fixed = each(*args) ? each_gate_up_bytes(*args) : once_gate_up_bytes(*args);
  // Of a few rows: what is under way and no more, so that the block fits beside those of the kernel before.
  const int64_t most = args->rows > 1 && each(*args) ? args->under_way * kFewSlotBytes : kFewRingMax;
  args->ring_bytes = few_ring_bytes(gate_up_units(*args), kFewSlotBytes, std::min(most, few_room(gpu, *args) - fixed));
  return few_grid(grid, args->ring_bytes + fixed, true);
}

device::Grid down_grid(const Gpu& gpu, GpuFewExpertsArgs* args) {
  // Of one row they come while the kernel before reads its own.
  args->under_way = args->rows == 1 ? 1 : 4;
  const int64_t fixed = each(*args) ? each_down_bytes(*args) : once_down_bytes(*args);
  args->ring_bytes = few_ring_bytes(down_units(*args), kFewSlotBytes, few_room(gpu, *args) - fixed);
  return few_grid((args->d + kStripRows - 1) / kStripRows, args->ring_bytes + fixed, false);
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
  const int64_t up = gate_up_grid(gpu, &sized).shared_bytes;
  const bool up_hides = few_ring_hides(sized.ring_bytes, gate_up_units(sized), kFewSlotBytes);
  const int64_t down = down_grid(gpu, &sized).shared_bytes;
  return up <= room && up_hides && down <= room && few_ring_hides(sized.ring_bytes, down_units(args), kFewSlotBytes);
}

void experts_few(Gpu& gpu, GpuFewExpertsArgs args) {
  WEIR_CHECK(few_experts_takes(gpu, args), "{} rows, top {} of {} experts, {} x {}", args.rows, args.top_k,
             args.experts, args.d, args.f);
  // A lane looks at 8 or 16 experts.
  const bool many = args.experts > 256;
  // Blocks of one or two rows stand beside the kernel before and have the time to work them out.
  args.hands_on = args.rows > 2 ? 1 : 0;
  WEIR_CHECK(args.hands_on == 0 || args.routes != nullptr, "{} rows without memory for their routes", args.rows);
  const device::Grid up = gate_up_grid(gpu, &args);
  if (each(args)) {
    const bool one = args.rows == 1;
    gpu.launch(one ? (many ? "weir_one_gate_up_many" : "weir_one_gate_up")
                   : (many ? "weir_few_gate_up_many" : "weir_few_gate_up"),
               up, args);
    const device::Grid down = down_grid(gpu, &args);
    gpu.launch(one ? (many ? "weir_one_down_many" : "weir_one_down") : (many ? "weir_few_down_many" : "weir_few_down"),
               down, args);
  } else {
    gpu.launch(many ? "weir_once_gate_up_many" : "weir_once_gate_up", up, args);
    const device::Grid down = down_grid(gpu, &args);
    gpu.launch("weir_once_down", down, args);
  }
}

}  // namespace weir
