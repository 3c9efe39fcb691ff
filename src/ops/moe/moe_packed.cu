// The sparse experts over up to 64 rows: bound by reading the weights of the experts that the rows chose, once. Every
// block works out the routing for itself. Gate and up: the strips of all chosen experts are shared out evenly, an
// expert's rows are the columns of its products. Down: a block owns output columns and goes through the chosen experts
// in ascending order, so the sum over experts stays in its registers. Weights come through a ring as in
// linear_packed.cu.
#include "ops/linear/packed_ring.h"
#include "ops/moe/routes.h"

namespace weir {
namespace {

// -------- gate and up

// Blocks [block, block + blocks) of K of strips [strip, strip + count) of an entry's expert.
struct Stage {
  int entry;
  int strip;
  int count;
  int block;
  int blocks;
  bool last;
};

template <class Function>
WEIR_DEVICE void for_each_stage(const GpuExpertsArgs& args, int entries, const Function& f) {
  const GpuPacked& w = args.table[0].gate_up;
  const int strips = w.strips;
  const int all = (w.tiles + 1) / 2;
  const int fit = args.slot_bytes / (2 * packed_tile_bytes(args.format));
  const int per = fit < args.units ? fit : args.units;
  const int together = all <= per ? per / all : 1;
  const int64_t total = static_cast<int64_t>(entries) * strips;
  const auto low = static_cast<int>(total * blockIdx.x / gridDim.x);
  const auto high = static_cast<int>(total * (blockIdx.x + 1) / gridDim.x);
  for (int item = low; item < high;) {
    const int entry = item / strips;
    const int strip = item % strips;
    const int count = min(together, min(strips - strip, high - item));
    for (int block = 0; block < all; block += per) {
      const int blocks = min(per, all - block);
      f(Stage{entry, strip, count, block, blocks, block + blocks == all});
    }
    item += count;
  }
}

WEIR_DEVICE void bring_gate_up(const GpuExpertsArgs& args, const RouteEntry* entries, int count, const Pipe& pipe) {
  if (device::lane() != 0) return;
  RingPlace at;
  const int tile_bytes = packed_tile_bytes(args.format);
  for_each_stage(args, count, [&](const Stage& s) {
    const GpuPacked& w = args.table[entries[s.entry].expert].gate_up;
    const int tiles = s.count > 1 ? s.count * w.tiles : min(2 * s.blocks, w.tiles - 2 * s.block);
    const auto bytes = static_cast<uint32_t>(tiles * tile_bytes);
    const ScaleRange range((w.tiles + 1) / 2, s.strip, s.count, s.block, s.blocks);
    pipe.weights.wait_free(at);
    device::Barrier* filled = &pipe.weights.filled[at.slot];
    device::barrier_expect(filled, bytes + (w.scales != nullptr ? range.bytes() : 0));
    device::bulk_copy(pipe.slot(at), w.data + (static_cast<int64_t>(s.strip) * w.tiles + 2 * s.block) * tile_bytes,
                      bytes, filled);
    if (w.scales != nullptr) {
      device::bulk_copy(pipe.scale_slot(at), w.scales + range.first, range.bytes(), filled);
    }
    at.advance(pipe.slots);
  });
}

// Rows of x to shared memory: `count` of them, row i is rows[i] (or i, where that is null).
WEIR_DEVICE void take_rows(const GpuExpertsArgs& args, const Columns& columns, const uint8_t* rows, int count) {
  const int chunks = args.d / 8;
  for (int i = static_cast<int>(threadIdx.x); i < count * chunks; i += kPackedMultiplying) {
    const int r = i / chunks;
    const int c = i % chunks;
    const int64_t from = rows == nullptr ? r : rows[r];
    reinterpret_cast<uint4*>(columns.data + static_cast<int64_t>(r) * columns.row_bytes)[c] =
        reinterpret_cast<const uint4*>(args.x + from * args.d)[c];
  }
  device::threads_barrier(1, kPackedMultiplying);
}

WEIR_DEVICE void keep_hidden(const GpuExpertsArgs& args, const RouteEntry& entry, int strip, int row, int c, float gate,
                             float up) {
  const int n = strip * (kStripRows / 2) + row;
  if (row >= kStripRows / 2 || n >= args.f) return;
  const int slot = static_cast<int>((entry.slots >> (4 * c)) & 15U);
  const int64_t at = static_cast<int64_t>(entry.rows[c]) * (args.top_k + args.shared) + slot;
  args.hidden[at * args.f + n] = device::to_bf16(device::silu(gate) * up);
}

// `routes.entries` by the warps that multiply.
WEIR_DEVICE void multiply_gate_up(const GpuExpertsArgs& args, const RouteEntry* entries, int count, const Pipe& pipe,
                                  const Columns& columns) {
  const bool all_rows = args.rows <= 8;  // in shared memory; else those of an entry
  columns.zero_row(static_cast<int>(threadIdx.x), kPackedMultiplying);
  if (all_rows) take_rows(args, columns, nullptr, args.rows);
  int current = -1;
  uint32_t mine = 0;
  RingPlace at;
  RingPlace to;
  for_each_stage(args, count, [&](const Stage& s) {
    const RouteEntry& entry = entries[s.entry];
    const GpuPacked& w = args.table[entry.expert].gate_up;
    if (s.entry != current) {
      current = s.entry;
      if (!all_rows) {
        device::threads_barrier(1, kPackedMultiplying);  // nobody multiplies with the rows before any more
        take_rows(args, columns, entry.rows, entry.count);
      }
      const int c = device::lane() % 8;
      mine = columns.address(c >= entry.count ? columns.rows : (all_rows ? entry.rows[c] : c));
    }
    const int all = (w.tiles + 1) / 2;
    const int tile_bytes = packed_tile_bytes(args.format);
    const uint8_t* slot = pipe.slot(at);
    const float* slot_scales = pipe.scale_slot(at);
    const int first_scale = ScaleRange(all, s.strip, s.count, s.block, s.blocks).first;
    const auto strip_of = [&](int u) { return s.count == 1 ? 0 : u / s.blocks; };
    const auto part = [&](int u, const uint8_t** weights, uint32_t (&addresses)[1], const float** scales) {
      const int strip = strip_of(u);
      const int block = s.block + u - strip * s.blocks;
      *weights = slot + (strip * w.tiles + (block - s.block) * 2) * tile_bytes;
      *scales = w.scales == nullptr ? nullptr : slot_scales + ((s.strip + strip) * all + block) * 2 - first_scale;
      addresses[0] = mine + static_cast<uint32_t>(block * kBlockK * 2);
    };
    const auto tiles_of = [&](int u) { return min(2, w.tiles - 2 * (s.block + u - strip_of(u) * s.blocks)); };
    with_packed_format(args.format, [&]<int kFormat>() {
      multiply_stage<kFormat, 1>(pipe, at, to, s.count * s.blocks, entry.count, part, tiles_of);
    });
    at.advance(pipe.slots);
    to.advance(pipe.sum_slots);
  });
}

inline constexpr int kApart = kPackedJoiners / kStripRows;  // columns that are joined at a time

WEIR_DEVICE int joining_thread() {
  return static_cast<int>(threadIdx.x) - (kPackedThreads - kPackedJoiners);
}

WEIR_DEVICE void join_gate_up(const GpuExpertsArgs& args, const RouteEntry* entries, int count, const Pipe& pipe) {
  constexpr int kEach = 8 / kApart;
  const int row = joining_thread() % kStripRows;
  const int column = joining_thread() / kStripRows;
  float totals[kEach];
  RingPlace to;
  for_each_stage(args, count, [&](const Stage& s) {
    const RouteEntry& entry = entries[s.entry];
    const float* row_scales = args.table[entry.expert].gate_up.row_scales;
    const int rows = entry.count;
    pipe.joined.wait_filled(to);
    const float* sums = pipe.sum_slot(to) + row;
    const float* scales = pipe.sum_scales(to) + row / 8;
    for (int strip = 0; strip < s.count; ++strip) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        if (joining_thread() / device::kWarp * 2 + i * kApart >= rows) continue;  // the same for a whole warp
        const int c = column + i * kApart;
        const int unit = strip * s.blocks;
        float total = join_blocks(s.block == 0 ? 0.0F : totals[i], sums + (unit * rows + min(c, rows - 1)) * kStripRows,
                                  rows * kStripRows, scales + 2 * unit, s.blocks);
        totals[i] = total;
        if (!s.last) continue;
        if (row_scales != nullptr) total *= row_scales[(s.strip + strip) * kStripRows + row];
        const float up = __shfl_down_sync(device::kAllLanes, total, kStripRows / 2);
        if (c < rows) keep_hidden(args, entry, s.strip + strip, row, c, total, up);
      }
    }
    RingBarriers::arrive(&pipe.joined.free[to.slot]);
    to.advance(pipe.sum_slots);
  });
}

