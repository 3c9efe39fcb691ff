// The sparse experts over up to 64 rows: bound by reading the weights of the experts that the rows chose, once. Every
// block works out the routing for itself. Gate and up: the strips of all chosen experts are shared out evenly, an
// expert's rows are the columns of its products. Down: a block owns output columns and goes through the chosen experts
// in ascending order, so the sum over experts never leaves it. Who multiplies and who joins: packed_ring.h.
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

// A block's share of the strips of all entries, cut into groups of 16 blocks of K.
struct GateUpWalk {
  const RouteEntry* entries;
  const EntryWeights* weights;
  int strip_tiles;
  int strips;
  int32_t expert_format;
  int left;  // strips
  int entry;
  int strip;
  int group = 0;  // of the strip

  WEIR_DEVICE GateUpWalk(const GpuExpertsArgs& args, const RouteEntry* e, const EntryWeights* w, int count)
      : entries(e),
        weights(w),
        strip_tiles(args.d / kTileK),
        strips(args.f / (kStripRows / 2)),
        expert_format(args.format) {
    const auto total = static_cast<unsigned>(count * strips);
    const unsigned low = total * blockIdx.x / gridDim.x;
    left = static_cast<int>(total * (blockIdx.x + 1) / gridDim.x - low);
    entry = static_cast<int>(low) / strips;
    strip = static_cast<int>(low) - entry * strips;
  }
  WEIR_DEVICE int blocks() const { return (strip_tiles + 1) / 2; }
  WEIR_DEVICE bool more() const { return left > 0; }
  WEIR_DEVICE bool last() const { return (group + 1) * kPackedUnits >= blocks(); }
  WEIR_DEVICE void next() {
    if (!last()) {
      ++group;
      return;
    }
    group = 0;
    --left;
    if (++strip == strips) {
      strip = 0;
      ++entry;
    }
  }
  WEIR_DEVICE int units() const { return min(kPackedUnits, blocks() - group * kPackedUnits); }
  WEIR_DEVICE int block(int u) const { return group * kPackedUnits + u; }
  WEIR_DEVICE int32_t format() const { return expert_format; }
  WEIR_DEVICE int tiles(int u) const { return min(2, strip_tiles - 2 * block(u)); }
  WEIR_DEVICE int bytes(int u) const { return tiles(u) * packed_tile_bytes(expert_format); }
  WEIR_DEVICE const uint8_t* source(int u) const {
    return weights[entry].data +
           static_cast<int64_t>(strip * strip_tiles + 2 * block(u)) * packed_tile_bytes(expert_format);
  }
  WEIR_DEVICE const float* scale(int i) const {
    const float* scales = weights[entry].scales;
    return scales == nullptr ? nullptr : scales + (strip * blocks() + group * kPackedUnits) * 2 + i;
  }
  WEIR_DEVICE int columns() const { return entries[entry].count; }
};

// Rows of x in shared memory. A warp always multiplies the same blocks of K, those that units 2w and 2w + 1 of a group
// are; it brings these of every row itself and waits for nobody.
struct OwnColumns {
  uint8_t* data;
  int row_bytes;

