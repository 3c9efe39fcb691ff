// For the kernel of the experts' outputs over few rows: who brings, multiplies and joins.
#pragma once

#include "ops/moe/moe_packed_entries.h"

namespace weir {

// A block's strips, and of each the entries; a stage holds whole dot products of as many entries as fit, or of one
// entry of a shared expert that is stored otherwise.
struct DownWalk {
  const RouteEntry* entry_list;
  const EntryWeights* weights;
  int entries;
  int like;  // entries stored like the first: those behind them are the shared expert's
  int strip_tiles;
  int together;  // of those, in a stage
  int strip;
  int end;
  int entry = 0;

  WEIR_DEVICE DownWalk(const GpuExpertsArgs& args, const RouteEntry* e, const EntryWeights* w, int count)
      : entry_list(e),
        weights(w),
        entries(count),
        like(experts_apart(args) ? count - route_words(args.rows) : count),
        strip_tiles(args.f / kTileK) {
    together = experts_down_units(args, args.ring.units) / blocks();
    const auto strips = static_cast<unsigned>((args.d + kStripRows - 1) / kStripRows);
    strip = static_cast<int>(strips * blockIdx.x / gridDim.x);
    end = static_cast<int>(strips * (blockIdx.x + 1) / gridDim.x);
  }
  WEIR_DEVICE int blocks() const { return (strip_tiles + 1) / 2; }
  WEIR_DEVICE bool more() const { return strip < end; }
  WEIR_DEVICE bool apart() const { return entry >= like; }
  WEIR_DEVICE bool last() const { return entry + count() >= entries; }
  WEIR_DEVICE void next() {
    entry += count();
    if (entry >= entries) {
      entry = 0;
      ++strip;
    }
  }
  WEIR_DEVICE int count() const { return apart() ? 1 : min(together, like - entry); }
  WEIR_DEVICE int units() const { return count() * blocks(); }
  WEIR_DEVICE const float* scale(int i) const {
    const int e = i / (2 * blocks());
    const float* scales = weights[entry + e].scales;
    return scales == nullptr ? nullptr : scales + (strip - e) * blocks() * 2 + i;
  }
  // From the first stage of a strip, or the first of its entries that are stored otherwise: the stages of one format.
  WEIR_DEVICE PackedRun run() const {
    if (apart()) return {entries - like, 1, blocks(), blocks()};
    const int a_strip = (like + together - 1) / together;
    const int strips = like < entries ? 1 : end - strip;
    return {strips * a_strip, a_strip, together * blocks(), (like - (a_strip - 1) * together) * blocks()};
  }
  WEIR_DEVICE void next_run() {
    if (like == entries) {
      strip = end;
    } else if (apart()) {
      entry = 0;
      ++strip;
    } else {
      entry = like;
    }
  }
};

// A slot: a strip each of a stage's entries, then the rows of hidden that they are multiplied with.
struct DownPipe {
  const GpuExpertsArgs& args;
  const Pipe& pipe;
  int columns;
  int hidden;  // offset in a slot

  WEIR_DEVICE DownPipe(const GpuExpertsArgs& a, const Pipe& p)
      : args(a), pipe(p), columns(min(a.rows, 8)), hidden(experts_down_weight_bytes(a, a.ring.units)) {}
  WEIR_DEVICE int format(const DownWalk& walk) const { return walk.apart() ? args.shared_format : args.format; }
  WEIR_DEVICE int row(int entry, int column) const {
    return hidden + (entry * columns + column) * packed_row_bytes(args.f);
  }

