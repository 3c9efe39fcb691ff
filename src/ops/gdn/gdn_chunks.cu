// The delta rule over the 64-row chunks of a prompt, one chunk after the other. Bound by the chain of a chunk's own
// steps. A block per (sequence, value head, 32 columns of the state), the four blocks of a head a cluster. Two pairs of
// warps take 16 columns each; both warps of a pair keep S^T of their columns in registers, in the layout of the matrix
// units' results, which is also that of their left operand. The first warp is the chain: it computes S^T k and the
// updates, 16 rows at a time, the rows of earlier groups by matrix products, those inside the group by multiply-adds in
// ascending order, a lane a column, so that rows found in the ring count as if they had just been computed. It never
// waits for another warp's work on the same chunk: it hands the updates to the second, which computes the outputs, and
// both move the state to the chunk's end by the same products. Four warps end the rows: sums of squares go round the
// cluster, gates are read a chunk ahead. The last of them keeps the copies of the next chunks' parts under way through
// kStages buffers.
#include "device/async.h"
#include "device/mma.h"
#include "ops/gdn/gdn_chunk_list.h"

namespace weir {
namespace {

inline constexpr int kChainWarps = 4;  // two pairs
inline constexpr int kFinishWarps = 4;
inline constexpr int kWarps = kChainWarps + kFinishWarps;
inline constexpr int kThreads = kWarps * device::kWarp;
inline constexpr int kDim = kGdnHeadDim;
inline constexpr int kColumns = kGdnTileColumns;
inline constexpr int kQuarters = kDim / kColumns;
inline constexpr int kRows = 64;
inline constexpr int kGroups = 4;  // of 16 rows
inline constexpr int kStages = 3;
inline constexpr int kInputs = 16;
// A row of outputs, and a column of a group of rows: padded so that the lanes of an access are in different banks.
inline constexpr int kOutStride = kColumns + 4;
inline constexpr int kGroupStride = 16 + 4;

struct Stage {
  uint16_t k[kRows * kGdnKeyStride];
  uint16_t q[kRows * kGdnKeyStride];
  GdnHeadTile head;
  uint2 values[2][8 * device::kWarp];  // of the pairs' columns
};
inline constexpr int kStageBytes = 2 * kGdnKeyTileBytes + kGdnHeadTileBytes + 2 * kGdnValueGroupBytes;
static_assert(sizeof(Stage) == kStageBytes);

struct Shared {
  Stage stages[kStages];
  // Updates on their way from a pair's first warp to its second, as left operands: as they are, then times e^(G_63 -
  // G).
  uint4 updates[2][2][2 * kGroups][device::kWarp];  // [chunk % 2][pair]
  float group[2][16][kGroupStride];                 // [pair][column][row]
  float out[2][kRows][kOutStride];                  // [chunk % 2]
  float squares[2][kQuarters][kRows];               // [chunk % 2], one by each block of the cluster
  device::Barrier full[kStages];
  device::Barrier empty[kStages];
  device::Barrier handed[2][2];  // [pair][chunk % 2]: updates are there
  device::Barrier written[2];    // outputs are there
  device::Barrier taken[2];      // outputs may be overwritten
  device::Barrier summed[2];     // the cluster's sums of squares are there
};

// What a block computes.
struct Block {
  GpuGdnSequence s;
  int head;
  int quarter;
  int number;  // of the first chunk here among the sequence's
  int chunks;  // how many are computed here
  int at;      // place of the first in the scratch
  bool ends;   // the sequence's last chunk is among them
  float* state;
  float* update;
};

using State = float[16][4];   // S^T: [8 keys][column 2g, keys 2t, 2t + 1; column 2g + 1, the same]
using Product = float[8][4];  // [8 rows][column 2g, rows 2t, 2t + 1; column 2g + 1, the same]
using Operand = uint32_t[4];  // the same of two groups of 8, in half precision

WEIR_DEVICE int lane_group() {
  return device::lane() / 4;
}
WEIR_DEVICE int lane_place() {
  return device::lane() % 4;
}
WEIR_DEVICE int pair_index() {
  return device::warp() / 2;
}

WEIR_DEVICE bool find_block(const GpuGdnPackedArgs& args, Block* w) {
  w->head = static_cast<int>(blockIdx.x) / kQuarters;
  w->quarter = static_cast<int>(blockIdx.x) % kQuarters;
  int first = 0;
  for (int i = 0; i < static_cast<int>(blockIdx.y); ++i) first += gdn_chunks_of(args.sequences[i]);
  w->s = args.sequences[blockIdx.y];
  const int count = gdn_chunks_of(w->s);
  const int begin = max(first, args.chunk_begin);
  const int end = min(first + count, args.chunk_end);
  if (begin >= end) return false;
  w->number = begin - first;
  w->chunks = end - begin;
  w->at = begin - args.chunk_begin;
  w->ends = end == first + count;
  const int64_t tile = w->head * kQuarters + w->quarter;
  uint8_t* slot = w->s.slot + args.slot_offset;
  w->state = reinterpret_cast<float*>(slot + args.state_offset) + tile * kDim * kColumns;
  w->update = reinterpret_cast<float*>(slot + args.update_offset) + tile * kRows * kColumns;
  return true;
}

// One thread.
WEIR_DEVICE void load_stage(const GpuGdnPackedArgs& args, Shared& m, const Block& w, int n) {
  Stage& stage = m.stages[n % kStages];
  device::Barrier* full = &m.full[n % kStages];
  device::barrier_expect(full, kStageBytes);
  device::bulk_copy(stage.k, gdn_key_tile(args, w.at + n, w.head / args.ratio), 2 * kGdnKeyTileBytes, full);
  device::bulk_copy(&stage.head, gdn_head_tile(args, w.at + n, w.head), kGdnHeadTileBytes, full);
  device::bulk_copy(stage.values, gdn_value_tile(args, w.at + n, w.head) + w.quarter * (2 * kGdnValueGroupBytes),
                    2 * kGdnValueGroupBytes, full);
}

WEIR_DEVICE void load_state(const Block& w, State& state) {
  const float* from = w.state + 16 * pair_index() + 2 * lane_group();
#pragma unroll
  for (int n = 0; n < 16; ++n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float2 x = *reinterpret_cast<const float2*>(from + (8 * n + 2 * lane_place() + e) * kColumns);
      state[n][e] = x.x;
      state[n][2 + e] = x.y;
    }
  }
}

WEIR_DEVICE void store_state(const Block& w, const State& state) {
  float* to = w.state + 16 * pair_index() + 2 * lane_group();
#pragma unroll
  for (int n = 0; n < 16; ++n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      *reinterpret_cast<float2*>(to + (8 * n + 2 * lane_place() + e) * kColumns) = {state[n][e], state[n][2 + e]};
    }
  }
}

