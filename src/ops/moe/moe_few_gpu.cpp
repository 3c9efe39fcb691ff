#include "ops/moe/moe_few_gpu.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <string_view>

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
int64_t few_room(const device::DeviceInfo& info, const GpuFewExpertsArgs& args) {
  return info.shared_bytes_max - (args.rows == 1 ? kOneStatic : kFewStatic);
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

bool apart(const GpuFewExpertsArgs& args) {
  return args.shared_down != nullptr;
}

// Units of a share of gate and up, at most, and bytes of the slots of a ring that they fill; the same of a strip of
// down.
int64_t gate_up_units(const GpuFewExpertsArgs& args) {
  return args.items_max * int64_t{args.d / kBlockK};
}
int64_t chunk_bytes(const GpuFewExpertsArgs& args, int64_t units, int32_t format) {
  const int64_t each = few_chunk_units(format);
  return (units + each - 1) / each * few_chunk_bytes(args.format);
}
int64_t gate_up_ring(const GpuFewExpertsArgs& args) {
  return chunk_bytes(args, gate_up_units(args), args.format);
}
int64_t down_entries(const GpuFewExpertsArgs& args) {
  return int64_t{args.rows} * args.top_k + args.shared;
}
int64_t down_units(const GpuFewExpertsArgs& args) {
  return down_entries(args) * (args.f / kBlockK);
}
int64_t down_ring(const GpuFewExpertsArgs& args) {
  const int64_t blocks = args.f / kBlockK;
  if (!apart(args)) return chunk_bytes(args, down_units(args), args.format);
  return chunk_bytes(args, down_units(args) - blocks, args.format) + chunk_bytes(args, blocks, kFewApartFormat);
}
int32_t ring_bytes(const GpuFewExpertsArgs& args, int64_t bytes, int64_t room, int64_t most = kFewRingMax) {
  return few_ring_bytes(bytes, few_chunk_bytes(args.format), room, most);
}

void share_items(GpuFewExpertsArgs* args, int64_t grid) {
  args->items_max = static_cast<int32_t>((items(*args) + grid - 1) / grid);
}

// What a block of moe_one.cu has beside its ring.
int64_t one_bytes(int64_t rows, int64_t width, int64_t units) {
  return (rows + 1) * 2 * width + units * (kStripRows + 2) * kFloat + kFewBarriers * kBarrier;
}

device::Grid one_gate_up_grid(const device::DeviceInfo& info, GpuFewExpertsArgs* args) {
  const int64_t grid = std::min<int64_t>(info.multiprocessors, items(*args));
  share_items(args, grid);
  args->under_way = 6;
  const int64_t fixed = one_bytes(1, args->d, gate_up_units(*args));
  args->ring_bytes = ring_bytes(*args, gate_up_ring(*args), few_room(info, *args) - fixed);
  device::Grid out = few_grid(grid, args->ring_bytes + fixed, true);
  out.threads = few_threads(args->format);
  return out;
}

device::Grid one_down_grid(const device::DeviceInfo& info, GpuFewExpertsArgs* args) {
  args->under_way = 1;  // they come while the kernel before reads its own
  const int64_t fixed = one_bytes(args->top_k + args->shared, args->f, down_units(*args));
  args->ring_bytes = ring_bytes(*args, down_ring(*args), few_room(info, *args) - fixed);
  device::Grid out = few_grid((args->d + kStripRows - 1) / kStripRows, args->ring_bytes + fixed, false);
  out.threads = few_threads(args->format);
  return out;
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
int64_t half_bytes(const GpuFewExpertsArgs& args, int64_t rows, int64_t width, int64_t dots, int64_t pad,
                   int64_t experts) {
  const int64_t blocks = width / kBlockK;
  const int64_t scales = few_has_scales(args.format) ? 2 * blocks + kFewScalesPad : 0;
  return rows * (2 * width + kFewRowPad) + dots * (blocks * kStripRows + pad) * kFloat + experts * scales * kFloat;
}

device::Grid few_experts_grid(const device::DeviceInfo& info, GpuFewExpertsArgs* args) {
  const int64_t routed = int64_t{args->rows} * args->top_k;
  const int64_t entries = routed + int64_t{args->rows} * args->shared;
  const int64_t work = std::max(items(*args), int64_t{args->d + kStripRows - 1} / kStripRows);
  const int64_t grid = std::min<int64_t>(info.multiprocessors, work);
  share_items(args, grid);
  args->pairs_max = static_cast<int32_t>(pairs_max(*args, grid));
  args->under_way = 4;
  // An item's columns and a pair's item: 16 and 4 bytes.
  const int64_t up = half_bytes(*args, args->rows, args->d, args->pairs_max, kFewGatePad, args->items_max) +
                     args->items_max * int64_t{2 * kFewMoeRows} + args->pairs_max * int64_t{4};
  const int64_t down = half_bytes(*args, entries + 1, args->f, entries, kFewDownPad, routed + args->shared);
  const int64_t fixed = std::max(up, down) + kFewExpertsBarriers * kBarrier;
  const int64_t most = std::max(gate_up_ring(*args), down_ring(*args));
  args->ring_bytes = ring_bytes(*args, most, few_room(info, *args) - fixed, few_room(info, *args));
  device::Grid out = few_grid(grid, args->ring_bytes + fixed, true);
  out.threads = few_experts_threads(args->format);
  return out;
}

// As moe_some.cu and routes.h lay out their memory.
constexpr int64_t kColumns = 8;
constexpr int64_t kSomeSlotsMax = 6;

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

device::Grid some_grid(const device::DeviceInfo& info, GpuFewExpertsArgs* args, int64_t blocks, int64_t slot_bytes,
                       int64_t fixed) {
  fixed += kSomeBarriers * kBarrier + some_routes_bytes(*args);
  const int64_t room = info.shared_bytes_max - fixed;
  const int64_t slots = std::min<int64_t>(kSomeSlotsMax, room / slot_bytes);
  args->ring_bytes = static_cast<int32_t>(std::max<int64_t>(slots, 2) * slot_bytes);
  return few_grid(blocks, args->ring_bytes + fixed, true);
}

// Weights of a slot, and their scales.
int64_t some_slot_bytes(const GpuFewExpertsArgs& args, int64_t weights) {
  return weights + (few_has_scales(args.format) ? few_chunk_units(args.format) * 2 * kFloat : 0);
}

device::Grid some_gate_up_grid(const device::DeviceInfo& info, GpuFewExpertsArgs* args) {
  const int64_t units = args->d / kBlockK;
  const int64_t fixed = 2 * kColumns * (2 * int64_t{args->d} + 16) + 2 * units * (kColumns * kStripRows + 2) * kFloat;
  return some_grid(info, args, info.multiprocessors, some_slot_bytes(*args, few_chunk_bytes(args->format)), fixed);
}

device::Grid some_down_grid(const device::DeviceInfo& info, GpuFewExpertsArgs* args) {
  const int64_t blocks = args->f / kBlockK;
  const int64_t units = few_chunk_units(args->format);
  int64_t weights = few_chunk_bytes(args->format);
  if (few_may_be_apart(args->format)) weights = std::max(weights, blocks * few_unit_bytes(kFewApartFormat));
  const int64_t slot = some_slot_bytes(*args, weights) + units / blocks * kColumns * (2 * int64_t{args->f} + 16);
  return some_grid(info, args, (args->d + kStripRows - 1) / kStripRows, slot,
                   2 * units * (kColumns * kStripRows + 2) * kFloat);
}

bool takes_format(const GpuFewExpertsArgs& args) {
  return (args.format == kGpuFp8Block || args.format == kGpuMxfp4) &&
         (!apart(args) || (few_may_be_apart(args.format) && args.shared_gate_up != nullptr && args.shared != 0));
}

// The kernel of a format; `many`: of more than 256 experts.
std::string kernel_of(const GpuFewExpertsArgs& args, std::string_view name, bool many) {
  return fmt::format("weir_{}{}{}", name, args.format == kGpuMxfp4 ? "_mxfp4" : "", many ? "_many" : "");
}

}  // namespace

bool some_experts_fit(const device::DeviceInfo& info, const GpuFewExpertsArgs& args) {
  if (!takes_format(args) || args.rows < 1 || args.rows > kPackedMoeRows || args.top_k > kPackedTopMax ||
      args.experts > kPackedExpertsMax || !whole_blocks(args.d) || !whole_blocks(args.f) ||
      args.d < kFewWarps * kBlockK || args.f < 2 * kBlockK || args.f > kFewWarps * kBlockK || args.stride == 0 ||
      some_routes_bytes(args) > kSomeRoutesBytes) {
    return false;
  }
  GpuFewExpertsArgs sized = args;
  const int64_t room = info.shared_bytes_max;
  return some_routes_grid(args).shared_bytes <= room && some_gate_up_grid(info, &sized).shared_bytes <= room &&
         some_down_grid(info, &sized).shared_bytes <= room;
}

void experts_some(Gpu& gpu, GpuFewExpertsArgs args) {
  const device::DeviceInfo& info = gpu.device->info();
  WEIR_CHECK(some_experts_fit(info, args) && args.routes != nullptr, "{} rows, top {} of {} experts, {} x {}",
             args.rows, args.top_k, args.experts, args.d, args.f);
  gpu.launch("weir_some_routes", some_routes_grid(args), args);
  args.routes_bytes = static_cast<int32_t>(some_routes_bytes(args));
  device::Grid up = some_gate_up_grid(info, &args);
  up.threads = some_threads(args.format, kSomeUpJoinWarps);
  gpu.launch(kernel_of(args, "some_gate_up", false), up, args);
  device::Grid down = some_down_grid(info, &args);
  down.threads = some_threads(args.format, kSomeDownJoinWarps);
  gpu.launch(kernel_of(args, "some_down", false), down, args);
}

bool few_experts_fit(const device::DeviceInfo& info, const GpuFewExpertsArgs& args) {
  if (!takes_format(args) || args.rows < 1 || args.rows > kFewMoeRows || args.top_k + args.shared > kFewSlots ||
      args.experts > kPackedExpertsMax || !whole_blocks(args.d) || !whole_blocks(args.f) || args.stride == 0 ||
      info.multiprocessors < 2) {
    return false;
  }
  GpuFewExpertsArgs sized = args;
  const int64_t room = few_room(info, args);
  const auto fits = [&](const device::Grid& grid, int64_t bytes) {
    return grid.shared_bytes <= room && few_ring_hides(sized.ring_bytes, bytes, few_chunk_bytes(args.format));
  };
  if (args.rows > 1) {
    const device::Grid grid = few_experts_grid(info, &sized);
    return fits(grid, std::max(gate_up_ring(sized), down_ring(sized)));
  }
  const device::Grid up = one_gate_up_grid(info, &sized);
  if (!fits(up, gate_up_ring(sized))) return false;
  const device::Grid down = one_down_grid(info, &sized);
  return fits(down, down_ring(sized));
}

void experts_few(Gpu& gpu, GpuFewExpertsArgs args) {
  const device::DeviceInfo& info = gpu.device->info();
  WEIR_CHECK(few_experts_fit(info, args), "{} rows, top {} of {} experts, {} x {}", args.rows, args.top_k, args.experts,
             args.d, args.f);
  const bool many = args.experts > 256;  // a lane looks at 8 or 16
  if (args.rows > 1) {
    WEIR_CHECK(args.turns != nullptr, "{} rows without memory for turns", args.rows);
    const device::Grid grid = few_experts_grid(info, &args);
    gpu.launch(kernel_of(args, "few_experts", many), grid, args);
    return;
  }
  const device::Grid up = one_gate_up_grid(info, &args);
  gpu.launch(kernel_of(args, "one_gate_up", many), up, args);
  const device::Grid down = one_down_grid(info, &args);
  gpu.launch(kernel_of(args, "one_down", many), down, args);
}

}  // namespace weir
