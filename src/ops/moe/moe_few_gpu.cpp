#include "ops/moe/moe_few_gpu.h"

#include <algorithm>

#include "base/check.h"
#include "ops/linear/few_share.h"
#include "ops/moe/moe_packed_args.h"

namespace weir {
namespace {

constexpr int64_t kFloat = sizeof(float);
constexpr int64_t kBarrier = 8;
constexpr int64_t kAhead = 16;     // entries: 16 MiB of experts of 512 x 2,048, which a few microseconds bring
constexpr int64_t kStatic = 1024;  // shared memory that the kernels have beside what is asked for

bool power_of_two(int64_t n) {
  return n > 0 && (n & (n - 1)) == 0;
}
// 128 times a power of two: places are found by shifts.
bool whole_blocks(int64_t k) {
  return k % kBlockK == 0 && power_of_two(k / kBlockK);
}

int64_t items(const GpuFewExpertsArgs& args) {
  return int64_t{args.rows} * args.top_k * (args.f / (kStripRows / 2));
}

int64_t fixed_bytes(int64_t rows, int64_t width, int64_t units) {
  return (rows + 1) * 2 * width + units * (kStripRows + 2) * kFloat + kFewBarriers * kBarrier;
}

device::Grid gate_up_grid(const Gpu& gpu, GpuFewExpertsArgs* args) {
  const device::DeviceInfo& info = gpu.device->info();
  const int64_t grid = std::min<int64_t>(info.multiprocessors, items(*args));
  args->items_max = static_cast<int32_t>((items(*args) + grid - 1) / grid);
  const int64_t units = args->items_max * int64_t{args->d / kBlockK};
  args->under_way = 6;
  args->ahead = static_cast<int32_t>(std::min<int64_t>(args->rows * args->top_k, kAhead));
  constexpr int64_t kSlot = kFewWarps * kFewUnitBytes;
  const int64_t fixed = fixed_bytes(args->rows, args->d, units);
  // Of a few rows: what is under way and no more, so that the block fits beside those of the kernel before.
  const int64_t most = args->rows > 1 && args->rows <= 4 ? args->under_way * kSlot : kFewRingMax;
  args->ring_bytes = few_ring_bytes(units, kSlot, std::min(most, info.shared_bytes_max - kStatic - fixed));
  return few_grid(grid, args->ring_bytes + fixed, true);
}

device::Grid down_grid(const Gpu& gpu, GpuFewExpertsArgs* args) {
  const int64_t entries = int64_t{args->rows} * (args->top_k + args->shared);
  const int64_t units = entries * (args->f / kBlockK);
  // Of one row they come while the kernel before reads its own.
  args->under_way = args->rows == 1 ? 1 : 4;
  const int64_t fixed = fixed_bytes(entries, args->f, units);
  args->ring_bytes =
      few_ring_bytes(units, kFewWarps * kFewUnitBytes, gpu.device->info().shared_bytes_max - kStatic - fixed);
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
      args.experts > kPackedExpertsMax || !whole_blocks(args.d) || !whole_blocks(args.f) || args.stride == 0) {
    return false;
  }
  GpuFewExpertsArgs sized = args;
  const int64_t room = gpu.device->info().shared_bytes_max - kStatic;
  constexpr int64_t kSlot = kFewWarps * kFewUnitBytes;
  const int64_t up = gate_up_grid(gpu, &sized).shared_bytes;
  const bool up_hides = few_ring_hides(sized.ring_bytes, sized.items_max * int64_t{args.d / kBlockK}, kSlot);
  const int64_t down = down_grid(gpu, &sized).shared_bytes;
  const int64_t units = int64_t{args.rows} * (args.top_k + args.shared) * (args.f / kBlockK);
  return up <= room && up_hides && down <= room && few_ring_hides(sized.ring_bytes, units, kSlot);
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
  gpu.launch(many ? "weir_few_gate_up_many" : "weir_few_gate_up", up, args);
  const device::Grid down = down_grid(gpu, &args);
  gpu.launch(many ? "weir_few_down_many" : "weir_few_down", down, args);
}

}  // namespace weir