WEIR_DEVICE void make_operand(const float* first, const float* second, uint32_t* a) {
  a[0] = device::f16x2(first[0], first[1]);
  a[1] = device::f16x2(first[2], first[3]);
  a[2] = device::f16x2(second[0], second[1]);
  a[3] = device::f16x2(second[2], second[3]);
}

// The lane's address for right operands whose columns are rows of a tile and whose k runs along them.
WEIR_DEVICE uint32_t rows_address(const uint16_t* tile) {
  const int lane = device::lane();
  return device::shared_address(tile + (lane / 16 * 8 + lane % 8) * kGdnKeyStride + lane / 8 % 2 * 8);
}

// S^T times 64 rows of k or q.
WEIR_DEVICE void state_products(const State& state, const uint16_t* tile, Product& out) {
  const uint32_t address = rows_address(tile);
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    for (int i = 0; i < 4; ++i) out[n][i] = 0;
  }
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    Operand a;
    make_operand(state[2 * step], state[2 * step + 1], a);
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      uint32_t b[4];
      device::load_matrices(b, address + group * (16 * kGdnKeyStride * 2) + step * 32);
      device::mma_f16(out[2 * group], a, b[0], b[1]);
      device::mma_f16(out[2 * group + 1], a, b[2], b[3]);
    }
  }
}

