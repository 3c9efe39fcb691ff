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
  const int per = fit < kPackedWarps ? fit : kPackedWarps;
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

WEIR_DEVICE void bring_gate_up(const GpuExpertsArgs& args, const RouteEntry* entries, int count, const Ring& ring) {
  if (device::lane() != 0) return;
  RingPlace at;
  const int tile_bytes = packed_tile_bytes(args.format);
  for_each_stage(args, count, [&](const Stage& s) {
    const GpuPacked& w = args.table[entries[s.entry].expert].gate_up;
    const int tiles = s.count > 1 ? s.count * w.tiles : min(2 * s.blocks, w.tiles - 2 * s.block);
    const auto bytes = static_cast<uint32_t>(tiles * tile_bytes);
    const ScaleRange range(w, s.strip, s.count, s.block, s.blocks);
    ring.wait_free(at);
    device::barrier_expect(&ring.filled[at.slot], bytes + (w.scales != nullptr ? range.bytes() : 0));
    device::bulk_copy(ring.slot(at), w.data + (static_cast<int64_t>(s.strip) * w.tiles + 2 * s.block) * tile_bytes,
                      bytes, &ring.filled[at.slot]);
    if (w.scales != nullptr) {
      device::bulk_copy(ring.scale_slot(at), w.scales + range.first, range.bytes(), &ring.filled[at.slot]);
    }
    at.advance(ring.slots);
  });
}

// Rows of x to shared memory: `count` of them, row i is rows[i] (or i, where that is null).
WEIR_DEVICE void take_rows(const GpuExpertsArgs& args, const Columns& columns, const uint8_t* rows, int count) {
  const int chunks = args.d / 8;
  for (int i = static_cast<int>(threadIdx.x); i < count * chunks; i += kPackedComputing) {
    const int r = i / chunks;
    const int c = i % chunks;
    const int64_t from = rows == nullptr ? r : rows[r];
    reinterpret_cast<uint4*>(columns.data + static_cast<int64_t>(r) * columns.row_bytes)[c] =
        reinterpret_cast<const uint4*>(args.x + from * args.d)[c];
  }
  device::threads_barrier(1, kPackedComputing);
}

WEIR_DEVICE void keep_hidden(const GpuExpertsArgs& args, const RouteEntry& entry, int strip, int row, int c, float gate,
                             float up) {
  const int n = strip * (kStripRows / 2) + row;
  if (row >= kStripRows / 2 || n >= args.f) return;
  const int slot = static_cast<int>((entry.slots >> (4 * c)) & 15U);
  const int64_t at = static_cast<int64_t>(entry.rows[c]) * (args.top_k + args.shared) + slot;
  args.hidden[at * args.f + n] = device::to_bf16(device::silu(gate) * up);
}

// -------- down

// `count` entries from `entry` on, blocks [block, block + blocks) of K of one strip.
struct DownStage {
  int strip;
  int entry;
  int count;
  int block;
  int blocks;
};

struct DownWalk {
  int all;       // blocks of K
  int per;       // of them in a stage
  int together;  // entries in a stage
  int entries;
  int stages_a_strip;
  int first_strip;
  int stages;  // of this block

  WEIR_DEVICE DownWalk(const GpuExpertsArgs& args, int count) : entries(count) {
    const GpuPacked& w = args.table[0].down;
    all = (w.tiles + 1) / 2;
    const int fit = args.slot_bytes / (2 * packed_tile_bytes(args.format));
    per = fit < kPackedWarps ? fit : kPackedWarps;
    together = all <= per ? per / all : 1;
    stages_a_strip = all <= per ? (entries + together - 1) / together : entries * ((all + per - 1) / per);
    first_strip = static_cast<int>(static_cast<int64_t>(w.strips) * blockIdx.x / gridDim.x);
    const int end = static_cast<int>(static_cast<int64_t>(w.strips) * (blockIdx.x + 1) / gridDim.x);
    stages = stages_a_strip * (end - first_strip);
  }
  WEIR_DEVICE DownStage at(int i) const {
    DownStage s;
    s.strip = first_strip + i / stages_a_strip;
    const int j = i % stages_a_strip;
    if (all <= per) {
      s.entry = j * together;
      s.count = min(together, entries - s.entry);
      s.block = 0;
      s.blocks = all;
    } else {
      const int parts = (all + per - 1) / per;
      s.entry = j / parts;
      s.count = 1;
      s.block = j % parts * per;
      s.blocks = min(per, all - s.block);
    }
    return s;
  }
};