// -------- down

// `count` entries from `entry` on, one strip of each: whole dot products.
struct DownStage {
  int strip;
  int entry;
  int count;
};

struct DownWalk {
  int blocks;    // of K
  int together;  // entries in a stage
  int entries;
  int stages_a_strip;
  int first_strip;
  int stages;  // of this block

  WEIR_DEVICE DownWalk(const GpuExpertsArgs& args, int count)
      : blocks((args.f / kTileK + 1) / 2), together(args.units / blocks), entries(count) {
    const int strips = (args.d + kStripRows - 1) / kStripRows;
    stages_a_strip = (entries + together - 1) / together;
    first_strip = strips * static_cast<int>(blockIdx.x) / static_cast<int>(gridDim.x);
    stages = stages_a_strip * (strips * static_cast<int>(blockIdx.x + 1) / static_cast<int>(gridDim.x) - first_strip);
  }
  template <class Function>
  WEIR_DEVICE void for_each(int first, int end, const Function& f) const {
    int strip = first_strip + first / stages_a_strip;
    int entry = first % stages_a_strip * together;
    for (int i = first; i < end; ++i) {
      f(DownStage{strip, entry, min(together, entries - entry)});
      entry += together;
      if (entry >= entries) {
        entry = 0;
        ++strip;
      }
    }
  }
};