// S <- e^G_63 S + sum_j e^(G_63 - G_j) k_j delta_j^T; `weighted`: the updates with their factors.
WEIR_DEVICE void fold(State& state, const Stage& stage, const Operand* weighted) {
  const float fade = stage.head.fade[kRows - 1];
  const int lane = device::lane();
  const uint32_t address =
      device::shared_address(stage.k + (lane / 8 % 2 * 8 + lane % 8) * kGdnKeyStride + lane / 16 * 8);
#pragma unroll
  for (int n = 0; n < 16; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) state[n][i] *= fade;
  }
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      uint32_t b[4];
      device::load_matrices_transposed(b, address + group * (16 * kGdnKeyStride * 2) + n * 32);
      device::mma_f16(state[2 * n], weighted[group], b[0], b[1]);
      device::mma_f16(state[2 * n + 1], weighted[group], b[2], b[3]);
    }
  }
}

// Adds a group's updates times a square of coefficients to two groups of 8 rows.
WEIR_DEVICE void add_square(const uint4* square, const uint32_t* updates, float* low, float* high) {
  const uint4 b = square[device::lane()];
  device::mma_f16(low, updates, b.x, b.y);
  device::mma_f16(high, updates, b.z, b.w);
}

// The group's 16 rows become their updates, in ascending order: a lane has a column, which it gets from and gives back
// to the lanes of the matrix units' layout through `group`. The upper half of the warp repeats the lower half.
WEIR_DEVICE void solve_group(const float* table, float (*group)[kGroupStride], float* low, float* high) {
  float* own = group[2 * lane_group()] + 2 * lane_place();
  *reinterpret_cast<float2*>(own) = {low[0], low[1]};
  *reinterpret_cast<float2*>(own + kGroupStride) = {low[2], low[3]};
  *reinterpret_cast<float2*>(own + 8) = {high[0], high[1]};
  *reinterpret_cast<float2*>(own + kGroupStride + 8) = {high[2], high[3]};
  __syncwarp();
  auto* column = reinterpret_cast<float4*>(group[device::lane() % 16]);
  float x[16];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float4 rows = column[i];
    x[4 * i] = rows.x;
    x[4 * i + 1] = rows.y;
    x[4 * i + 2] = rows.z;
    x[4 * i + 3] = rows.w;
  }
#pragma unroll
  for (int pair = 0; pair < 8; ++pair) {
    // Rows 2 of their coefficients at a time: [8 pairs of columns][row % 8 / 2][row / 8][row % 2][column % 2].
    const auto* at = reinterpret_cast<const float4*>(table + pair * 32);
    x[2 * pair + 1] = fmaf(at[pair % 4 * 2 + pair / 4].z, x[2 * pair], x[2 * pair + 1]);
#pragma unroll
    for (int later = pair + 1; later < 8; ++later) {
      const float4 c = at[later % 4 * 2 + later / 4];
      x[2 * later] = fmaf(c.y, x[2 * pair + 1], fmaf(c.x, x[2 * pair], x[2 * later]));
      x[2 * later + 1] = fmaf(c.w, x[2 * pair + 1], fmaf(c.z, x[2 * pair], x[2 * later + 1]));
    }
  }
  __syncwarp();
  if (device::lane() < 16) {
#pragma unroll
    for (int i = 0; i < 4; ++i) column[i] = {x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]};
  }
  __syncwarp();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float2 first = *reinterpret_cast<const float2*>(own + 8 * half);
    const float2 second = *reinterpret_cast<const float2*>(own + kGroupStride + 8 * half);
    float* to = half == 0 ? low : high;
    to[0] = first.x;
    to[1] = first.y;
    to[2] = second.x;
    to[3] = second.y;
  }
}