// A ring whose stages hold weights, then the rows of hidden that they are multiplied with, then scales.
struct DownRing {
  Ring ring;  // its slots are the whole stages; `scales` is unused
  int hidden_offset;
  int scales_offset;
  int columns;  // places for rows of an entry

  WEIR_DEVICE static int row_bytes(int blocks) { return packed_row_bytes(blocks * kBlockK); }
  WEIR_DEVICE uint8_t* row(RingPlace at, const DownStage& s, int entry, int column) const {
    return ring.slot(at) + hidden_offset + (entry * columns + column) * row_bytes(s.blocks);
  }
  WEIR_DEVICE float* scales(RingPlace at, int entry) const {
    return reinterpret_cast<float*>(ring.slot(at) + scales_offset + entry * kScaleSlotBytes);
  }
};

// By the whole warp: announces a stage's bytes and brings its weights.
WEIR_DEVICE void bring_down_weights(const GpuExpertsArgs& args, const RouteEntry* entries, const DownStage& s,
                                    const DownRing& down, RingPlace at) {
  const GpuPacked& shape = args.table[0].down;
  const int tile_bytes = packed_tile_bytes(args.format);
  const int tiles = min(2 * s.blocks, shape.tiles - 2 * s.block);
  const auto bytes = static_cast<uint32_t>(tiles * tile_bytes);
  const ScaleRange range(shape, s.strip, 1, s.block, s.blocks);
  const uint32_t scale_bytes = shape.scales != nullptr ? range.bytes() : 0;
  const int lane = device::lane();
  const int rows = lane < s.count ? entries[s.entry + lane].count : 0;
  const auto row_count = static_cast<uint32_t>(__reduce_add_sync(device::kAllLanes, static_cast<unsigned>(rows)));
  device::Barrier* filled = &down.ring.filled[at.slot];
  if (lane == 0) {
    device::barrier_expect(filled, static_cast<uint32_t>(s.count) * (bytes + scale_bytes) +
                                       row_count * static_cast<uint32_t>(tiles) * kTileK * 2U);
  }
  __syncwarp();
  if (lane >= s.count) return;
  const GpuPacked& w = args.table[entries[s.entry + lane].expert].down;
  device::bulk_copy(down.ring.slot(at) + static_cast<int64_t>(lane) * s.blocks * 2 * tile_bytes,
                    w.data + (static_cast<int64_t>(s.strip) * w.tiles + 2 * s.block) * tile_bytes, bytes, filled);
  if (scale_bytes != 0) device::bulk_copy(down.scales(at, lane), w.scales + range.first, scale_bytes, filled);
}

// By the whole warp: the rows of hidden of a stage.
WEIR_DEVICE void bring_hidden(const GpuExpertsArgs& args, const RouteEntry* entries, const DownStage& s,
                              const DownRing& down, RingPlace at) {
  const int tiles = min(2 * s.blocks, args.table[0].down.tiles - 2 * s.block);
  for (int i = device::lane(); i < s.count * 8; i += device::kWarp) {
    const RouteEntry& entry = entries[s.entry + i / 8];
    const int c = i % 8;
    if (c >= entry.count) continue;
    const int slot = static_cast<int>((entry.slots >> (4 * c)) & 15U);
    const int64_t from = static_cast<int64_t>(entry.rows[c]) * (args.top_k + args.shared) + slot;
    device::bulk_copy(down.row(at, s, i / 8, c), args.hidden + from * args.f + s.block * kBlockK,
                      static_cast<uint32_t>(tiles) * kTileK * 2U, &down.ring.filled[at.slot]);
  }
}