// Slots of the ring hold weights, then the rows of hidden that they are multiplied with, then scales.
struct DownPipe {
  Pipe pipe;
  const GpuExpertsArgs& args;
  DownWalk walk;
  const RouteEntry* entries;
  const uint8_t* zeros;
  int columns;       // places for rows of an entry
  int row_bytes;     // of a row of hidden
  int weight_bytes;  // of a strip
  int hidden_offset;
  int scales_offset;
  int scale_bytes;  // places for scales of an entry

  WEIR_DEVICE uint8_t* row(RingPlace at, int entry, int column) const {
    return pipe.slot(at) + hidden_offset + (entry * columns + column) * row_bytes;
  }
  WEIR_DEVICE float* scales(RingPlace at, int entry) const {
    return reinterpret_cast<float*>(pipe.slot(at) + scales_offset + entry * scale_bytes);
  }
  WEIR_DEVICE ScaleRange range(int strip) const { return {walk.blocks, strip, 1, 0, walk.blocks}; }
  // Where the strip's first scale stands within what is copied.
  WEIR_DEVICE int first_scale(int strip) const { return strip * walk.blocks * 2 - range(strip).first; }
};

// By the whole warp: announces a stage's bytes and brings its weights.
WEIR_DEVICE void bring_down_weights(const DownPipe& down, const DownStage& s, RingPlace at) {
  const GpuExpertsArgs& args = down.args;
  const int lane = device::lane();
  const ScaleRange range = down.range(s.strip);
  const bool scaled = args.table[0].down.scales != nullptr;
  const uint32_t bytes = static_cast<uint32_t>(down.weight_bytes) + (scaled ? range.bytes() : 0);
  const unsigned rows = lane < s.count ? down.entries[s.entry + lane].count : 0;
  const uint32_t row_count = __reduce_add_sync(device::kAllLanes, rows);
  device::Barrier* filled = &down.pipe.weights.filled[at.slot];
  if (lane == 0) {
    device::barrier_expect(filled,
                           static_cast<uint32_t>(s.count) * bytes + row_count * static_cast<uint32_t>(args.f) * 2U);
  }
  __syncwarp();
  if (lane >= s.count) return;
  const GpuPacked& w = args.table[down.entries[s.entry + lane].expert].down;
  device::bulk_copy(down.pipe.slot(at) + lane * down.walk.blocks * 2 * packed_tile_bytes(args.format),
                    w.data + static_cast<int64_t>(s.strip) * down.weight_bytes,
                    static_cast<uint32_t>(down.weight_bytes), filled);
  if (scaled) device::bulk_copy(down.scales(at, lane), w.scales + range.first, range.bytes(), filled);
}