// From S^T k in `rows` to the updates.
WEIR_DEVICE void make_updates(const Block& w, const Stage& stage, float (*scratch)[kGroupStride], int known,
                              Product& rows, Operand* updates) {
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const uint2 values = stage.values[pair_index()][n * device::kWarp + device::lane()];
    const float2 factor = *reinterpret_cast<const float2*>(stage.head.beta_fade + 8 * n + 2 * lane_place());
    rows[n][0] = fmaf(-factor.x, rows[n][0], device::f16_low(values.x));
    rows[n][1] = fmaf(-factor.y, rows[n][1], device::f16_high(values.x));
    rows[n][2] = fmaf(-factor.x, rows[n][2], device::f16_low(values.y));
    rows[n][3] = fmaf(-factor.y, rows[n][3], device::f16_high(values.y));
  }
  if (known > 0) {
    const float* ring = w.update + 16 * pair_index() + 2 * lane_group();
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int row = 8 * n + 2 * lane_place() + e;
        if (row >= known) continue;
        const float2 x = *reinterpret_cast<const float2*>(ring + row * kColumns);
        rows[n][e] = x.x;
        rows[n][2 + e] = x.y;
      }
    }
  }
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    solve_group(stage.head.table + group * 256, scratch, rows[2 * group], rows[2 * group + 1]);
    make_operand(rows[2 * group], rows[2 * group + 1], updates[group]);
#pragma unroll
    for (int later = group + 1; later < kGroups; ++later) {
      const uint4* square = stage.head.kk[later * (later - 1) / 2 + group];
      add_square(square, updates[group], rows[2 * later], rows[2 * later + 1]);
    }
  }
}

// New rows of the chunk into the ring.
WEIR_DEVICE void store_updates(const Block& w, const GdnChunkRows& chunk, const Product& rows) {
  float* ring = w.update + 16 * pair_index() + 2 * lane_group();
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int row = 8 * n + 2 * lane_place() + e;
      if (row >= chunk.known && row < chunk.end) {
        *reinterpret_cast<float2*>(ring + row * kColumns) = {rows[n][e], rows[n][2 + e]};
      }
    }
  }
}

// Waits for the completion that belongs to chunk `n` of a barrier that is one of `count` taking turns.
WEIR_DEVICE void wait_turn(device::Barrier* barriers, int n, int count) {
  device::barrier_wait(&barriers[n % count], static_cast<uint32_t>(n / count % 2));
}
// What the warp did before it counts as done for those who wait at `barrier`.
WEIR_DEVICE void warp_arrive(device::Barrier* barrier) {
  __syncwarp();
  if (device::lane() == 0) device::barrier_arrive(barrier);
  __syncwarp();
}

// The first warp of a pair.
WEIR_DEVICE void update_warp(Shared& m, const Block& w, State& state) {
  bool moved = false;
  for (int n = 0; n < w.chunks; ++n) {
    const GdnChunkRows chunk = gdn_chunk_rows(w.s, w.number + n);
    const Stage& stage = m.stages[n % kStages];
    wait_turn(m.full, n, kStages);
    Product rows;
    state_products(state, stage.k, rows);
    Operand updates[kGroups];
    make_updates(w, stage, m.group[pair_index()], chunk.known, rows, updates);
    if (n >= 2) wait_turn(m.empty, n - 2, kStages);  // what was handed over then has been read
    uint4(*hand)[device::kWarp] = m.updates[n % 2][pair_index()];
    Operand weighted[kGroups];
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      const uint32_t* x = updates[group];
      hand[group][device::lane()] = {x[0], x[1], x[2], x[3]};
      float products[2][4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int at = 16 * group + 8 * half + 2 * lane_place();
        const float2 factor = *reinterpret_cast<const float2*>(stage.head.to_end + at);
        for (int i = 0; i < 4; ++i) products[half][i] = rows[2 * group + half][i] * (i % 2 == 0 ? factor.x : factor.y);
      }
      uint32_t* y = weighted[group];
      make_operand(products[0], products[1], y);
      hand[kGroups + group][device::lane()] = {y[0], y[1], y[2], y[3]};
    }
    warp_arrive(&m.handed[pair_index()][n % 2]);
    if (w.ends && n + 1 == w.chunks) {
      store_updates(w, chunk, rows);
    } else {
      fold(state, stage, weighted);
      moved = true;
    }
    warp_arrive(&m.empty[n % kStages]);
  }
  if (moved) store_state(w, state);
}

