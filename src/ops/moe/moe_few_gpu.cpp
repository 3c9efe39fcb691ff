#include "ops/moe/moe_few_gpu.h"

#include <algorithm>

#include "base/check.h"
#include "ops/cpu/aligned.h"
#include "ops/moe/moe_packed_args.h"

namespace weir {
namespace {

constexpr int64_t kFloat = sizeof(float);
constexpr int64_t kStatic = 4096;  // shared memory that the kernels have beside what is asked for

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

device::Grid gate_up_grid(const Gpu& gpu, GpuFewExpertsArgs* args) {
  device::Grid grid;
  grid.x = std::min<int64_t>(gpu.device->info().multiprocessors, items(*args));
  args->items_max = static_cast<int32_t>((items(*args) + grid.x - 1) / grid.x + 1);
  const int64_t blocks = args->d / kBlockK;
  grid.shared_bytes =
      (args->rows + 1) * (2 * int64_t{args->d} + 16) + args->items_max * blocks * (kStripRows + 2) * kFloat;
  grid.threads = 256;
  grid.overlap = true;
  return grid;
}

device::Grid down_grid(const GpuFewExpertsArgs& args) {
  device::Grid grid;
  const int64_t entries = int64_t{args.rows} * (args.top_k + args.shared);
  const int64_t blocks = args.f / kBlockK;
  grid.x = (args.d + kStripRows - 1) / kStripRows;
  grid.shared_bytes = (entries + 1) * (2 * int64_t{args.f} + 16) + entries * blocks * (kStripRows + 2) * kFloat;
  grid.threads = 256;
  grid.overlap = true;
  return grid;
}

}  // namespace

bool few_experts_takes(const Gpu& gpu, const GpuFewExpertsArgs& args) {
  if (args.rows < 1 || args.rows > kFewMoeRows || args.top_k + args.shared > kFewSlots ||
      args.experts > kPackedExpertsMax || !whole_blocks(args.d) || !whole_blocks(args.f) || args.stride == 0) {
    return false;
  }
  GpuFewExpertsArgs sized = args;
  const int64_t room = gpu.device->info().shared_bytes_max - kStatic;
  return gate_up_grid(gpu, &sized).shared_bytes <= room && down_grid(args).shared_bytes <= room;
}

void experts_few(Gpu& gpu, GpuFewExpertsArgs args) {
  WEIR_CHECK(few_experts_takes(gpu, args), "{} rows, top {} of {} experts, {} x {}", args.rows, args.top_k,
             args.experts, args.d, args.f);
  const device::Grid grid = gate_up_grid(gpu, &args);
  gpu.launch("weir_few_gate_up", grid, args);
  gpu.launch("weir_few_down", down_grid(args), args);
}

}  // namespace weir
