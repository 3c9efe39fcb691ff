// The sparse experts over up to 64 rows: bound by reading the weights of the experts that the rows chose, once. Every
// block works out the routing for itself. Gate and up: the strips of all chosen experts are shared out evenly, an
// expert's rows are the columns of its products. Down: a block owns output columns and goes through the chosen experts
// in ascending order, so the sum over experts never leaves it. Who brings, multiplies and joins: packed_ring.h.
#include "ops/linear/packed_ring.h"
#include "ops/moe/routes.h"

namespace weir {
namespace {

// Where an entry's weights are; beside the entries in shared memory.
struct EntryWeights {
  const uint8_t* data;
  const float* scales;
  const float* row_scales;
};

// By all threads of the block; a barrier must follow.
template <class Of>
WEIR_DEVICE void find_weights(const RouteEntry* entries, int count, EntryWeights* to, const Of& of) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kPackedThreads) {
    const GpuPacked& w = of(entries[i].expert);
    to[i] = {w.data, w.scales, w.row_scales};
  }
}

// Asks for the table, of which the routing will take a few lines: each block a part.
WEIR_DEVICE void prefetch_table(const GpuExpertsArgs& args) {
  const unsigned first = static_cast<unsigned>(args.experts) * blockIdx.x / gridDim.x;
  const unsigned end = static_cast<unsigned>(args.experts) * (blockIdx.x + 1) / gridDim.x;
  if (threadIdx.x == 0 && end > first) {
    device::bulk_prefetch(args.table + first, (end - first) * static_cast<uint32_t>(sizeof(GpuPackedMlp)));
  }
}

// -------- gate and up

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
    device::bulk_copy(pipe.slot(at), walk.source(), walk.bytes(), &pipe.weights.filled[at.slot]);
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
          join_blocks(walk.stage == 0 ? 0.0F : totals[i], pipe.unit(to, 0) + min(c, count - 1) * kSumStride + row,
                      pipe.unit_stride(), scales, walk.units());
      totals[i] = total;
      if (!walk.last()) continue;
      if (row_scales != nullptr) total *= row_scales[walk.strip * kStripRows + row];
      const float up = __shfl_down_sync(device::kAllLanes, total, kStripRows / 2);
      if (c < count) keep_hidden(args, entry, walk.strip, row, c, total, up);
    }
    warp_arrive(&pipe.joined.free[to.slot]);
    to.advance(pipe.size.sum_slots);
  }
}

// -------- down

// A block's strips, and of each the entries; a stage holds whole dot products of as many entries as fit.
struct DownWalk {
  const RouteEntry* entry_list;
  const EntryWeights* weights;
  int entries;
  int strip_tiles;
  int together;  // entries of a stage
  int strip;
  int end;
  int entry = 0;

  WEIR_DEVICE DownWalk(const GpuExpertsArgs& args, const RouteEntry* e, const EntryWeights* w, int count)
      : entry_list(e), weights(w), entries(count), strip_tiles(args.f / kTileK) {
    together = experts_down_units(args, args.ring.units) / blocks();
    const auto strips = static_cast<unsigned>((args.d + kStripRows - 1) / kStripRows);
    strip = static_cast<int>(strips * blockIdx.x / gridDim.x);
    end = static_cast<int>(strips * (blockIdx.x + 1) / gridDim.x);
  }
  WEIR_DEVICE int blocks() const { return (strip_tiles + 1) / 2; }
  WEIR_DEVICE bool more() const { return strip < end; }
  WEIR_DEVICE bool last() const { return entry + together >= entries; }
  WEIR_DEVICE void next() {
    entry += together;
    if (entry >= entries) {
      entry = 0;
      ++strip;
    }
  }
  WEIR_DEVICE int count() const { return min(together, entries - entry); }
  WEIR_DEVICE int units() const { return count() * blocks(); }
  WEIR_DEVICE const float* scale(int i) const {
    const int e = i / (2 * blocks());
    const float* scales = weights[entry + e].scales;
    return scales == nullptr ? nullptr : scales + (strip - e) * blocks() * 2 + i;
  }
  WEIR_DEVICE PackedRun run() const {
    const int a_strip = (entries + together - 1) / together;
    return {(end - strip) * a_strip, a_strip, together * blocks(), (entries - (a_strip - 1) * together) * blocks()};
  }
};