// The second warp of a pair.
WEIR_DEVICE void output_warp(Shared& m, const Block& w, State& state) {
  const float q_scale = 1.0F / sqrtf(static_cast<float>(kDim));
  for (int n = 0; n < w.chunks; ++n) {
    const Stage& stage = m.stages[n % kStages];
    wait_turn(m.full, n, kStages);
    Product out;
    state_products(state, stage.q, out);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float2 fade = *reinterpret_cast<const float2*>(stage.head.fade + 8 * i + 2 * lane_place());
      out[i][0] *= fade.x;
      out[i][1] *= fade.y;
      out[i][2] *= fade.x;
      out[i][3] *= fade.y;
    }
    wait_turn(m.handed[pair_index()], n, 2);
    const uint4(*hand)[device::kWarp] = m.updates[n % 2][pair_index()];
    Operand weighted[kGroups];
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      const uint4 x = hand[group][device::lane()];
      const Operand updates = {x.x, x.y, x.z, x.w};
#pragma unroll
      for (int to = group; to < kGroups; ++to) {
        add_square(stage.head.qk[to * (to + 1) / 2 + group], updates, out[2 * to], out[2 * to + 1]);
      }
      const uint4 y = hand[kGroups + group][device::lane()];
      weighted[group][0] = y.x;
      weighted[group][1] = y.y;
      weighted[group][2] = y.z;
      weighted[group][3] = y.w;
    }
    if (!w.ends || n + 1 < w.chunks) fold(state, stage, weighted);
    warp_arrive(&m.empty[n % kStages]);
    if (n >= 2) wait_turn(m.taken, n - 2, 2);
    float* to = m.out[n % 2][2 * lane_place()] + 16 * pair_index() + 2 * lane_group();
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float* row = to + 8 * i * kOutStride;
      *reinterpret_cast<float2*>(row) = {out[i][0] * q_scale, out[i][2] * q_scale};
      *reinterpret_cast<float2*>(row + kOutStride) = {out[i][1] * q_scale, out[i][3] * q_scale};
    }
    warp_arrive(&m.written[n % 2]);
  }
}

inline constexpr int kFinishRows = kRows / kFinishWarps;  // of a warp
inline constexpr int kRowLanes = kColumns / 4;            // a lane has four columns of every fourth row
inline constexpr int kRowSteps = kFinishRows * kRowLanes / device::kWarp;

// Rows of a chunk that the lane ends.
struct Rows {
  int first;  // its first of the chunk; then every fourth
  int known;
  int end;
  int64_t row;  // of the step, of the chunk's first
};

WEIR_DEVICE Rows lane_rows(const Block& w, int n) {
  const GdnChunkRows chunk = gdn_chunk_rows(w.s, w.number + n);
  const int first = (device::warp() - kChainWarps) * kFinishRows + device::lane() / kRowLanes;
  return {first, chunk.known, chunk.end, int64_t{w.s.row_begin} + 64 * chunk.chunk - w.s.position};
}

WEIR_DEVICE void load_gates(const GpuGdnPackedArgs& args, const Block& w, int n, int column, float4* gates) {
  const Rows rows = lane_rows(w, n);
#pragma unroll
  for (int i = 0; i < kRowSteps; ++i) {
    const int row = rows.first + i * (device::kWarp / kRowLanes);
    if (row < rows.known || row >= rows.end) continue;
    gates[i] = *reinterpret_cast<const float4*>(args.z + (rows.row + row) * args.z_stride + column);
  }
}