// Weights of the first stages come before the kernel before this one has ended, rows of hidden only afterwards.
WEIR_DEVICE void bring_down(const GpuExpertsArgs& args, const RouteEntry* entries, const DownWalk& walk,
                            const DownRing& down) {
  const int early = min(walk.stages, down.ring.slots);
  RingPlace at;
  for (int i = 0; i < early; ++i) {
    bring_down_weights(args, entries, walk.at(i), down, at);
    at.advance(down.ring.slots);
  }
  device::wait_for_previous();
  RingPlace again;
  for (int i = 0; i < early; ++i) {
    bring_hidden(args, entries, walk.at(i), down, again);
    again.advance(down.ring.slots);
  }
  for (int i = early; i < walk.stages; ++i) {
    down.ring.wait_free(at);
    bring_down_weights(args, entries, walk.at(i), down, at);
    bring_hidden(args, entries, walk.at(i), down, at);
    at.advance(down.ring.slots);
  }
}

inline constexpr int kDownTotals = kPackedMoeRows * kStripRows / kPackedComputing;

// What one stage adds to the sums of this thread's (row, output) pairs.
WEIR_DEVICE void join_experts(const GpuExpertsArgs& args, const Routes& routes, const DownStage& s,
                              const DownWalk& walk, const DownRing& down, RingPlace at, const float* partials,
                              float (&dots)[kDownTotals], float (&totals)[kDownTotals]) {
  const int row = static_cast<int>(threadIdx.x) % kStripRows;
  const bool scaled = args.table[0].down.scales != nullptr;
  const ScaleRange range(args.table[0].down, s.strip, 1, s.block, s.blocks);
  const int64_t scale_at = (static_cast<int64_t>(s.strip) * walk.all + s.block) * 2 + row / 8 - range.first;
  for (int e = 0; e < s.count; ++e) {
    const RouteEntry& entry = routes.entries[s.entry + e];
    const uint64_t mask = entry.mask[0] | static_cast<uint64_t>(entry.mask[1]) << 32;
    const float* scales = down.scales(at, e) + scale_at;
#pragma unroll
    for (int j = 0; j < kDownTotals; ++j) {
      const int m = (static_cast<int>(threadIdx.x) + j * kPackedComputing) / kStripRows;
      if ((mask >> m & 1U) == 0) continue;
      const int c = __popcll(mask & ((uint64_t{1} << m) - 1));
      float dot = s.block == 0 ? 0.0F : dots[j];
      for (int b = 0; b < s.blocks; ++b) {
        const float part = partials[((e * s.blocks + b) * down.columns + c) * kStripRows + row];
        dot = scaled ? fmaf(part, scales[2 * b], dot) : dot + part;
      }
      dots[j] = dot;
      if (s.block + s.blocks < walk.all) continue;
      const GpuPacked& w = args.table[entry.expert].down;
      if (w.row_scales != nullptr) dot *= w.row_scales[s.strip * kStripRows + row];
      const int slot = static_cast<int>((entry.slots >> (4 * c)) & 15U);
      totals[j] = fmaf(routes.weights[m * kRouteSlots + slot], dot, totals[j]);
    }
  }
}

