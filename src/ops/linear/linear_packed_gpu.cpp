#include "ops/linear/linear_packed_gpu.h"

#include <algorithm>

#include "base/check.h"
#include "ops/cpu/aligned.h"

namespace weir {
namespace {

constexpr int kWarps = 8;  // that compute, of packed_ring.h
constexpr int kThreads = 32 * (kWarps + 1);
constexpr int kScaleSlotBytes = 96;  // of packed_ring.h
constexpr int64_t kFloat = sizeof(float);
constexpr int kSlotsMax = 12;
constexpr int64_t kReservedShared = 1024;  // that the system takes of a block's shared memory
constexpr int64_t kTwoRowTilesK = 4096;    // up to here 16 rows fit beside a ring

// Bytes of shared memory beside the ring.
int64_t fixed_bytes(int64_t rows, int64_t k, int64_t row_limit) {
  return (rows + 1) * (2 * k + 16) + 2 * kWarps * rows * kStripRows * kFloat + row_limit * kWarps * kFloat +
         2 * kSlotsMax * static_cast<int64_t>(sizeof(uint64_t));
}

// A stage holds eight blocks of K where that is at most 16 KiB, so that several are under way.
int32_t stage_bytes(const GpuPackedLinearArgs& args) {
  int32_t largest = 0;
  bool only_bf16 = true;
  for (int32_t i = 0; i < args.count; ++i) {
    const int32_t format = args.outputs[i].weight.format;
    only_bf16 = only_bf16 && format == kGpuBf16;
    largest = std::max(largest, kWarps * 2 * packed_tile_bytes(format));
  }
  return only_bf16 ? largest : std::min(largest, kWarps * 2 * packed_tile_bytes(kGpuFp8Block));
}

}  // namespace

GpuPacked packed_shape(int64_t n, int64_t k, int32_t format) {
  WEIR_CHECK(n > 0 && k > 0 && k % kTileK == 0 && packed_tile_bytes(format) > 0, "no packed form of {} x {}, format {}",
             n, k, format);
  GpuPacked out;
  out.n = static_cast<int32_t>(n);
  out.k = static_cast<int32_t>(k);
  out.strips = static_cast<int32_t>((n + kStripRows - 1) / kStripRows);
  out.tiles = static_cast<int32_t>(k / kTileK);
  out.format = format;
  return out;
}

int64_t packed_data_bytes(const GpuPacked& shape) {
  return int64_t{shape.strips} * shape.tiles * packed_tile_bytes(shape.format);
}

int64_t packed_scale_floats(const GpuPacked& shape) {
  if (shape.format == kGpuFp8Row) return int64_t{shape.strips} * kStripRows;
  // Copies of scales are rounded up to 16 bytes.
  return shape.format == kGpuFp8Block ? int64_t{shape.strips} * ((shape.tiles + 1) / 2) * 2 + 4 : 0;
}

void pack(Gpu& gpu, const GpuPackArgs& args) {
  const int64_t rows = args.source.n + (args.interleaved != 0 ? args.second.n : 0);
  WEIR_CHECK(args.target.n == rows && args.target.k == args.source.k && args.target.format == args.source.format &&
                 (args.interleaved == 0 || (args.second.n == args.source.n && args.second.k == args.source.k &&
                                            args.second.format == args.source.format && args.source.n % 8 == 0)),
             "packing {} x {} into {} x {}", rows, args.source.k, args.target.n, args.target.k);
  device::Grid grid;
  grid.x = args.target.strips;
  grid.threads = 128;
  gpu.launch("weir_pack", grid, args);
}

void linear_packed(Gpu& gpu, GpuPackedLinearArgs args) {
  WEIR_CHECK(args.count > 0 && args.count <= kGpuLinearGroupMax && args.k % kTileK == 0, "{} matrices of K {}",
             args.count, args.k);
  if (args.rows == 0) return;
  int64_t strips = 0;
  args.total_bytes = 0;
  for (int32_t i = 0; i < args.count; ++i) {
    const GpuPacked& weight = args.outputs[i].weight;
    WEIR_CHECK(weight.k == args.k && weight.strips > 0, "a matrix of {} x {} beside K {}", weight.n, weight.k, args.k);
    args.total_bytes += packed_data_bytes(weight);
    strips += weight.strips;
  }
  const device::DeviceInfo& info = gpu.device->info();
  const int64_t row_limit = args.rows > 8 && args.k <= kTwoRowTilesK ? 16 : 8;
  const int64_t rows = std::min<int64_t>(args.rows, row_limit);
  args.groups = static_cast<int32_t>((args.rows + row_limit - 1) / row_limit);
  args.slot_bytes = stage_bytes(args);
  const int64_t fixed = fixed_bytes(rows, args.k, row_limit);
  const int64_t slot = args.slot_bytes + kScaleSlotBytes;
  // Two blocks of a multiprocessor: the next kernel's begins while this one's ends. At least three stages.
  int64_t room = (info.shared_bytes_max + kReservedShared) / 2 - kReservedShared - fixed;
  if (room < 3 * slot) room = info.shared_bytes_max - fixed;
  args.slots = static_cast<int32_t>(std::min<int64_t>(room / slot, kSlotsMax));
  WEIR_CHECK(args.slots >= 2, "no room for a ring beside {} rows of {}", rows, args.k);
  device::Grid grid;
  grid.x = std::min<int64_t>(info.multiprocessors, strips) * args.groups;
  grid.threads = kThreads;
  grid.shared_bytes = round_up(fixed + args.slots * slot, 16);
  grid.overlap = true;
  gpu.launch(row_limit == 16 ? "weir_linear_packed_16" : "weir_linear_packed_8", grid, args);
}

}  // namespace weir