  // Row i is row of(i).
  template <class Of>
  WEIR_DEVICE void ask(const GpuExpertsArgs& args, int count, const Of& of) const {
    for (int k = 2 * device::warp() * kBlockK + device::lane() * 8; k < args.d; k += kPackedUnits * kBlockK) {
      for (int i = 0; i < count; ++i) {
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

WEIR_DEVICE void multiply_gate_up(const GpuExpertsArgs& args, const GateUpWalk& first, const Pipe& pipe,
                                  const OwnColumns& columns) {
  Bringer<GateUpWalk> bringer(first, pipe.ring.slots);
  const auto nothing = [](const GateUpWalk&, int, RingPlace) {};
  bringer.bring(pipe.ring, nothing);
  const bool all_rows = args.rows <= 8;  // in shared memory; else those of an entry
  OwnColumns::wait();
  int current = -1;
  uint32_t mine = 0;
  multiply_groups<1>(
      pipe, first, bringer,
      [&](const GateUpWalk& walk, RingPlace, uint32_t (&out)[2][1]) {
        if (walk.entry != current) {
          current = walk.entry;
          const RouteEntry& entry = walk.entries[current];
          const int count = entry.count;
          if (!all_rows) {
            __syncwarp();
            columns.ask(args, count, [&](int i) { return entry.rows[i]; });
            OwnColumns::wait();
          }
          const int c = min(device::lane() % 8, count - 1);
          mine = column_address(columns.data, columns.row_bytes, all_rows ? entry.rows[c] : c, 0);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          out[i][0] = mine + static_cast<uint32_t>(walk.block(2 * device::warp() + i) * kBlockK * 2);
        }
      },
      nothing);
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
  const int thread = static_cast<int>(threadIdx.x) - kPackedMultiplying;
  const int row = thread % kStripRows;
  const int column = thread / kStripRows;
  float totals[kEach];
  RingPlace to;
  for (; walk.more(); walk.next()) {
    const RouteEntry& entry = walk.entries[walk.entry];
    const float* row_scales = walk.weights[walk.entry].row_scales;
    const int count = entry.count;
    const float* scales = reader.next() + row / 8;
    pipe.sums.wait_filled(to);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (thread / device::kWarp * 2 + i * kApart >= count) continue;  // the same for a whole warp
      const int c = column + i * kApart;
      float total =
          join_blocks(walk.group == 0 ? 0.0F : totals[i], pipe.sums.unit(to, 0) + min(c, count - 1) * kSumStride + row,
                      pipe.sums.unit_stride(), scales, walk.units());
      totals[i] = total;
      if (!walk.last()) continue;
      if (row_scales != nullptr) total *= row_scales[walk.strip * kStripRows + row];
      const float up = __shfl_down_sync(device::kAllLanes, total, kStripRows / 2);
      if (c < count) keep_hidden(args, entry, walk.strip, row, c, total, up);
    }
    warp_arrive(&pipe.sums.free[to.slot]);
    to.advance(pipe.sums.slots);
  }
}

// -------- down

// A block's strips, and of each the entries; a group holds whole dot products of as many entries as fit.
struct DownWalk {
  const RouteEntry* entry_list;
  const EntryWeights* weights;
  int entries;
  int strip_tiles;
  int together;  // entries of a group
  int32_t expert_format;
  int strip;
  int end;
  int entry = 0;

  WEIR_DEVICE DownWalk(const GpuExpertsArgs& args, const RouteEntry* e, const EntryWeights* w, int count)
      : entry_list(e), weights(w), entries(count), strip_tiles(args.f / kTileK), expert_format(args.format) {
    together = kPackedUnits / blocks();
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
  WEIR_DEVICE int entry_of(int u) const { return entry + u / blocks(); }
  WEIR_DEVICE int block(int u) const { return u % blocks(); }
  WEIR_DEVICE int32_t format() const { return expert_format; }
  WEIR_DEVICE int tiles(int u) const { return min(2, strip_tiles - 2 * block(u)); }
  WEIR_DEVICE int bytes(int u) const { return tiles(u) * packed_tile_bytes(expert_format); }
  WEIR_DEVICE const uint8_t* source(int u) const {
    return weights[entry_of(u)].data +
           static_cast<int64_t>(strip * strip_tiles + 2 * block(u)) * packed_tile_bytes(expert_format);
  }
  WEIR_DEVICE const float* scale(int i) const {
    const float* scales = weights[entry_of(i / 2)].scales;
    return scales == nullptr ? nullptr : scales + (strip * blocks() + block(i / 2)) * 2 + i % 2;
  }
};
// What the sums of a unit have room for.
struct DownGroups : DownWalk {
  int most;
  WEIR_DEVICE DownGroups(const DownWalk& walk, int columns) : DownWalk(walk), most(columns) {}
  WEIR_DEVICE int columns() const { return most; }
};

// The rows of hidden that a unit is multiplied with, into its slot behind the weights: by every lane of the warp, each
// of which arrives at the slot's barrier.
WEIR_DEVICE void bring_hidden(const GpuExpertsArgs& args, const WarpRing& ring, const DownWalk& walk, int u,
                              RingPlace at) {
  const RouteEntry& entry = walk.entry_list[walk.entry_of(u)];
  const int count = entry.count;
  const int k = walk.block(u) * kBlockK + device::lane() % 16 * 8;
  uint8_t* to = ring.slot(at) + kPieceBytes + device::lane() % 16 * 16;
  for (int c = device::lane() / 16; c < count && k < args.f; c += 2) {
    const int slot = static_cast<int>((entry.slots >> (4 * c)) & 15U);
    const int64_t from = static_cast<int64_t>(entry.rows[c]) * (args.top_k + args.shared) + slot;
    device::copy16(to + c * packed_row_bytes(kBlockK), args.hidden + from * args.f + k);
  }
  device::copies_arrive(&ring.filled[at.slot]);
}

// Weights of the first slots come before the kernel before this one has ended, rows of hidden only afterwards.
WEIR_DEVICE void multiply_down(const GpuExpertsArgs& args, const DownGroups& first, const Pipe& pipe) {
  const auto hidden = [&](const DownWalk& walk, int u, RingPlace at) { bring_hidden(args, pipe.ring, walk, u, at); };
  Bringer<DownGroups> bringer(first, pipe.ring.slots);
  bringer.bring(pipe.ring);
  device::wait_for_previous();
  device::start_next();
  Bringer<DownGroups> again(first, pipe.ring.slots);
  for (; again.room > bringer.room; again.next()) {
    for (int i = 0; i < packed_pieces(args.format); ++i) {
      hidden(again.walk, 2 * device::warp() + again.unit, again.at);
      again.at.advance(pipe.ring.slots);
      --again.room;
    }
  }
  multiply_groups<1>(
      pipe, first, bringer,
      [&](const DownWalk& walk, RingPlace at, uint32_t (&out)[2][1]) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int u = min(2 * device::warp() + i, walk.units() - 1);
          const int row = min(device::lane() % 8, walk.entry_list[walk.entry_of(u)].count - 1);
          out[i][0] = column_address(pipe.ring.slot(at) + kPieceBytes, packed_row_bytes(kBlockK), row, 0);
          for (int piece = 0; piece < packed_pieces(args.format); ++piece) at.advance(pipe.ring.slots);
        }
      },
      hidden);
}

// Warp j of those that join holds rows 8j .. 8j + 7 of the strip, so that an output stays in one warp whichever column
// of an entry it is: lane l row l % 8, columns l / 8 and l / 8 + 4. totals, before: [rows][16] in shared memory.
WEIR_DEVICE void join_down(const GpuExpertsArgs& args, DownGroups walk, const Pipe& pipe, const Routes& routes,
                           float* totals, float* before) {
  constexpr int kApart = device::kWarp / 8;
  ScaleReader<DownGroups> reader(pipe.scales, walk);
  device::wait_for_previous();
  const int half = device::warp() - kPackedWarps;
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
    }
    const float* scales = reader.next() + half;
    pipe.sums.wait_filled(to);
    for (int e = 0; e < walk.count(); ++e) {
      const RouteEntry& entry = walk.entry_list[walk.entry + e];
      const float* row_scales = walk.weights[walk.entry + e].row_scales;
      for (int c = first; c < entry.count; c += kApart) {
        float dot = join_blocks(0, pipe.sums.unit(to, e * blocks) + c * kSumStride + row, pipe.sums.unit_stride(),
                                scales + 2 * e * blocks, blocks);
        if (row_scales != nullptr) dot *= row_scales[n];
        const int m = entry.rows[c];
        const int slot = static_cast<int>((entry.slots >> (4 * c)) & 15U);
        float* total = totals + m * kStripRows + row;
        *total = fmaf(routes.weights[m * kRouteSlots + slot], dot, *total);
      }
      __syncwarp();
    }
    warp_arrive(&pipe.sums.free[to.slot]);
    to.advance(pipe.sums.slots);
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
  Pipe pipe;
  uint8_t* at = pipe.make(shared + kept * columns.row_bytes, args.slots, kPieceBytes, kept, args.sum_slots, 1);
  const Routes routes(at, args.rows, args.experts, args.top_k);
  auto* weights = reinterpret_cast<EntryWeights*>(behind_routes(args, at));
  prefetch_table(args);
  device::wait_for_previous();
  device::start_next();
  const bool multiplies = device::warp() < kPackedWarps;
  if (multiplies && args.rows <= 8) columns.ask(args, args.rows, [](int i) { return i; });
  const int entries = make_routes<kPackedThreads>(args, routes, false);
  find_weights(routes.entries, entries, weights, [&](int e) -> const GpuPacked& { return args.table[e].gate_up; });
  __syncthreads();
  const GateUpWalk walk(args, routes.entries, weights, entries);
  if (multiplies) return multiply_gate_up(args, walk, pipe, columns);
  join_gate_up(args, walk, pipe);
}

WEIR_KERNEL_BOUNDED(weir_experts_down, GpuExpertsArgs, kPackedThreads, 2) {
  extern __shared__ __align__(128) uint8_t shared[];
  const int columns = min(args.rows, 8);
  Pipe pipe;
  const int slot_bytes = kPieceBytes + columns * packed_row_bytes(kBlockK);
  uint8_t* at = pipe.make(shared, args.slots, slot_bytes, columns, args.sum_slots, 1 + device::kWarp);
  const Routes routes(at, args.rows, args.experts, args.top_k);
  at = behind_routes(args, at);
  auto* weights = reinterpret_cast<EntryWeights*>(at);
  auto* totals = reinterpret_cast<float*>(at + route_entries_max(args.rows, args.experts, args.top_k) *
                                                   static_cast<int>(sizeof(EntryWeights)));
  // The router's logits are of the kernel before the one before this, which has ended.
  const int entries = make_routes<kPackedThreads>(args, routes, true);
  find_weights(routes.entries, entries, weights, [&](int e) -> const GpuPacked& { return args.table[e].down; });
  __syncthreads();
  const DownGroups walk(DownWalk(args, routes.entries, weights, entries), columns);
  if (device::warp() < kPackedWarps) return multiply_down(args, walk, pipe);
  join_down(args, walk, pipe, routes, totals, totals + args.rows * kStripRows);
}

}  // namespace weir
