// For the kernel of the experts' hidden values over few rows: who brings, multiplies and joins.
#pragma once

#include "ops/moe/moe_packed_entries.h"

namespace weir {

// A block's share of the strips of all entries, each cut into stages.
struct GateUpWalk {
  const RouteEntry* entries;
  const EntryWeights* weights;
  int strip_tiles;
  int strips;
  int tile_bytes;
  int limit;  // units of a stage at most
  int left;   // strips
  int entry;
  int strip;
  int stage = 0;  // of the strip

  WEIR_DEVICE GateUpWalk(const GpuExpertsArgs& args, const RouteEntry* e, const EntryWeights* w, int count)
      : entries(e),
        weights(w),
        strip_tiles(args.d / kTileK),
        strips(args.f / (kStripRows / 2)),
        tile_bytes(packed_tile_bytes(args.format)),
        limit(packed_stage_units(args.format, args.ring.units)) {
    const auto total = static_cast<unsigned>(count * strips);
    const unsigned low = total * blockIdx.x / gridDim.x;
    left = static_cast<int>(total * (blockIdx.x + 1) / gridDim.x - low);
    entry = static_cast<int>(low) / strips;
    strip = static_cast<int>(low) - entry * strips;
  }
  WEIR_DEVICE int blocks() const { return (strip_tiles + 1) / 2; }
  WEIR_DEVICE bool more() const { return left > 0; }
  WEIR_DEVICE bool last() const { return (stage + 1) * limit >= blocks(); }
  WEIR_DEVICE void next() {
    if (!last()) {
      ++stage;
      return;
    }
    stage = 0;
    --left;
    if (++strip == strips) {
      strip = 0;
      ++entry;
    }
  }
  WEIR_DEVICE int units() const { return min(limit, blocks() - stage * limit); }
  WEIR_DEVICE uint32_t bytes() const {
    return static_cast<uint32_t>(min(2 * limit, strip_tiles - 2 * stage * limit) * tile_bytes);
  }
  WEIR_DEVICE const uint8_t* source() const {
    return weights[entry].data + static_cast<int64_t>(strip * strip_tiles + 2 * stage * limit) * tile_bytes;
  }
  WEIR_DEVICE const float* scale(int i) const {
    const float* scales = weights[entry].scales;
    return scales == nullptr ? nullptr : scales + (strip * blocks() + stage * limit) * 2 + i;
  }
  // From the first stage of a strip: what is left of this entry.
  WEIR_DEVICE PackedRun run() const {
    const int a_strip = (blocks() + limit - 1) / limit;
    return {min(left, strips - strip) * a_strip, a_strip, limit, blocks() - (a_strip - 1) * limit};
  }
  WEIR_DEVICE void next_entry() {
    left -= min(left, strips - strip);
    strip = 0;
    ++entry;
  }
};

WEIR_DEVICE void bring_gate_up(GateUpWalk walk, const Pipe& pipe) {
  if (device::lane() != 0) return;
  RingPlace at;
  for (; walk.more(); walk.next()) {
    pipe.weights.wait_free(at);
    device::barrier_expect(&pipe.weights.filled[at.slot], walk.bytes());
    device::bulk_copy_once(pipe.slot(at), walk.source(), walk.bytes(), &pipe.weights.filled[at.slot]);
    at.advance(pipe.size.slots);
  }
}

// Rows of x in shared memory. A warp always multiplies the same blocks of K, w and every eighth behind it; it brings
// these of every row itself and waits for nobody.
struct OwnColumns {
  uint8_t* data;
  int row_bytes;

