#include "ops/linear/linear_few_gpu.h"

#include <algorithm>

#include "base/check.h"
#include "ops/cpu/aligned.h"

namespace weir {
namespace {

constexpr int64_t kWarps = 8;  // of few_units.h
constexpr int64_t kFloat = sizeof(float);
constexpr int64_t kStripsMax =
    24;  // of a block: more is a matrix that is read long enough for the ring of linear_packed

struct Plan {
  GpuFewArgs args;
  device::Grid grid;
};

Plan plan(const Gpu& gpu, GpuFewArgs args) {
  const device::DeviceInfo& info = gpu.device->info();
  args.fp8_strips = 0;
  args.bf16_strips = 0;
  for (int32_t i = 0; i < args.count; ++i) {
    (i < args.fp8_count ? args.fp8_strips : args.bf16_strips) += args.outputs[i].weight.strips;
  }
  args.weights = args.outputs[0].weight.data;
  args.scales = args.outputs[0].weight.scales;
  const int64_t cost = args.fp8_strips + 2 * int64_t{args.bf16_strips};
  Plan out;
  out.grid.x = std::min<int64_t>(info.multiprocessors, cost);
  const int64_t share = (cost + out.grid.x - 1) / out.grid.x;
  args.strips_max = static_cast<int32_t>(share + 1);
  const int64_t blocks = args.k / kBlockK;
  const int64_t rows = (args.bf16_strips > 0 ? 2 : 1) * (args.rows + 1) * (2 * int64_t{args.k} + 16);
  out.grid.shared_bytes =
      rows + args.strips_max * blocks * (args.rows * kStripRows + 2) * kFloat + kWarps * kFewRows * kFloat;
  out.grid.threads = 256;
  out.grid.overlap = true;
  out.args = args;
  return out;
}

}  // namespace

bool few_takes(const Gpu& gpu, const GpuFewArgs& args) {
  const int64_t blocks = args.k / kBlockK;
  if (args.rows < 1 || args.rows > kFewRows || args.k % kBlockK != 0 || args.fp8_count == 0) return false;
  if ((blocks & (blocks - 1)) != 0) return false;
  for (int32_t i = 0; i < args.count; ++i) {
    const GpuPacked& w = args.outputs[i].weight;
    if (w.format != (i < args.fp8_count ? kGpuFp8Block : kGpuBf16) || w.k != args.k) return false;
    if (i == 0 || i >= args.fp8_count) continue;
    const GpuPacked& before = args.outputs[i - 1].weight;
    if (w.data != before.data + int64_t{before.strips} * before.tiles * packed_tile_bytes(before.format)) return false;
    if (w.scales != before.scales + int64_t{before.strips} * blocks * 2) return false;
  }
  const Plan p = plan(gpu, args);
  return p.args.strips_max <= kStripsMax && p.grid.shared_bytes <= gpu.device->info().shared_bytes_max;
}

void linear_few(Gpu& gpu, GpuFewArgs args) {
  WEIR_CHECK(few_takes(gpu, args), "{} rows, {} matrices of K {}", args.rows, args.count, args.k);
  const Plan p = plan(gpu, args);
  gpu.launch("weir_linear_few", p.grid, p.args);
}

}  // namespace weir