// By the whole warp: the rows of hidden of a stage.
WEIR_DEVICE void bring_hidden(const DownPipe& down, const DownStage& s, RingPlace at) {
  const GpuExpertsArgs& args = down.args;
  for (int i = device::lane(); i < s.count * 8; i += device::kWarp) {
    const RouteEntry& entry = down.entries[s.entry + i / 8];
    const int c = i % 8;
    if (c >= entry.count) continue;
    const int slot = static_cast<int>((entry.slots >> (4 * c)) & 15U);
    const int64_t from = static_cast<int64_t>(entry.rows[c]) * (args.top_k + args.shared) + slot;
    device::bulk_copy(down.row(at, i / 8, c), args.hidden + from * args.f, static_cast<uint32_t>(args.f) * 2U,
                      &down.pipe.weights.filled[at.slot]);
  }
}

// Weights of the first stages come before the kernel before this one has ended, rows of hidden only afterwards.
WEIR_DEVICE void bring_down(const DownPipe& down) {
  const int slots = down.pipe.slots;
  const int early = min(down.walk.stages, slots);
  RingPlace at;
  down.walk.for_each(0, early, [&](const DownStage& s) {
    bring_down_weights(down, s, at);
    at.advance(slots);
  });
  device::wait_for_previous();
  RingPlace again;
  down.walk.for_each(0, early, [&](const DownStage& s) {
    bring_hidden(down, s, again);
    again.advance(slots);
  });
  down.walk.for_each(early, down.walk.stages, [&](const DownStage& s) {
    down.pipe.weights.wait_free(at);
    bring_down_weights(down, s, at);
    bring_hidden(down, s, at);
    at.advance(slots);
  });
}

WEIR_DEVICE void multiply_down(const DownPipe& down) {
  const GpuExpertsArgs& args = down.args;
  const int blocks = down.walk.blocks;
  const int tile_bytes = packed_tile_bytes(args.format);
  const int tiles = args.f / kTileK;
  const bool scaled = args.table[0].down.scales != nullptr;
  RingPlace at;
  RingPlace to;
  down.walk.for_each(0, down.walk.stages, [&](const DownStage& s) {
    const uint8_t* slot = down.pipe.slot(at);
    const int first_scale = down.first_scale(s.strip);
    const auto part = [&](int u, const uint8_t** weights, uint32_t (&addresses)[1], const float** scales) {
      const int e = u / blocks;
      const int block = u - e * blocks;
      const int column = device::lane() % 8;
      const uint8_t* row =
          column < down.entries[s.entry + e].count ? down.row(at, e, column) + block * kBlockK * 2 : down.zeros;
      *weights = slot + u * 2 * tile_bytes;
      *scales = scaled ? down.scales(at, e) + first_scale + 2 * block : nullptr;
      addresses[0] = device::shared_address(row + device::lane() / 8 * 16);
    };
    const auto tiles_of = [&](int u) { return min(2, tiles - 2 * (u % blocks)); };
    with_packed_format(args.format, [&]<int kFormat>() {
      multiply_stage<kFormat, 1>(down.pipe, at, to, s.count * blocks, down.columns, part, tiles_of);
    });
    at.advance(down.pipe.slots);
    to.advance(down.pipe.sum_slots);
  });
}