  // Row i is row of(i).
  template <class Of>
  WEIR_DEVICE void ask(const GpuExpertsArgs& args, int count, const Of& of) const {
    constexpr int kLanes = kBlockK / 8;  // of a block of K of a row
    for (int k = device::warp() * kBlockK + device::lane() % kLanes * 8; k < args.d; k += kPackedWarps * kBlockK) {
      for (int i = device::lane() / kLanes; i < count; i += device::kWarp / kLanes) {
        device::copy16(data + i * row_bytes + 2 * k, args.x + static_cast<int64_t>(of(i)) * args.d + k);
      }
    }
    device::copies_commit();
  }
  WEIR_DEVICE static void wait() {
    device::copies_wait<0>();
    __syncwarp();
  }
};

// Entry by entry; up to eight rows of a step are in shared memory all along, else those of the entry.
WEIR_DEVICE void multiply_gate_up(const GpuExpertsArgs& args, GateUpWalk walk, const Pipe& pipe,
                                  const OwnColumns& own_columns) {
  const bool all_rows = args.rows <= 8;
  OwnColumns::wait();
  RingPlace at;
  RingPlace to;
  for (; walk.more(); walk.next_entry()) {
    const RouteEntry& entry = walk.entries[walk.entry];
    const int c = min(device::lane() % 8, entry.count - 1);
    const int row = all_rows ? entry.rows[c] : c;
    if (!all_rows) {
      __syncwarp();
      own_columns.ask(args, entry.count, [&](int i) { return entry.rows[i]; });
      OwnColumns::wait();
    }
    const PackedRun run = walk.run();
    OwnUnit own[2];
    uint32_t columns[2][1];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int u = device::warp() + i * kPackedWarps;
      own[i] = {u * 2 * walk.tile_bytes, false, walk.strip_tiles % 2 != 0 && u == run.tail - 1};
      columns[i][0] = column_address(own_columns.data, own_columns.row_bytes, row, u * kBlockK);
    }
    with_packed_format(args.format, [&]<int kFormat>() {
      multiply_run<kFormat, 1, false>(pipe, at, to, run, own, columns, static_cast<uint32_t>(walk.limit * kBlockK * 2));
    });
  }
}

WEIR_DEVICE uint16_t as_operand(const GpuExpertsArgs& args, float x) {
  return static_cast<uint16_t>(device::half_pair(operand_type(args.format) == kOperandF16, x, 0.0F));
}

WEIR_DEVICE void keep_hidden(const GpuExpertsArgs& args, const RouteEntry& entry, int strip, int row, int c, float gate,
                             float up) {
  const int n = strip * (kStripRows / 2) + row;
  if (row >= kStripRows / 2 || n >= args.f) return;
  const int slot = static_cast<int>((entry.slots >> (4 * c)) & 15U);
  const int64_t at = static_cast<int64_t>(entry.rows[c]) * (args.top_k + args.shared) + slot;
  args.hidden[at * args.f + n] = as_operand(args, device::silu(gate) * up);
}

// Thread i holds row i % 16 of the strip of columns i / 16 and i / 16 + 4.
WEIR_DEVICE void join_gate_up(const GpuExpertsArgs& args, GateUpWalk walk, const Pipe& pipe) {
  constexpr int kApart = kPackedJoinWarps * device::kWarp / kStripRows;
  constexpr int kEach = 8 / kApart;
  ScaleReader<GateUpWalk> reader(pipe.scales, walk);
  const int thread = static_cast<int>(threadIdx.x) - kPackedJoining;
  const int row = thread % kStripRows;
  const int column = thread / kStripRows;
  float totals[kEach];
  RingPlace to;
  for (; walk.more(); walk.next()) {
    const RouteEntry& entry = walk.entries[walk.entry];
    const float* row_scales = walk.weights[walk.entry].row_scales;
    const int count = entry.count;
    const float* scales = reader.next() + row / 8;
    pipe.joined.wait_filled(to);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (thread / device::kWarp * 2 + i * kApart >= count) continue;  // the same for a whole warp
      const int c = column + i * kApart;
      float total =
          join_blocks<8>(walk.stage == 0 ? 0.0F : totals[i], pipe.unit(to, 0) + min(c, count - 1) * kSumStride + row,
                         pipe.unit_stride(), scales, walk.units());
      totals[i] = total;
      if (!walk.last()) continue;
      if (row_scales != nullptr) total *= row_scales[walk.strip * kStripRows + row];
      const float up = __shfl_down_sync(device::kAllLanes, total, kStripRows / 2);
      if (c < count) keep_hidden(args, entry, walk.strip, row, c, total, up);
    }
    device::warp_arrive(&pipe.joined.free[to.slot]);
    to.advance(pipe.size.sum_slots);
  }
}

}  // namespace weir