// Sends the sums of squares of the lane's rows in this block's columns to every block of the cluster.
WEIR_DEVICE void send_squares(Shared& m, const Block& w, int n, int first, const float4* out) {
  const int part = device::lane() % kRowLanes;
#pragma unroll
  for (int i = 0; i < kRowSteps; ++i) {
    const float4 x = out[i];
    float sum = fmaf(x.w, x.w, fmaf(x.z, x.z, fmaf(x.y, x.y, x.x * x.x)));
    for (int distance = 1; distance < kRowLanes; distance *= 2) {
      sum += __shfl_xor_sync(device::kAllLanes, sum, distance);
    }
    float* to = &m.squares[n % 2][w.quarter][first + i * (device::kWarp / kRowLanes)];
    if (part < kQuarters) device::send_shared_to(static_cast<uint32_t>(part), to, sum, &m.summed[n % 2]);
  }
}

WEIR_DEVICE float gated(float x, float scale, float z) {
  return x * scale * __fdividef(z, 1.0F + __expf(-z));
}

// The gated norm. A block sends the sums of chunk n + 2 once it has those of n + 1 from all blocks, which send them
// once they have read those of n: two buffers do.
WEIR_DEVICE void finish_warp(const GpuGdnPackedArgs& args, Shared& m, const Block& w) {
  const int local = w.quarter * kColumns + 4 * (device::lane() % kRowLanes);
  const int column = w.head * kDim + local;
  const float4 norm = *reinterpret_cast<const float4*>(args.norm + local);
  float4 gates[kRowSteps] = {};
  load_gates(args, w, 0, column, gates);
  const bool copies = device::warp() == kWarps - 1 && device::lane() == 0;
  for (int n = 0; copies && n < min(kStages, w.chunks); ++n) load_stage(args, m, w, n);
  __syncwarp();
  for (int n = 0; n < w.chunks; ++n) {
    const Rows rows = lane_rows(w, n);
    if (device::warp() == kChainWarps && device::lane() == 0) {
      device::barrier_expect(&m.summed[n % 2], kQuarters * kRows * sizeof(float));
    }
    __syncwarp();
    wait_turn(m.written, n, 2);
    float4 out[kRowSteps];
#pragma unroll
    for (int i = 0; i < kRowSteps; ++i) {
      const int row = rows.first + i * (device::kWarp / kRowLanes);
      out[i] = *reinterpret_cast<const float4*>(m.out[n % 2][row] + 4 * (device::lane() % kRowLanes));
    }
    warp_arrive(&m.taken[n % 2]);
    if (copies && n + kStages < w.chunks) {
      wait_turn(m.empty, n, kStages);
      load_stage(args, m, w, n + kStages);
    }
    __syncwarp();
    send_squares(m, w, n, rows.first, out);
    wait_turn(m.summed, n, 2);
#pragma unroll
    for (int i = 0; i < kRowSteps; ++i) {
      const int row = rows.first + i * (device::kWarp / kRowLanes);
      const float (*squares)[kRows] = m.squares[n % 2];
      const float sum = (squares[0][row] + squares[1][row]) + (squares[2][row] + squares[3][row]);
      const float scale = 1.0F / sqrtf(sum / static_cast<float>(kDim) + args.eps);
      if (row < rows.known || row >= rows.end) continue;
      const float4 z = gates[i];
      const float4 x = out[i];
      const uint2 y = {
          device::half_pair(args.y_type != 0, gated(x.x, scale * norm.x, z.x), gated(x.y, scale * norm.y, z.y)),
          device::half_pair(args.y_type != 0, gated(x.z, scale * norm.z, z.z), gated(x.w, scale * norm.w, z.w))};
      *reinterpret_cast<uint2*>(args.y + (rows.row + row) * args.y_stride + column) = y;
    }
    if (n + 1 < w.chunks) load_gates(args, w, n + 1, column, gates);
    __syncwarp();
  }
}