WEIR_DEVICE void finish_strip(const GpuExpertsArgs& args, int strip, float (&totals)[kDownTotals]) {
  const int n = strip * kStripRows + static_cast<int>(threadIdx.x) % kStripRows;
#pragma unroll
  for (int j = 0; j < kDownTotals; ++j) {
    const int m = (static_cast<int>(threadIdx.x) + j * kPackedComputing) / kStripRows;
    if (m < args.rows && n < args.d) {
      float* y = args.y + m * args.y_stride + n;
      *y = args.add != 0 ? *y + totals[j] : totals[j];
    }
    totals[j] = 0;
  }
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_experts_gate_up, GpuExpertsArgs, kPackedThreads, 2) {
  extern __shared__ __align__(128) uint8_t shared[];
  const bool together = args.rows <= 8;  // all rows are in shared memory; else those of an entry
  const int kept = together ? args.rows : 8;
  Ring ring;
  ring.slots = args.slots;
  ring.slot_bytes = args.slot_bytes;
  ring.data = shared;
  ring.scales = ring.data + static_cast<int64_t>(args.slots) * args.slot_bytes;
  Columns columns;
  columns.data = ring.scales + args.slots * kScaleSlotBytes;
  columns.row_bytes = packed_row_bytes(args.d);
  columns.rows = kept;
  float* partials = reinterpret_cast<float*>(columns.data + static_cast<int64_t>(kept + 1) * columns.row_bytes);
  const int partial_floats = kPackedWarps * kept * kStripRows;
  ring.filled = reinterpret_cast<device::Barrier*>(partials + 2 * partial_floats);
  ring.free = ring.filled + args.slots;
  const Routes routes(reinterpret_cast<uint8_t*>(ring.free + args.slots), args.rows, args.experts, args.top_k);
  ring.init();
  device::wait_for_previous();
  device::start_next();
  const int entries = make_routes<kPackedThreads>(args, routes, false);
  if (device::warp() == kPackedWarps) return bring_gate_up(args, routes.entries, entries, ring);

  columns.zero_row(static_cast<int>(threadIdx.x), kPackedComputing);
  if (together) take_rows(args, columns, nullptr, args.rows);
  int current = -1;
  uint32_t address = 0;
  RingPlace at;
  float carried = 0;
  int buffer = 0;
  for_each_stage(args, entries, [&](const Stage& s) {
    const RouteEntry& entry = routes.entries[s.entry];
    const GpuPacked& w = args.table[entry.expert].gate_up;
    if (s.entry != current) {
      current = s.entry;
      // Every warp is behind the last products: they ended before the barrier of the stage before.
      if (!together) take_rows(args, columns, entry.rows, entry.count);
      const int c = device::lane() % 8;
      address = columns.address(c >= entry.count ? kept : (together ? entry.rows[c] : c));
    }
    const int all = (w.tiles + 1) / 2;
    const int count = entry.count;
    float* mine = partials + buffer * partial_floats;
    buffer ^= 1;
    ring.wait_filled(at);
    if (device::warp() < s.count * s.blocks) {
      const int strip = device::warp() / s.blocks;
      const int block = device::warp() % s.blocks;
      const int unit = 2 * packed_tile_bytes(args.format);
      const uint8_t* weights = ring.slot(at) + strip * w.tiles * (unit / 2) + block * unit;
      const int tiles = min(2, w.tiles - 2 * (s.block + block));
      const uint32_t here[1] = {address + static_cast<uint32_t>((s.block + block) * kBlockK * 2)};
      float d[1][4];
      with_packed_format(args.format, [&]<int kFormat>() { block_product<kFormat, 1>(weights, tiles, here, d); });
      keep_partials<1>(mine, count, d);
    }
    device::threads_barrier(1, kPackedComputing);
    const ScaleRange range(w, s.strip, s.count, s.block, s.blocks);
    const float* scales = ring.scale_slot(at);
    const int values = s.count * count * kStripRows;
    for (int first = device::warp() * device::kWarp; first < values; first += kPackedComputing) {
      const int i = min(first + device::lane(), values - 1);
      const int row = i % kStripRows;
      const int c = i / kStripRows % count;
      const int strip = i / kStripRows / count;
      float sum = s.block == 0 ? 0.0F : carried;
      const int64_t scale_at = ((static_cast<int64_t>(s.strip) + strip) * all + s.block) * 2 + row / 8 - range.first;
      for (int b = 0; b < s.blocks; ++b) {
        const float part = mine[((strip * s.blocks + b) * count + c) * kStripRows + row];
        sum = w.scales != nullptr ? fmaf(part, scales[scale_at + 2 * b], sum) : sum + part;
      }
      carried = sum;
      if (s.last && w.row_scales != nullptr) sum *= w.row_scales[(s.strip + strip) * kStripRows + row];
      const float up = __shfl_down_sync(device::kAllLanes, sum, kStripRows / 2);
      if (s.last && first + device::lane() < values) keep_hidden(args, entry, s.strip + strip, row, c, sum, up);
    }
    ring.release(at);
    at.advance(ring.slots);
  });
}

