// The delta rule over the 64-row chunks of a prompt, one chunk after the other. Bound by the chain of a chunk's own
// steps. A block per (sequence, value head, 32 columns of the state), the four blocks of a head a cluster. Two pairs of
// warps take 16 columns each; both warps of a pair keep S^T of their columns in registers, in the layout of the matrix
// units' results, which is also that of their left operand. The first warp computes S^T k and the updates: 16 rows at a
// time, the rows of earlier groups by matrix products, those inside the group by multiply-adds in ascending order, so
// that rows found in the ring count as if they had just been computed. It hands the updates to the second, which
// computes the outputs, and both move the state to the chunk's end by the same products. The gated norm's sums of
// squares go round the cluster while the next chunk runs. Copies of the next chunks' parts run beside all this through
// kStages buffers.
#include "device/async.h"
#include "device/mma.h"
#include "ops/gdn/gdn_chunk_list.h"

namespace weir {
namespace {

inline constexpr int kThreads = 128;
inline constexpr int kWarps = kThreads / device::kWarp;
inline constexpr int kDim = kGdnHeadDim;
inline constexpr int kColumns = kGdnTileColumns;
inline constexpr int kQuarters = kDim / kColumns;
inline constexpr int kRows = 64;
inline constexpr int kGroups = 4;  // of 16 rows
inline constexpr int kStages = 3;
inline constexpr int kInputs = 16;

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
  float squares[2][2][kRows];                       // [chunk % 2][pair], read by the cluster
  float scale[2][kRows];                            // [pair]
  device::Barrier full[kStages];
  device::Barrier empty[kStages];
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

// The group's 16 rows become their updates: two rows at a time, held by the lanes of one place, go to the other places'
// lanes, whose rows take them in. Coefficients of rows on themselves and on later rows are zeros.
WEIR_DEVICE void solve_group(const float* table, float* low, float* high) {
#pragma unroll
  for (int pair = 0; pair < 8; ++pair) {
    const float* at = table + pair * 32 + lane_place() * 8;
    const int source = lane_group() * 4 + pair % 4;
    float* own = pair < 4 ? low : high;
    const float4 c = *reinterpret_cast<const float4*>(at + (pair < 4 ? 0 : 4));
    float x[4];  // the pair's rows of both columns
#pragma unroll
    for (int column = 0; column < 2; ++column) {
      const float second = fmaf(c.z, own[2 * column], own[2 * column + 1]);
      x[2 * column] = __shfl_sync(device::kAllLanes, own[2 * column], source);
      x[2 * column + 1] = __shfl_sync(device::kAllLanes, second, source);
    }
#pragma unroll
    for (int column = 0; column < 2; ++column) {
      own[2 * column] = fmaf(c.y, x[2 * column + 1], fmaf(c.x, x[2 * column], own[2 * column]));
      own[2 * column + 1] = fmaf(c.w, x[2 * column + 1], fmaf(c.z, x[2 * column], own[2 * column + 1]));
    }
    if (pair >= 4) continue;
    const float4 d = *reinterpret_cast<const float4*>(at + 4);
#pragma unroll
    for (int column = 0; column < 2; ++column) {
      high[2 * column] = fmaf(d.y, x[2 * column + 1], fmaf(d.x, x[2 * column], high[2 * column]));
      high[2 * column + 1] = fmaf(d.w, x[2 * column + 1], fmaf(d.z, x[2 * column], high[2 * column + 1]));
    }
  }
}

// From S^T k in `rows` to the updates.
WEIR_DEVICE void make_updates(const Block& w, const Stage& stage, int known, Product& rows, Operand* updates) {
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
    solve_group(stage.head.table + group * 256, rows[2 * group], rows[2 * group + 1]);
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

// The first warp of a pair.
WEIR_DEVICE void update_warp(const GpuGdnPackedArgs& args, Shared& m, const Block& w, State& state) {
  bool moved = false;
  for (int n = 0; n < w.chunks; ++n) {
    // Two chunks behind the outputs, so that this warp never waits for them.
    if (n >= 2) device::cluster_wait();
    if (n >= 1) device::cluster_arrive();
    const GdnChunkRows chunk = gdn_chunk_rows(w.s, w.number + n);
    const Stage& stage = m.stages[n % kStages];
    device::barrier_wait(&m.full[n % kStages], static_cast<uint32_t>(n / kStages % 2));
    Product rows;
    state_products(state, stage.k, rows);
    if (threadIdx.x == 0 && n >= 1 && n - 1 + kStages < w.chunks) {
      device::barrier_wait(&m.empty[(n - 1) % kStages], static_cast<uint32_t>((n - 1) / kStages % 2));
      load_stage(args, m, w, n - 1 + kStages);
    }
    __syncwarp();
    Operand updates[kGroups];
    make_updates(w, stage, chunk.known, rows, updates);
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
    device::threads_barrier(1 + pair_index(), 2 * device::kWarp);
    if (w.ends && n + 1 == w.chunks) {
      store_updates(w, chunk, rows);
    } else {
      fold(state, stage, weighted);
      moved = true;
    }
    __syncwarp();
    if (device::lane() == 0) device::barrier_arrive(&m.empty[n % kStages]);
    __syncwarp();
  }
  if (moved) store_state(w, state);
  if (w.chunks >= 2) device::cluster_wait();
  device::cluster_arrive();
  device::cluster_wait();
}

// Rows' sums of squares over the pair's columns, for the cluster.
WEIR_DEVICE void publish_squares(const Product& out, float* squares) {
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    float2 sum = {fmaf(out[n][2], out[n][2], out[n][0] * out[n][0]), fmaf(out[n][3], out[n][3], out[n][1] * out[n][1])};
#pragma unroll
    for (int distance = 4; distance < device::kWarp; distance *= 2) {
      sum.x += __shfl_xor_sync(device::kAllLanes, sum.x, distance);
      sum.y += __shfl_xor_sync(device::kAllLanes, sum.y, distance);
    }
    if (lane_group() == n) *reinterpret_cast<float2*>(squares + 8 * n + 2 * lane_place()) = sum;
  }
}

// Gates of a chunk's rows, the lane's columns of them.
struct Gates {
  float2 z[8][2];
};

WEIR_DEVICE int64_t first_row(const Block& w, const GdnChunkRows& chunk) {
  return w.s.row_begin + 64 * chunk.chunk - w.s.position;
}

// Asks for a chunk's gates to be brought near: each pair half of the rows.
WEIR_DEVICE void prefetch_gates(const GpuGdnPackedArgs& args, const Block& w, int n) {
  const GdnChunkRows chunk = gdn_chunk_rows(w.s, w.number + n);
  const int row = device::kWarp * pair_index() + device::lane();
  if (row < chunk.known || row >= chunk.end) return;
  const float* z = args.z + (first_row(w, chunk) + row) * args.z_stride + w.head * kDim + w.quarter * kColumns;
  device::bulk_prefetch(z, kColumns * sizeof(float));
}

WEIR_DEVICE void load_gates(const GpuGdnPackedArgs& args, const Block& w, int n, Gates& gates) {
  const GdnChunkRows chunk = gdn_chunk_rows(w.s, w.number + n);
  const int column = w.head * kDim + w.quarter * kColumns + 16 * pair_index() + 2 * lane_group();
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const int row = i / 2 * 8 + 2 * lane_place() + i % 2;
    const bool there = row >= chunk.known && row < chunk.end;
    const float* z = args.z + (first_row(w, chunk) + row) * args.z_stride + column;
    gates.z[i / 2][i % 2] = there ? *reinterpret_cast<const float2*>(z) : float2{0, 0};
  }
}

// The gated norm of the chunk whose outputs the warp still holds, once all blocks have its sums.
WEIR_DEVICE void finish_rows(const GpuGdnPackedArgs& args, Shared& m, const Block& w, int n, const Product& out,
                             const Gates& gates, float2 norm) {
  const GdnChunkRows chunk = gdn_chunk_rows(w.s, w.number + n);
  float* scale = m.scale[pair_index()];
#pragma unroll
  for (int row = device::lane(); row < kRows; row += device::kWarp) {
    float sum = 0;
#pragma unroll
    for (int rank = 0; rank < kQuarters; ++rank) {
      const float first = device::read_shared_of(static_cast<uint32_t>(rank), &m.squares[n % 2][0][row]);
      const float second = device::read_shared_of(static_cast<uint32_t>(rank), &m.squares[n % 2][1][row]);
      sum += first + second;
    }
    scale[row] = 1.0F / sqrtf(sum / static_cast<float>(kDim) + args.eps);
  }
  __syncwarp();
  const int column = w.head * kDim + w.quarter * kColumns + 16 * pair_index() + 2 * lane_group();
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float2 factor = *reinterpret_cast<const float2*>(scale + 8 * i + 2 * lane_place());
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int row = 8 * i + 2 * lane_place() + e;
      const float2 z = gates.z[i][e];
      const float by = e == 0 ? factor.x : factor.y;
      const float x = out[i][e] * by * norm.x * __fdividef(z.x, 1.0F + __expf(-z.x));
      const float y = out[i][2 + e] * by * norm.y * __fdividef(z.y, 1.0F + __expf(-z.y));
      if (row < chunk.known || row >= chunk.end) continue;
      *reinterpret_cast<uint32_t*>(args.y + (first_row(w, chunk) + row) * args.y_stride + column) =
          device::half_pair(args.y_type != 0, x, y);
    }
  }
  __syncwarp();
}