// A slot: a strip each of a stage's entries, then the rows of hidden that they are multiplied with.
struct DownPipe {
  const GpuExpertsArgs& args;
  const Pipe& pipe;
  int columns;
  int strip_bytes;
  int hidden;  // offset in a slot

  WEIR_DEVICE DownPipe(const GpuExpertsArgs& a, const Pipe& p)
      : args(a),
        pipe(p),
        columns(min(a.rows, 8)),
        strip_bytes(a.f / kTileK * packed_tile_bytes(a.format)),
        hidden(experts_down_units(a, a.ring.units) * packed_unit_bytes(a.format)) {}
  WEIR_DEVICE int row(int entry, int column) const {
    return hidden + (entry * columns + column) * packed_row_bytes(args.f);
  }

  // By the whole warp that brings: announces a stage's bytes and brings its weights.
  WEIR_DEVICE void bring_weights(const DownWalk& walk, RingPlace at) const {
    const int lane = device::lane();
    const bool mine = lane < walk.count();
    const unsigned rows = __reduce_add_sync(device::kAllLanes, mine ? walk.entry_list[walk.entry + lane].count : 0U);
    device::Barrier* filled = &pipe.weights.filled[at.slot];
    if (lane == 0) {
      device::barrier_expect(
          filled, static_cast<uint32_t>(walk.count() * strip_bytes) + rows * static_cast<uint32_t>(args.f) * 2U);
    }
    __syncwarp();
    if (!mine) return;
    device::bulk_copy(pipe.slot(at) + lane * strip_bytes,
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

WEIR_DEVICE void multiply_down(const DownPipe& down, const DownWalk& walk) {
  const GpuExpertsArgs& args = down.args;
  const int blocks = walk.blocks();
  OwnUnit own[2];
  uint32_t columns[2][1];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int u = device::warp() + i * kPackedWarps;
    const int e = min(u / blocks, walk.together - 1);
    const int block = u % blocks;
    const int row = down.row(e, min(device::lane() % 8, down.columns - 1));
    own[i] = {e * down.strip_bytes + block * packed_unit_bytes(args.format),
              walk.strip_tiles % 2 != 0 && block == blocks - 1, false};
    columns[i][0] = column_address(down.pipe.data + row, 0, 0, block * kBlockK);
  }
  RingPlace at;
  RingPlace to;
  with_packed_format(args.format, [&]<int kFormat>() {
    multiply_run<kFormat, 1, true>(down.pipe, at, to, walk.run(), own, columns, 0);
  });
}

// Warp j of those that join holds rows 8j .. 8j + 7 of the strip, so that an output stays in one warp whichever column
// of an entry it is: lane l row l % 8, columns l / 8 and l / 8 + 4. totals, before: [rows][16] in shared memory.
WEIR_DEVICE void join_down(const GpuExpertsArgs& args, DownWalk walk, const Pipe& pipe, const Routes& routes,
                           float* totals, float* before) {
  constexpr int kApart = device::kWarp / 8;
  ScaleReader<DownWalk> reader(pipe.scales, walk);
  device::wait_for_previous();
  const int half = device::warp() - kPackedWarps - 1;
  const int row = 8 * half + device::lane() % 8;
  const int first = device::lane() / 8;
  const int blocks = walk.blocks();
  RingPlace to;
  for (; walk.more(); walk.next()) {
    const int n = walk.strip * kStripRows + row;
    if (walk.entry == 0) {
      for (int m = first; m < args.rows; m += kApart) {
        totals[m * kStripRows + row] = 0;
        before[m * kStripRows + row] = args.add != 0 && n < args.d ? args.y[m * args.y_stride + n] : 0.0F;
      }
      __syncwarp();
    }
    const float* scales = reader.next() + half;
    pipe.joined.wait_filled(to);
    for (int e = 0; e < walk.count(); ++e) {
      const RouteEntry& entry = walk.entry_list[walk.entry + e];
      const float* row_scales = walk.weights[walk.entry + e].row_scales;
      for (int c = first; c < entry.count; c += kApart) {
        float dot = join_blocks(0, pipe.unit(to, e * blocks) + c * kSumStride + row, pipe.unit_stride(),
                                scales + 2 * e * blocks, blocks);
        if (row_scales != nullptr) dot *= row_scales[n];
        const int m = entry.rows[c];
        const int slot = static_cast<int>((entry.slots >> (4 * c)) & 15U);
        float* total = totals + m * kStripRows + row;
        *total = fmaf(routes.weights[m * kRouteSlots + slot], dot, *total);
      }
      __syncwarp();
    }
    warp_arrive(&pipe.joined.free[to.slot]);
    to.advance(pipe.size.sum_slots);
    if (!walk.last()) continue;
    for (int m = first; m < args.rows; m += kApart) {
      const float total = before[m * kStripRows + row] + totals[m * kStripRows + row];
      if (n < args.d) args.y[m * args.y_stride + n] = total;
    }
    __syncwarp();
  }
}

WEIR_DEVICE uint8_t* behind_routes(const GpuExpertsArgs& args, uint8_t* at) {
  return at + (Routes::bytes(args.rows, args.experts, args.top_k) + 15) / 16 * 16;
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_experts_gate_up, GpuExpertsArgs, kPackedThreads, 2) {
  extern __shared__ __align__(128) uint8_t shared[];
  const int kept = min(args.rows, 8);
  const OwnColumns columns{shared, packed_row_bytes(args.d)};
  const Pipe pipe(args.ring, shared + kept * columns.row_bytes);
  const Routes routes(pipe.behind(), args.rows, args.experts, args.top_k);
  auto* weights = reinterpret_cast<EntryWeights*>(behind_routes(args, pipe.behind()));
  prefetch_table(args);
  device::wait_for_previous();
  device::start_next();
  if (multiplies() && args.rows <= 8) columns.ask(args, args.rows, [](int i) { return i; });
  const int entries = make_routes<kPackedThreads>(args, routes, false);
  find_weights(routes.entries, entries, weights, [&](int e) -> const GpuPacked& { return args.table[e].gate_up; });
  __syncthreads();
  const GateUpWalk walk(args, routes.entries, weights, entries);
  if (brings()) return bring_gate_up(walk, pipe);
  if (multiplies()) return multiply_gate_up(args, walk, pipe, columns);
  join_gate_up(args, walk, pipe);
}

WEIR_KERNEL_BOUNDED(weir_experts_down, GpuExpertsArgs, kPackedThreads, 2) {
  extern __shared__ __align__(128) uint8_t shared[];
  const Pipe pipe(args.ring, shared);
  const Routes routes(pipe.behind(), args.rows, args.experts, args.top_k);
  uint8_t* at = behind_routes(args, pipe.behind());
  auto* weights = reinterpret_cast<EntryWeights*>(at);
  auto* totals = reinterpret_cast<float*>(at + route_entries_max(args.rows, args.experts, args.top_k) *
                                                   static_cast<int>(sizeof(EntryWeights)));
  // The router's logits are of the kernel before the one before this, which has ended.
  const int entries = make_routes<kPackedThreads>(args, routes, true);
  find_weights(routes.entries, entries, weights, [&](int e) -> const GpuPacked& { return args.table[e].down; });
  __syncthreads();
  const DownWalk walk(args, routes.entries, weights, entries);
  const DownPipe down(args, pipe);
  if (brings()) return bring_down(down, walk);
  if (multiplies()) {
    device::wait_for_previous();
    device::start_next();
    return multiply_down(down, walk);
  }
  join_down(args, walk, pipe, routes, totals, totals + args.rows * kStripRows);
}

}  // namespace weir