// kEach: how many (row, output) pairs a thread holds; input row thread / 16 + i * kApart.
template <int kEach>
WEIR_DEVICE void join_down(const DownPipe& down, const Routes& routes) {
  const GpuExpertsArgs& args = down.args;
  const int blocks = down.walk.blocks;
  const int row = joining_thread() % kStripRows;
  const int first = joining_thread() / kStripRows;
  float totals[kEach];
  float before[kEach];
  RingPlace to;
  down.walk.for_each(0, down.walk.stages, [&](const DownStage& s) {
    const int n = s.strip * kStripRows + row;
    if (s.entry == 0) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int m = first + i * kApart;
        totals[i] = 0;
        before[i] = args.add != 0 && m < args.rows && n < args.d ? args.y[m * args.y_stride + n] : 0.0F;
      }
    }
    down.pipe.joined.wait_filled(to);
    const float* sums = down.pipe.sum_slot(to) + row;
    const float* scales = down.pipe.sum_scales(to) + row / 8;
    for (int e = 0; e < s.count; ++e) {
      const RouteEntry& entry = down.entries[s.entry + e];
      const uint64_t mask = entry.mask[0] | static_cast<uint64_t>(entry.mask[1]) << 32;
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int m = first + i * kApart;
        if ((mask >> m & 1U) == 0) continue;
        const int c = __popcll(mask & ((uint64_t{1} << m) - 1));
        float dot = join_blocks(0, sums + (e * blocks * down.columns + c) * kStripRows, down.columns * kStripRows,
                                scales + 2 * e * blocks, blocks);
        const float* row_scales = args.table[entry.expert].down.row_scales;
        if (row_scales != nullptr) dot *= row_scales[n];
        const int slot = static_cast<int>((entry.slots >> (4 * c)) & 15U);
        totals[i] = fmaf(routes.weights[m * kRouteSlots + slot], dot, totals[i]);
      }
    }
    RingBarriers::arrive(&down.pipe.joined.free[to.slot]);
    to.advance(down.pipe.sum_slots);
    if (s.entry + s.count < down.walk.entries) return;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int m = first + i * kApart;
      if (m < args.rows && n < args.d) args.y[m * args.y_stride + n] = before[i] + totals[i];
    }
  });
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_experts_gate_up, GpuExpertsArgs, kPackedThreads, 2) {
  extern __shared__ __align__(128) uint8_t shared[];
  const int kept = min(args.rows, 8);
  Columns columns;
  columns.data = shared;
  columns.row_bytes = packed_row_bytes(args.d);
  columns.rows = kept;
  Pipe pipe;
  const Routes routes(pipe.lay_out(columns.data + static_cast<int64_t>(kept + 1) * columns.row_bytes, args.slots,
                                   args.slot_bytes, args.units, kept, args.sum_slots),
                      args.rows, args.experts, args.top_k);
  pipe.init();
  device::wait_for_previous();
  device::start_next();
  const int entries = make_routes<kPackedThreads>(args, routes, false);
  if (device::warp() < kPackedWarps) return multiply_gate_up(args, routes.entries, entries, pipe, columns);
  if (device::warp() == kPackedBringer) return bring_gate_up(args, routes.entries, entries, pipe);
  join_gate_up(args, routes.entries, entries, pipe);
}

WEIR_KERNEL_BOUNDED(weir_experts_down, GpuExpertsArgs, kPackedThreads, 2) {
  extern __shared__ __align__(128) uint8_t shared[];
  const int blocks = (args.f / kTileK + 1) / 2;
  const int together = args.units / blocks;
  const int columns = min(args.rows, 8);
  const int row_bytes = packed_row_bytes(args.f);
  const int scale_bytes = (blocks * 8 + 32 + 15) / 16 * 16;
  const int scales_offset = args.slot_bytes + together * columns * row_bytes;
  Pipe pipe;
  const int zero_bytes = packed_row_bytes(kBlockK);
  const Routes routes(pipe.lay_out(shared + zero_bytes, args.slots, scales_offset + together * scale_bytes, args.units,
                                   columns, args.sum_slots),
                      args.rows, args.experts, args.top_k);
  for (int i = static_cast<int>(threadIdx.x); i < zero_bytes / 4; i += kPackedThreads) {
    reinterpret_cast<uint32_t*>(shared)[i] = 0;
  }
  pipe.init();
  // The router's logits are of the kernel before the one before this, which has ended.
  const int entries = make_routes<kPackedThreads>(args, routes, true);
  const DownPipe down{pipe,
                      args,
                      DownWalk(args, entries),
                      routes.entries,
                      shared,
                      columns,
                      row_bytes,
                      args.f / kTileK * packed_tile_bytes(args.format),
                      args.slot_bytes,
                      scales_offset,
                      scale_bytes};
  if (device::warp() == kPackedBringer) return bring_down(down);
  device::wait_for_previous();
  device::start_next();
  if (device::warp() < kPackedWarps) return multiply_down(down);
  if (args.rows <= 2 * kApart) return join_down<2>(down, routes);
  join_down<kPackedMoeRows / kApart>(down, routes);
}

}  // namespace weir