// The second warp of a pair.
WEIR_DEVICE void output_warp(const GpuGdnPackedArgs& args, Shared& m, const Block& w, State& state) {
  const float q_scale = 1.0F / sqrtf(static_cast<float>(kDim));
  const int column = w.quarter * kColumns + 16 * pair_index() + 2 * lane_group();
  const float2 norm = {args.norm[column], args.norm[column + 1]};
  Product out;
  for (int n = 0; n < w.chunks; ++n) {
    const Stage& stage = m.stages[n % kStages];
    prefetch_gates(args, w, n);
    Gates gates;
    if (n > 0) load_gates(args, w, n - 1, gates);
    __syncwarp();
    device::barrier_wait(&m.full[n % kStages], static_cast<uint32_t>(n / kStages % 2));
    Product rows;
    state_products(state, stage.q, rows);
    if (n > 0) {
      device::cluster_wait();
      finish_rows(args, m, w, n - 1, out, gates, norm);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float2 fade = *reinterpret_cast<const float2*>(stage.head.fade + 8 * i + 2 * lane_place());
      out[i][0] = fade.x * rows[i][0];
      out[i][1] = fade.y * rows[i][1];
      out[i][2] = fade.x * rows[i][2];
      out[i][3] = fade.y * rows[i][3];
    }
    device::threads_barrier(1 + pair_index(), 2 * device::kWarp);
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
    __syncwarp();
    if (device::lane() == 0) device::barrier_arrive(&m.empty[n % kStages]);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      for (int e = 0; e < 4; ++e) out[i][e] *= q_scale;
    }
    publish_squares(out, m.squares[n % 2][pair_index()]);
    __syncwarp();
    device::cluster_arrive();
  }
  Gates gates;
  load_gates(args, w, w.chunks - 1, gates);
  device::cluster_wait();
  finish_rows(args, m, w, w.chunks - 1, out, gates, norm);
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

}  // namespace

WEIR_KERNEL_BOUNDED(weir_gdn_chunks, GpuGdnPackedArgs, kThreads, 1) {
  extern __shared__ __align__(128) uint8_t gdn_shared[];
  Shared& m = *reinterpret_cast<Shared*>(gdn_shared);
  Block w;
  const bool any = find_block(args, &w);
  State state;
  if (any && args.chunk_begin == 0) load_state(w, state);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      device::barrier_init(&m.full[i], 1);
      device::barrier_init(&m.empty[i], kWarps);
    }
    device::barrier_init_done();
  }
  __syncthreads();
  device::wait_for_previous();
  device::start_next();
  if (!any) return;                                // the whole cluster
  if (args.chunk_begin > 0) load_state(w, state);  // the launch before this one may have moved it
  if (threadIdx.x == 0) {
    for (int n = 0; n < min(kStages, w.chunks); ++n) load_stage(args, m, w, n);
  }
  __syncwarp();
  if (device::warp() % 2 == 0) {
    update_warp(args, m, w, state);
  } else {
    output_warp(args, m, w, state);
  }
  __syncwarp();
  if (w.ends) keep_ring(args, w);
  device::cluster_barrier();  // the others have read this block's shared memory
}

}  // namespace weir
