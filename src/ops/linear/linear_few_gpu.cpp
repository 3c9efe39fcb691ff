#include "ops/linear/linear_few_gpu.h"

#include <algorithm>

#include "base/check.h"
#include "ops/linear/few_share.h"

namespace weir {
namespace {

using device::DeviceInfo;

constexpr int64_t kFloat = sizeof(float);
constexpr int64_t kBarrier = 8;
constexpr int64_t kNormedMax = 4096;  // values of a row that is normed: a thread keeps four times four
constexpr int64_t kStripsMax =
    24;  // of a block: more is a matrix that is read long enough for the ring of linear_packed

struct Plan {
  GpuFewArgs args;
  bool hides = false;  // its ring hides the reads
  device::Grid grid;
};

Plan plan(const DeviceInfo& info, GpuFewArgs args) {
  args.fp8_strips = 0;
  args.bf16_strips = 0;
  for (int32_t i = 0; i < args.count; ++i) {
    (i < args.fp8_count ? args.fp8_strips : args.bf16_strips) += args.outputs[i].weight.strips;
  }
  args.weights = args.outputs[0].weight.data;
  args.scales = args.outputs[0].weight.scales;
  // A BF16 strip is worth two FP8 strips.
  const int64_t cost = args.fp8_strips + 2 * int64_t{args.bf16_strips};
  const int64_t all = std::min<int64_t>(info.multiprocessors, cost);
  int64_t bf16_blocks = 0;
  if (args.bf16_strips > 0) {
    bf16_blocks = std::clamp<int64_t>(all * 2 * args.bf16_strips / cost, 1, args.bf16_strips);
  }
  args.fp8_blocks = 0;
  if (args.fp8_strips > 0) {
    args.fp8_blocks = static_cast<int32_t>(std::clamp<int64_t>(all - bf16_blocks, 1, args.fp8_strips));
  }
  const auto share = [](int64_t strips, int64_t over) { return over == 0 ? 0 : (strips + over - 1) / over; };
  const int64_t fp8_share = share(args.fp8_strips, args.fp8_blocks);
  const int64_t bf16_share = share(args.bf16_strips, bf16_blocks);
  args.strips_max = static_cast<int32_t>(std::max(fp8_share, bf16_share));
  const int64_t blocks = args.k / kBlockK;
  // BF16 units have twice the size.
  const int64_t slot_bytes = kFewWarps * kFewUnitBytes * (bf16_blocks > 0 ? 2 : 1);
  const int64_t fixed = (args.rows + 1) * (2 * int64_t{args.k} + 16) +
                        args.strips_max * blocks * (args.rows * kStripRows + 2) * kFloat +
                        kFewWarps * kFewRows * kFloat + kFewBarriers * kBarrier;
  const int64_t bytes = std::max(fp8_share, 2 * bf16_share) * blocks * kFewUnitBytes;
  args.ring_bytes = few_ring_bytes(bytes, slot_bytes, info.shared_bytes_max - fixed);
  // What this kernel's block waits for would queue behind more, of one row; of several, weights are what it waits for.
  args.under_way = args.rows == 1 ? 2 : 3;
  Plan out;
  out.args = args;
  out.hides = few_ring_hides(args.ring_bytes, bytes, slot_bytes);
  // The router's and the shared expert's, before the experts' first kernel, is short.
  const bool alone = args.strips_max > 1 || bf16_blocks == 0 || args.count == 1;
  out.grid = few_grid(args.fp8_blocks + bf16_blocks, args.ring_bytes + fixed, alone);
  return out;
}

int64_t head_shared_bytes(const GpuFewArgs& args) {
  return (args.rows + 1) * (2 * int64_t{args.k} + 16) + kFewRows * kFewWarps * kFloat;
}

// As linear_some.cu lays out its memory.
constexpr int64_t kSomeUnits = 4;
constexpr int kSomeThreads = 544;

device::Grid some_grid(const DeviceInfo& info, GpuFewArgs* args) {
  const GpuPacked& w = args->outputs[0].weight;
  const int64_t columns = (args->rows + 7) / 8 * 8;
  const int64_t unit = w.format == kGpuBf16 ? 2 * kFewUnitBytes : kFewUnitBytes + 8;  // FP8: with two scales
  const int64_t slot = kSomeUnits * unit + columns * (kSomeUnits * kBlockK * 2 + 16);
  const int64_t fixed = 2 * kSomeUnits * (columns * kStripRows + 2) * kFloat + (kFewBarriers + 2) * kBarrier;
  const int64_t chunks = args->k / kBlockK / kSomeUnits;
  const int64_t slots = std::min(chunks, (info.shared_bytes_max - fixed) / slot);
  args->ring_bytes = static_cast<int32_t>(std::clamp<int64_t>(slots, 1, 8) * slot);
  device::Grid grid = few_grid(w.strips, args->ring_bytes + fixed, true);
  grid.threads = kSomeThreads;
  return grid;
}

// FP8 outputs share one array of strips and one of scales.
bool lie_behind_each_other(const GpuFewArgs& args) {
  const int64_t blocks = args.k / kBlockK;
  for (int32_t i = 1; i < args.fp8_count; ++i) {
    const GpuPacked& w = args.outputs[i].weight;
    const GpuPacked& before = args.outputs[i - 1].weight;
    if (w.data != before.data + int64_t{before.strips} * before.tiles * packed_tile_bytes(before.format)) return false;
    if (w.scales != before.scales + int64_t{before.strips} * blocks * 2) return false;
  }
  return true;
}

}  // namespace

bool some_rows_fit(const DeviceInfo& info, const GpuFewArgs& args) {
  const GpuPacked& w = args.outputs[0].weight;
  GpuFewArgs sized = args;
  return args.rows >= 1 && args.rows <= kLinearSomeRows && args.count == 1 &&
         (w.format == kGpuFp8Block || w.format == kGpuBf16) && w.k == args.k && args.k % (kSomeUnits * kBlockK) == 0 &&
         args.norm == nullptr && args.x_rows == nullptr && args.outputs[0].kind != kPackedSwiglu &&
         w.strips <= info.multiprocessors && some_grid(info, &sized).shared_bytes <= info.shared_bytes_max;
}

bool some_rows_takes(const Gpu& gpu, const GpuFewArgs& args) {
  return some_rows_fit(gpu.device->info(), args);
}

void linear_some(Gpu& gpu, GpuFewArgs args) {
  WEIR_CHECK(some_rows_takes(gpu, args), "{} rows, {} matrices of K {}", args.rows, args.count, args.k);
  const GpuPacked& w = args.outputs[0].weight;
  args.weights = w.data;
  args.scales = w.scales;
  const device::Grid grid = some_grid(gpu.device->info(), &args);
  gpu.launch(w.format == kGpuBf16 ? "weir_linear_some_bf16" : "weir_linear_some", grid, args);
}

bool few_fits(const DeviceInfo& info, const GpuFewArgs& args) {
  const int64_t blocks = args.k / kBlockK;
  if (args.rows < 1 || args.rows > kFewRows || args.k % kBlockK != 0 || args.count == 0) return false;
  if ((blocks & (blocks - 1)) != 0 || (args.norm != nullptr && args.k > kNormedMax)) return false;
  for (int32_t i = 0; i < args.count; ++i) {
    const GpuPacked& w = args.outputs[i].weight;
    if (w.format != (i < args.fp8_count ? kGpuFp8Block : kGpuBf16) || w.k != args.k) return false;
  }
  // Only blocks that take outputs of a type have normed rows in it.
  if (args.x_out_f16 != nullptr && args.fp8_count == 0) return false;
  if (args.x_out_bf16 != nullptr && args.fp8_count == args.count) return false;
  const Plan p = plan(info, args);
  return p.hides && p.args.strips_max <= kStripsMax && p.grid.shared_bytes <= info.shared_bytes_max;
}

bool few_takes(const Gpu& gpu, const GpuFewArgs& args) {
  return few_fits(gpu.device->info(), args) && lie_behind_each_other(args);
}

void linear_few(Gpu& gpu, GpuFewArgs args) {
  WEIR_CHECK(few_takes(gpu, args), "{} rows, {} matrices of K {}", args.rows, args.count, args.k);
  const Plan p = plan(gpu.device->info(), args);
  gpu.launch(p.args.rows == 1 ? "weir_linear_one" : "weir_linear_few", p.grid, p.args);
}

bool head_few_takes(const Gpu& gpu, const GpuFewArgs& args) {
  const GpuPacked& w = args.outputs[0].weight;
  return args.rows >= 1 && args.rows <= kFewRows && args.count == 1 && w.format == kGpuBf16 && w.k == args.k &&
         args.k % (2 * kBlockK) == 0 && args.norm != nullptr && args.outputs[0].kind == kPackedStore &&
         head_shared_bytes(args) <= gpu.device->info().shared_bytes_max;
}

void head_few(Gpu& gpu, const GpuFewArgs& args) {
  WEIR_CHECK(head_few_takes(gpu, args), "{} rows, a matrix of K {}", args.rows, args.k);
  device::Grid grid;
  // Two blocks of a multiprocessor, where there is work for their warps.
  grid.x = std::min<int64_t>(2 * int64_t{gpu.device->info().multiprocessors},
                             (args.outputs[0].weight.strips + kFewWarps - 1) / kFewWarps);
  grid.shared_bytes = head_shared_bytes(args);
  grid.threads = 256;
  grid.overlap = true;
  gpu.launch("weir_head_few", grid, args);
}

}  // namespace weir
