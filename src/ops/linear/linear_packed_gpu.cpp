#include "ops/linear/linear_packed_gpu.h"

#include <algorithm>

#include "base/check.h"
#include "ops/cpu/aligned.h"

namespace weir {
namespace {

constexpr int kWarps = 8;           // that compute, of packed_ring.h
constexpr int kUnits = 2 * kWarps;  // blocks of K of a stage at most
constexpr int kThreads = 32 * (kWarps + 1 + 2);
constexpr int kScaleSlotBytes = 160;  // of packed_ring.h
constexpr int64_t kFloat = sizeof(float);
constexpr int kSlotsMax = 12;
constexpr int64_t kReservedShared = 1024;  // that the system takes of a block's shared memory
constexpr int64_t kTwoRowTilesK = 4096;    // up to here 16 rows fit beside a ring

// Stages whose sums wait to be joined: more where they are small.
int32_t sum_slots(int64_t rows) {
  return rows <= 2 ? 4 : 2;
}

// Bytes of shared memory beside the ring.
int64_t fixed_bytes(int64_t rows, int64_t k, int64_t row_limit, int64_t units) {
  return (rows + 1) * (2 * k + 16) + sum_slots(rows) * units * (rows * kStripRows + 2) * kFloat +
         row_limit * kWarps * kFloat + 2 * (kSlotsMax + sum_slots(rows)) * static_cast<int64_t>(sizeof(uint64_t));
}

// Bytes of a stage of `units` blocks of K of FP8, or as many bytes of other formats.
int32_t stage_bytes(const GpuPackedLinearArgs& args, int32_t units) {
  int32_t largest = 0;
  for (int32_t i = 0; i < args.count; ++i) {
    largest = std::max(largest, units * 2 * packed_tile_bytes(args.outputs[i].weight.format));
  }
  return std::min(largest, units * 2 * packed_tile_bytes(kGpuFp8Block));
}

struct RingSize {
  int32_t units = 0;
  int32_t slot_bytes = 0;
  int32_t slots = 0;
  int64_t fixed = 0;
};

// The largest stages of which three fit while another block runs beside this one, as the next kernel's does before this
// one has ended; where none fit, the multiprocessor belongs to one block.
RingSize ring_size(const GpuPackedLinearArgs& args, const device::DeviceInfo& info, int64_t rows, int64_t row_limit) {
  const auto of = [&](int32_t units, int64_t shared_bytes) {
    RingSize size;
    size.units = units;
    size.slot_bytes = stage_bytes(args, units);
    size.fixed = fixed_bytes(rows, args.k, row_limit, units);
    size.slots = static_cast<int32_t>(
        std::clamp<int64_t>((shared_bytes - size.fixed) / (size.slot_bytes + kScaleSlotBytes), 0, kSlotsMax));
    return size;
  };
  const int64_t half = (info.shared_bytes_max + kReservedShared) / 2 - kReservedShared;
  for (const int64_t shared_bytes : {half, info.shared_bytes_max}) {
    for (const int32_t units : {kUnits, kWarps}) {
      const RingSize size = of(units, shared_bytes);
      if (size.slots >= 3) return size;
    }
  }
  check_failed(__FILE__, __LINE__, "slots >= 3", "no room for a ring beside the rows");
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
  for (int32_t i = 0; i < args.count; ++i) {
    const GpuPacked& weight = args.outputs[i].weight;
    WEIR_CHECK(weight.k == args.k && weight.strips > 0, "a matrix of {} x {} beside K {}", weight.n, weight.k, args.k);
    args.total_cost += packed_strip_cost(weight) * static_cast<uint32_t>(weight.strips);
    strips += weight.strips;
  }
  const device::DeviceInfo& info = gpu.device->info();
  const int64_t row_limit = args.rows > 8 && args.k <= kTwoRowTilesK ? 16 : 8;
  const int64_t rows = std::min<int64_t>(args.rows, row_limit);
  args.groups = static_cast<int32_t>((args.rows + row_limit - 1) / row_limit);
  const RingSize ring = ring_size(args, info, rows, row_limit);
  args.slot_bytes = ring.slot_bytes;
  args.slots = ring.slots;
  args.units = ring.units;
  args.sum_slots = sum_slots(rows);
  device::Grid grid;
  grid.x = std::min<int64_t>(info.multiprocessors, strips) * args.groups;
  grid.threads = kThreads;
  grid.shared_bytes = round_up(ring.fixed + ring.slots * (ring.slot_bytes + kScaleSlotBytes), 16);
  grid.overlap = true;
  gpu.launch(row_limit == 16 ? "weir_linear_packed_16" : "weir_linear_packed_8", grid, args);
}

}  // namespace weir