  // By the whole warp that brings: announces a stage's bytes and brings its weights.
  WEIR_DEVICE void bring_weights(const DownWalk& walk, RingPlace at) const {
    const int lane = device::lane();
    const bool mine = lane < walk.count();
    const int strip_bytes = experts_down_strip_bytes(args, format(walk));
    const unsigned rows = __reduce_add_sync(device::kAllLanes, mine ? walk.entry_list[walk.entry + lane].count : 0U);
    device::Barrier* filled = &pipe.weights.filled[at.slot];
    if (lane == 0) {
      device::barrier_expect(
          filled, static_cast<uint32_t>(walk.count() * strip_bytes) + rows * static_cast<uint32_t>(args.f) * 2U);
    }
    __syncwarp();
    if (!mine) return;
    device::bulk_copy_once(pipe.slot(at) + lane * strip_bytes,
                           walk.weights[walk.entry + lane].data + static_cast<int64_t>(walk.strip) * strip_bytes,
                           static_cast<uint32_t>(strip_bytes), filled);
  }
  WEIR_DEVICE void bring_hidden(const DownWalk& walk, RingPlace at) const {
    for (int i = device::lane(); i < walk.count() * 8; i += device::kWarp) {
      const RouteEntry& entry = walk.entry_list[walk.entry + i / 8];
      const int c = i % 8;
      if (c >= entry.count) continue;
      const int slot = static_cast<int>((entry.slots >> (4 * c)) & 15U);
      const int64_t from = static_cast<int64_t>(entry.rows[c]) * (args.top_k + args.shared) + slot;
      device::bulk_copy(pipe.slot(at) + row(i / 8, c), args.hidden + from * args.f, static_cast<uint32_t>(args.f) * 2U,
                        &pipe.weights.filled[at.slot]);
    }
    __syncwarp();
  }
};

// Weights of the first stages come before the kernel before this one has ended, rows of hidden only afterwards.
WEIR_DEVICE void bring_down(const DownPipe& down, DownWalk walk) {
  const int slots = down.pipe.size.slots;
  DownWalk early = walk;
  RingPlace at;
  int brought = 0;
  for (; brought < slots && walk.more(); walk.next(), ++brought) {
    down.bring_weights(walk, at);
    at.advance(slots);
  }
  device::wait_for_previous();
  RingPlace again;
  for (; brought > 0; early.next(), --brought) {
    down.bring_hidden(early, again);
    again.advance(slots);
  }
  for (; walk.more(); walk.next()) {
    down.pipe.weights.wait_free(at);
    down.bring_weights(walk, at);
    down.bring_hidden(walk, at);
    at.advance(slots);
  }
}

WEIR_DEVICE void multiply_down(const DownPipe& down, DownWalk walk) {
  const int blocks = walk.blocks();
  RingPlace at;
  RingPlace to;
  for (; walk.more(); walk.next_run()) {
    const int format = down.format(walk);
    const int together = walk.apart() ? 1 : walk.together;
    OwnUnit own[2];
    uint32_t columns[2][1];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int u = device::warp() + i * kPackedWarps;
      const int e = min(u / blocks, together - 1);
      const int block = u % blocks;
      const int row = down.row(e, min(device::lane() % 8, down.columns - 1));
      own[i] = {e * experts_down_strip_bytes(down.args, format) + block * packed_unit_bytes(format),
                walk.strip_tiles % 2 != 0 && block == blocks - 1, false};
      columns[i][0] = column_address(down.pipe.data + row, 0, 0, block * kBlockK);
    }
    with_packed_format(
        format, [&]<int kFormat>() { multiply_run<kFormat, 1, true>(down.pipe, at, to, walk.run(), own, columns, 0); });
  }
}

// Warp j of those that join holds rows 8j .. 8j + 7 of the strip, so that an output stays in one warp. Lane l has row l
// % 8 and of every four pairs the l / 8-th: the dot products beside each other, their sum one after the other. totals,
// before: [rows][16] in shared memory.
WEIR_DEVICE void join_down(const GpuExpertsArgs& args, DownWalk walk, const Pipe& pipe, const RoutePair* pairs,
                           float* totals, float* before) {
  constexpr int kApart = device::kWarp / 8;
  const int half = joiner();
  ScaleReader<DownWalk> reader(pipe.scales, walk);
  device::wait_for_previous();
  const int row = 8 * half + device::lane() % 8;
  const int place = device::lane() / 8;
  const int blocks = walk.blocks();
  RingPlace to;
  for (; walk.more(); walk.next(), to.advance(pipe.size.sum_slots)) {
    const int n = walk.strip * kStripRows + row;
    if (walk.entry == 0) {
      for (int m = place; m < args.rows; m += kApart) {
        totals[m * kStripRows + row] = 0;
        before[m * kStripRows + row] = args.add != 0 && n < args.d ? args.y[m * args.y_stride + n] : 0.0F;
      }
    }
    const int end = walk.weights[walk.entry + walk.count()].first_pair;
    const float* scales = reader.next() + half;
    pipe.joined.wait_filled(to);
    for (int first = walk.weights[walk.entry].first_pair; first < end; first += kApart) {
      const RoutePair pair = pairs[min(first + place, end - 1)];
      const int unit = (pair.entry - walk.entry) * blocks;
      float dot = join_blocks<4>(0, pipe.unit(to, unit) + pair.column * kSumStride + row, pipe.unit_stride(),
                                 scales + 2 * unit, blocks);
      const float* row_scales = walk.weights[pair.entry].row_scales;
      if (row_scales != nullptr) dot *= row_scales[n];
      float* total = totals + pair.row * kStripRows + row;
#pragma unroll
      for (int i = 0; i < kApart; ++i) {
        if (place == i && first + i < end) *total = fmaf(pair.weight, dot, *total);
        __syncwarp();
      }
    }
    device::warp_arrive(&pipe.joined.free[to.slot]);
    if (!walk.last()) continue;
    for (int m = place; m < args.rows; m += kApart) {
      const float total = before[m * kStripRows + row] + totals[m * kStripRows + row];
      if (n < args.d) args.y[m * args.y_stride + n] = total;
    }
    __syncwarp();
  }
}

}  // namespace weir