WEIR_KERNEL_BOUNDED(weir_experts_down, GpuExpertsArgs, kPackedThreads, 2) {
  extern __shared__ __align__(128) uint8_t shared[];
  DownRing down;
  down.columns = min(args.rows, 8);
  down.hidden_offset = args.slot_bytes;
  down.scales_offset = down.hidden_offset + kPackedWarps * down.columns * packed_row_bytes(kBlockK);
  down.ring.slots = args.slots;
  down.ring.slot_bytes = down.scales_offset + kPackedWarps * kScaleSlotBytes;
  down.ring.data = shared;
  float* partials = reinterpret_cast<float*>(down.ring.data + static_cast<int64_t>(args.slots) * down.ring.slot_bytes);
  const int partial_floats = kPackedWarps * down.columns * kStripRows;
  uint8_t* zeros = reinterpret_cast<uint8_t*>(partials + 2 * partial_floats);
  const int zero_bytes = packed_row_bytes(kPackedWarps * kBlockK);
  down.ring.filled = reinterpret_cast<device::Barrier*>(zeros + zero_bytes);
  down.ring.free = down.ring.filled + args.slots;
  const Routes routes(reinterpret_cast<uint8_t*>(down.ring.free + args.slots), args.rows, args.experts, args.top_k);
  for (int i = static_cast<int>(threadIdx.x); i < zero_bytes / 4; i += kPackedThreads) {
    reinterpret_cast<uint32_t*>(zeros)[i] = 0;
  }
  down.ring.init();
  // The router's logits are of the kernel before the one before this, which has ended.
  const int entries = make_routes<kPackedThreads>(args, routes, true);
  const DownWalk walk(args, entries);
  if (device::warp() == kPackedWarps) return bring_down(args, routes.entries, walk, down);

  device::wait_for_previous();
  device::start_next();
  RingPlace at;
  int buffer = 0;
  float dots[kDownTotals];
  float totals[kDownTotals];
#pragma unroll
  for (int j = 0; j < kDownTotals; ++j) {
    dots[j] = 0;
    totals[j] = 0;
  }
  for (int i = 0; i < walk.stages; ++i) {
    const DownStage s = walk.at(i);
    float* mine = partials + buffer * partial_floats;
    buffer ^= 1;
    down.ring.wait_filled(at);
    if (device::warp() < s.count * s.blocks) {
      const int e = device::warp() / s.blocks;
      const int block = device::warp() % s.blocks;
      const int tile_bytes = packed_tile_bytes(args.format);
      const uint8_t* weights = down.ring.slot(at) + device::warp() * 2 * tile_bytes;
      const int tiles = min(2, args.table[0].down.tiles - 2 * (s.block + block));
      const int column = device::lane() % 8;
      const uint8_t* row =
          column < routes.entries[s.entry + e].count ? down.row(at, s, e, column) + block * kBlockK * 2 : zeros;
      const uint32_t here[1] = {device::shared_address(row + device::lane() / 8 * 16)};
      float d[1][4];
      with_packed_format(args.format, [&]<int kFormat>() { block_product<kFormat, 1>(weights, tiles, here, d); });
      keep_partials<1>(mine, down.columns, d);
    }
    device::threads_barrier(1, kPackedComputing);
    join_experts(args, routes, s, walk, down, at, mine, dots, totals);
    down.ring.release(at);
    at.advance(down.ring.slots);
    if ((i + 1) % walk.stages_a_strip == 0) finish_strip(args, s.strip, totals);
  }
}

}  // namespace weir