// What the ring keeps beside the updates: log decays, and by the blocks of a key head's first value head its keys; the
// last raw inputs.
WEIR_DEVICE void keep_ring(const GpuGdnPackedArgs& args, const Block& w) {
  const int last = w.chunks - 1;
  const GdnChunkRows chunk = gdn_chunk_rows(w.s, w.number + last);
  uint8_t* slot = w.s.slot + args.slot_offset;
  const int key_head = w.head / args.ratio;
  const bool first_of_key = w.head % args.ratio == 0;
  const int thread = static_cast<int>(threadIdx.x);
  if (w.quarter == 0 && thread >= chunk.known && thread < chunk.end) {
    const auto* tile = reinterpret_cast<const GdnHeadTile*>(gdn_head_tile(args, w.at + last, w.head));
    reinterpret_cast<float*>(slot + args.log_decay_offset)[w.head * kRows + thread] = tile->log_decay[thread];
  }
  if (first_of_key) {
    float* keys = reinterpret_cast<float*>(slot + args.keys_offset) + static_cast<int64_t>(key_head) * kRows * kDim;
    const auto* tile = reinterpret_cast<const uint32_t*>(gdn_key_tile(args, w.at + last, key_head));
    for (int n = thread; n < 16 * (kDim / 2); n += kThreads) {
      const int row = 16 * w.quarter + n / (kDim / 2);
      const int pair = n % (kDim / 2);
      if (row < chunk.known || row >= chunk.end) continue;
      const uint32_t x = tile[row * (kGdnKeyStride / 2) + pair];
      reinterpret_cast<float2*>(keys + row * kDim)[pair] = {device::f16_low(x), device::f16_high(x)};
    }
  }
  float* inputs = reinterpret_cast<float*>(slot + args.inputs_offset);
  const int column = w.quarter * kColumns + device::lane();
  const int channels[3] = {(2 * args.key_heads + w.head) * kDim + column, key_head * kDim + column,
                           (args.key_heads + key_head) * kDim + column};
  for (int row = max(0, w.s.row_count - kInputs) + device::warp(); row < w.s.row_count; row += kWarps) {
    const float* from = args.u + (w.s.row_begin + row) * args.u_stride;
    float* to = inputs + static_cast<int64_t>((w.s.position + row) % kInputs) * args.channels;
    for (int i = 0; i < (first_of_key ? 3 : 1); ++i) to[channels[i]] = from[channels[i]];
  }
}

WEIR_DEVICE void open_barriers(Shared& m) {
  for (int i = 0; i < kStages; ++i) {
    device::barrier_init(&m.full[i], 1);
    device::barrier_init(&m.empty[i], kChainWarps);
  }
  for (int i = 0; i < 2; ++i) {
    device::barrier_init(&m.handed[0][i], 1);
    device::barrier_init(&m.handed[1][i], 1);
    device::barrier_init(&m.written[i], 2);
    device::barrier_init(&m.taken[i], kFinishWarps);
    device::barrier_init(&m.summed[i], 1);
  }
  device::barrier_init_done();
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_gdn_chunks, GpuGdnPackedArgs, kThreads, 1) {
  extern __shared__ __align__(128) uint8_t gdn_shared[];
  Shared& m = *reinterpret_cast<Shared*>(gdn_shared);
  Block w;
  const bool any = find_block(args, &w);
  const bool of_chain = device::warp() < kChainWarps;
  State state;
  if (any && of_chain && args.chunk_begin == 0) load_state(w, state);
  if (threadIdx.x == 0) open_barriers(m);
  __syncthreads();
  device::wait_for_previous();
  device::start_next();
  if (!any) return;  // the whole cluster
  // The launch before this one may have moved it.
  if (of_chain && args.chunk_begin > 0) load_state(w, state);
  device::cluster_barrier();  // the others' barriers are there
  if (of_chain && device::warp() % 2 == 0) {
    update_warp(m, w, state);
  } else if (of_chain) {
    output_warp(m, w, state);
  } else {
    finish_warp(args, m, w);
  }
  __syncwarp();
  if (w.ends) keep_ring(args, w);
  device::cluster_barrier();  // the others have sent what this block's shared memory waits for
}

}  // namespace weir
