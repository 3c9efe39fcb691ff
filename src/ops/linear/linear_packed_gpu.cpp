#include "ops/linear/linear_packed_gpu.h"

#include <algorithm>

#include "base/check.h"
#include "ops/linear/packed_sizes.h"

namespace weir {
namespace {

constexpr int kThreads = 32 * (kPackedWarps + 1 + kPackedJoinWarps);
constexpr int64_t kTwoRowTilesK = 4096;  // up to here 16 rows fit beside a ring

int32_t slot_bytes(const GpuPackedLinearArgs& args, int32_t units) {
  int32_t bytes = 0;
  for (int32_t i = 0; i < args.count; ++i) {
    const int32_t format = args.outputs[i].weight.format;
    bytes = std::max(bytes, packed_stage_units(format, units) * packed_unit_bytes(format));
  }
  return bytes;
}

// The largest stages of which enough fit, if possible beside another block; sums of more stages where they are small.
PackedRing choose_ring(const GpuPackedLinearArgs& args, int64_t shared_bytes_max, int64_t fixed, int rows) {
  PackedRing ring;
  ring.columns = rows;
  const auto fits = [&](bool alone, int units, int least) {
    ring.units = units;
    ring.slot_bytes = slot_bytes(args, units);
    for (ring.sum_slots = rows == 1 ? 4 : 2; ring.sum_slots > 0; ring.sum_slots /= 2) {
      if (packed_slots(shared_bytes_max, alone, fixed, &ring, least)) return true;
    }
    return false;
  };
  bool fp8 = false;
  for (int32_t i = 0; i < args.count; ++i) fp8 = fp8 || args.outputs[i].weight.format != kGpuBf16;
  const int most = fp8 ? kPackedUnits : packed_stage_units(kGpuBf16, kPackedUnits);
  WEIR_CHECK(fits(false, most, 3) || fits(false, kPackedWarps, 3) || fits(true, most, 3) ||
                 fits(true, kPackedWarps, 3) || fits(true, kPackedWarps, 2),
             "no room for a ring beside {} rows of {}", rows, args.k);
  return ring;
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
  args.total_cost = 0;
  args.types = 0;
  for (int32_t i = 0; i < args.count; ++i) {
    const GpuPacked& weight = args.outputs[i].weight;
    WEIR_CHECK(weight.k == args.k && weight.strips > 0, "a matrix of {} x {} beside K {}", weight.n, weight.k, args.k);
    args.total_cost += packed_strip_cost(weight) * static_cast<uint32_t>(weight.strips);
    strips += weight.strips;
    args.types |= 1 << operand_type(weight.format);
  }
  WEIR_CHECK(args.norm != nullptr || (((args.types & 1 << kOperandBf16) == 0 || args.x_bf16 != nullptr) &&
                                      ((args.types & 1 << kOperandF16) == 0 || args.x_f16 != nullptr)),
             "rows in the types {} are missing", args.types);
  const device::DeviceInfo& info = gpu.device->info();
  const int64_t row_limit = args.rows > 8 && args.types != 3 && args.k <= kTwoRowTilesK ? 16 : 8;
  const auto rows = static_cast<int>(std::min<int64_t>(args.rows, row_limit));
  args.groups = static_cast<int32_t>((args.rows + row_limit - 1) / row_limit);
  const int copies = args.types == 3 ? 2 : 1;
  const int64_t fixed = int64_t{copies} * rows * packed_row_bytes(args.k) + int64_t{rows} * kPackedWarps * 4;
  args.ring = choose_ring(args, info.shared_bytes_max, fixed, rows);
  device::Grid grid;
  grid.x = std::min<int64_t>(info.multiprocessors, strips) * args.groups;
  grid.threads = kThreads;
  grid.shared_bytes = fixed + packed_pipe_bytes(args.ring);
  grid.overlap = true;
  gpu.launch(row_limit == 16 ? "weir_linear_packed_16" : "weir_linear_packed_8", grid, args);
}

}  // namespace weir
