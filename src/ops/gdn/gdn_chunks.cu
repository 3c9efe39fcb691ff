// The delta rule over the 64-row chunks of a prompt, one chunk after the other. Bound by the chain of a chunk's own
// steps. A block per (sequence, value head, 64 columns of the state), the two blocks of a head a cluster. Each of three
// warpgroups has a role, each of its warps 16 columns or 16 rows:
// - the chain keeps S^T in registers, in the layout of the matrix units' results, which is also that of their left
//   operand. It computes S^T k, the updates and the state at the chunk's end. The updates come a pair of rows at a
//   time, in ascending order, each from updates alone, so that rows found in the ring count as if they had just been
//   computed. It never waits for another warp's work on the same chunk;
// - it hands S^T, as an operand, and the updates to the second, which computes the outputs;
// - the third ends the rows: sums of squares go round the cluster, gates are read a chunk ahead. Its last warp keeps
//   the copies of the next chunks' parts under way through kStages buffers.
#include "device/async.h"
#include "device/mma.h"
#include "device/wgmma.h"
#include "ops/gdn/gdn_chunk_list.h"

namespace weir {
namespace {

inline constexpr int kRoleWarps = 4;
inline constexpr int kRoles = 3;
inline constexpr int kWarps = kRoleWarps * kRoles;
inline constexpr int kThreads = kWarps * device::kWarp;
inline constexpr int kChainRegisters = 224;
inline constexpr int kOutputRegisters = 152;
inline constexpr int kFinishRegisters = 128;
inline constexpr int kDim = kGdnHeadDim;
inline constexpr int kTileColumns = kGdnTileColumns;
inline constexpr int kTiles = 2;  // of the state, of a block
inline constexpr int kColumns = kTiles * kTileColumns;
inline constexpr int kHalves = kDim / kColumns;
inline constexpr int kRows = 64;
inline constexpr int kGroups = 4;  // of 16 rows
inline constexpr int kSteps = kDim / 16;
inline constexpr int kStages = 3;
inline constexpr int kSums = 4;
inline constexpr int kInputs = 16;
// A row of outputs: padded so that the lanes of an access are in different banks.
inline constexpr int kOutStride = kColumns + 4;

struct Stage {
  uint8_t k[kGdnKeyTileBytes];
  uint8_t q[kGdnKeyTileBytes];
  GdnHeadTile head;
  uint2 values[kRoleWarps][8 * device::kWarp];  // of the warps' columns
};
inline constexpr int kValueBytes = kRoleWarps * kGdnValueGroupBytes;
inline constexpr int kStageBytes = 2 * kGdnKeyTileBytes + kGdnHeadTileBytes + kValueBytes;
static_assert(sizeof(Stage) == kStageBytes && kStageBytes % 1024 == 0);

struct Shared {
  Stage stages[kStages];
  // On their way from a warp of the chain to that of the outputs, as left operands: S^T, and the updates.
  uint4 state[kRoleWarps][kSteps][device::kWarp];
  uint4 updates[kRoleWarps][kGroups][device::kWarp];
  float out[2][kRows][kOutStride];       // [chunk % 2]
  float squares[kSums][kHalves][kRows];  // [chunk % kSums], one by each block of the cluster
  device::Barrier full[kStages];
  device::Barrier empty[kStages];
  device::Barrier state_handed[kRoleWarps];
  device::Barrier state_taken[kRoleWarps];
  device::Barrier updates_handed[kRoleWarps];
  device::Barrier updates_taken[kRoleWarps];
  device::Barrier written[2];     // outputs are there
  device::Barrier taken[2];       // outputs may be overwritten
  device::Barrier summed[kSums];  // the cluster's sums of squares are there
};
static_assert(sizeof(Shared) <= 227 * 1024);

// What a block computes.
struct Block {
  GpuGdnSequence s;
  int head;
  int half;
  int number;  // of the first chunk here among the sequence's
  int chunks;  // how many are computed here
  int at;      // place of the first in the scratch
  bool ends;   // the sequence's last chunk is among them
  float* state;
  float* update;
};

using State = float[64];      // S^T: [8 keys][column 2g, keys 2t, 2t + 1; column 2g + 1, the same]
using Product = float[32];    // [8 rows][column 2g, rows 2t, 2t + 1; column 2g + 1, the same]
using Operand = uint32_t[4];  // the same of two groups of 8, in half precision

WEIR_DEVICE int lane_group() {
  return device::lane() / 4;
}
WEIR_DEVICE int lane_place() {
  return device::lane() % 4;
}
WEIR_DEVICE int role_warp() {
  return device::warp() % kRoleWarps;
}
// Where the lane's two columns begin: in a tile of 32, two warps' columns.
WEIR_DEVICE int tile_column() {
  return role_warp() % 2 * 16 + 2 * lane_group();
}

WEIR_DEVICE bool find_block(const GpuGdnPackedArgs& args, Block* w) {
  w->head = static_cast<int>(blockIdx.x) / kHalves;
  w->half = static_cast<int>(blockIdx.x) % kHalves;
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
  const int64_t tile = int64_t{blockIdx.x} * kTiles;
  uint8_t* slot = w->s.slot + args.slot_offset;
  w->state = reinterpret_cast<float*>(slot + args.state_offset) + tile * kDim * kTileColumns;
  w->update = reinterpret_cast<float*>(slot + args.update_offset) + tile * kRows * kTileColumns;
  return true;
}

// One thread.
WEIR_DEVICE void load_stage(const GpuGdnPackedArgs& args, Shared& m, const Block& w, int n) {
  Stage& stage = m.stages[n % kStages];
  device::Barrier* full = &m.full[n % kStages];
  device::barrier_expect(full, kStageBytes);
  device::bulk_copy(stage.k, gdn_key_tile(args, w.at + n, w.head / args.ratio), 2 * kGdnKeyTileBytes, full);
  device::bulk_copy(&stage.head, gdn_head_tile(args, w.at + n, w.head), kGdnHeadTileBytes, full);
  device::bulk_copy(stage.values, gdn_value_tile(args, w.at + n, w.head) + w.half * kValueBytes, kValueBytes, full);
}

// The lane's two columns of key 0 or row 0 of what has `rows` of them, a tile of 32 columns after the other.
WEIR_DEVICE float* lane_columns(float* tiles, int rows) {
  return tiles + role_warp() / 2 * (rows * kTileColumns) + tile_column();
}

WEIR_DEVICE void load_state(const Block& w, State& state) {
  const float* from = lane_columns(w.state, kDim);
#pragma unroll
  for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float2 x = *reinterpret_cast<const float2*>(from + (8 * n + 2 * lane_place() + e) * kTileColumns);
      state[4 * n + e] = x.x;
      state[4 * n + 2 + e] = x.y;
    }
  }
}

WEIR_DEVICE void store_state(const Block& w, const State& state) {
  float* to = lane_columns(w.state, kDim);
#pragma unroll
  for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      *reinterpret_cast<float2*>(to + (8 * n + 2 * lane_place() + e) * kTileColumns) = {state[4 * n + e],
                                                                                        state[4 * n + 2 + e]};
    }
  }
}

// Two groups of 8 as a left operand.
WEIR_DEVICE void make_operand(const float* first, const float* second, uint32_t* a) {
  a[0] = device::f16x2(first[0], first[1]);
  a[1] = device::f16x2(first[2], first[3]);
  a[2] = device::f16x2(second[0], second[1]);
  a[3] = device::f16x2(second[2], second[3]);
}

// Asks for S^T times 64 rows of k or q; all warps of the role.
WEIR_DEVICE void begin_products(const Operand (&state)[kSteps], const uint8_t* tile, Product& out) {
  const uint64_t rows = device::wgmma_columns(device::shared_address(tile));
  device::wgmma_fence();
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    const int at = step / 4 * (kGdnKeyHalfBytes / 16) + step % 4 * 2;
    device::wgmma<device::kWgmmaF16, kRows>(out, state[step], rows + static_cast<uint64_t>(at), step > 0);
  }
  device::wgmma_commit();
}
template <int kCount>
WEIR_DEVICE void end_products(float (&out)[kCount]) {
  device::wgmma_wait<0>();
  device::wgmma_settle(out);
}

// Asks for S += sum_j e^(G_63 - G_j) k_j delta_j^T; `weighted`: the updates with their factors.
WEIR_DEVICE void begin_fold(State& state, const Stage& stage, const Operand (&weighted)[kGroups]) {
  const uint64_t keys = device::wgmma_rows(device::shared_address(stage.k), kGdnKeyHalfBytes);
  device::wgmma_fence();
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    device::wgmma_rows_f16(state, weighted[group], keys + static_cast<uint64_t>(group * (16 * 128 / 16)));
  }
  device::wgmma_commit();
}

// Adds a group's updates times a square of coefficients to two groups of 8 rows.
WEIR_DEVICE void add_square(const uint4* square, const uint32_t* updates, float* low, float* high) {
  const uint4 b = square[device::lane()];
  device::mma_f16(low, updates, b.x, b.y);
  device::mma_f16(high, updates, b.z, b.w);
}

// Which halves of a square of 8 rows' coefficients a lane's pair of rows gives to others: all but the one inside the
// pair.
WEIR_DEVICE uint32_t outside_pair() {
  return lane_group() == 2 * lane_place() + 1 ? 0xffff0000U : 0xffffffffU;
}
// The lane that has the coefficient inside the lane's pair of rows, as the lower half.
WEIR_DEVICE int pair_lane() {
  return (2 * lane_place() + 1) * 4 + lane_place();
}

// 8 rows become their updates, in ascending order, a pair of rows at a time: a pair's second row takes the first where
// the lanes of the pair hold both, then the later pairs take the pair. `operand`: the updates in half precision.
WEIR_DEVICE void solve_eight(uint32_t square, float inside, float* rows, uint32_t* operand) {
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    const bool own = lane_place() == pair;
    const float factor = own ? inside : 0.0F;
    rows[1] = fmaf(factor, rows[0], rows[1]);
    rows[3] = fmaf(factor, rows[2], rows[3]);
    operand[0] = device::f16x2(rows[0], rows[1]);
    operand[1] = device::f16x2(rows[2], rows[3]);
    if (pair < 3) device::mma_f16_of_8(rows, operand, own ? square & outside_pair() : 0U);
  }
}

// What the updates need beside S^T k.
struct Terms {
  uint2 values[8];
  float2 factors[8];
};
WEIR_DEVICE void load_terms(const Stage& stage, Terms& terms) {
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    terms.values[n] = stage.values[role_warp()][n * device::kWarp + device::lane()];
    terms.factors[n] = *reinterpret_cast<const float2*>(stage.head.beta_fade + 8 * n + 2 * lane_place());
  }
}

// From S^T k in `rows` to what is left of the values.
WEIR_DEVICE void subtract_state(const Terms& terms, Product& rows) {
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const uint2 values = terms.values[n];
    const float2 factor = terms.factors[n];
    float* x = rows + 4 * n;
    x[0] = fmaf(-factor.x, x[0], device::f16_low(values.x));
    x[1] = fmaf(-factor.y, x[1], device::f16_high(values.x));
    x[2] = fmaf(-factor.x, x[2], device::f16_low(values.y));
    x[3] = fmaf(-factor.y, x[3], device::f16_high(values.y));
  }
}

// The ring's rows of the chunk are updates already.
WEIR_DEVICE void load_updates(const Block& w, int known, Product& rows) {
  const float* ring = lane_columns(w.update, kRows);
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int row = 8 * n + 2 * lane_place() + e;
      if (row >= known) continue;
      const float2 x = *reinterpret_cast<const float2*>(ring + row * kTileColumns);
      rows[4 * n + e] = x.x;
      rows[4 * n + 2 + e] = x.y;
    }
  }
}

// From what is left of the values to the updates. Rows of the ring have no coefficients: they stay, and count as if
// they had just been computed.
WEIR_DEVICE void make_updates(const Stage& stage, Product& rows, Operand (&updates)[kGroups]) {
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    const uint4* own = stage.head.kk[group * (group + 1) / 2 + group];
    const uint4 square = own[device::lane()];
    const uint4& inside = own[pair_lane()];
    float* low = rows + 8 * group;
    float* high = low + 4;
    solve_eight(square.x, device::f16_low(inside.x), low, updates[group]);
    device::mma_f16_of_8(high, updates[group], square.z);
    solve_eight(square.w, device::f16_low(inside.w), high, updates[group] + 2);
#pragma unroll
    for (int later = group + 1; later < kGroups; ++later) {
      add_square(stage.head.kk[later * (later + 1) / 2 + group], updates[group], rows + 8 * later,
                 rows + 8 * later + 4);
    }
  }
}

// New rows of the chunk into the ring.
WEIR_DEVICE void store_updates(const Block& w, const GdnChunkRows& chunk, const Product& rows) {
  float* ring = lane_columns(w.update, kRows);
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int row = 8 * n + 2 * lane_place() + e;
      if (row >= chunk.known && row < chunk.end) {
        *reinterpret_cast<float2*>(ring + row * kTileColumns) = {rows[4 * n + e], rows[4 * n + 2 + e]};
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
  device::warp_arrive(barrier);
  __syncwarp();
}

// Operands for the same warp of the outputs.
template <int kCount>
WEIR_DEVICE void hand_over(const Operand (&operands)[kCount], uint4 (*to)[device::kWarp]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const uint32_t* x = operands[i];
    to[i][device::lane()] = {x[0], x[1], x[2], x[3]};
  }
}
template <int kCount>
WEIR_DEVICE void take_over(const uint4 (*from)[device::kWarp], int n, device::Barrier* handed, device::Barrier* taken,
                           Operand (&operands)[kCount]) {
  wait_turn(handed, n, 1);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const uint4 x = from[i][device::lane()];
    operands[i][0] = x.x;
    operands[i][1] = x.y;
    operands[i][2] = x.z;
    operands[i][3] = x.w;
  }
  warp_arrive(taken);
}

// The updates times what fades until the chunk's end, as left operands.
WEIR_DEVICE void weigh_updates(const Stage& stage, const Product& rows, Operand (&weighted)[kGroups]) {
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    float products[8];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = 16 * group + 8 * half + 2 * lane_place();
      const float2 factor = *reinterpret_cast<const float2*>(stage.head.to_end + at);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        products[4 * half + i] = rows[8 * group + 4 * half + i] * (i % 2 == 0 ? factor.x : factor.y);
      }
    }
    make_operand(products, products + 4, weighted[group]);
  }
}

// The kernel before this one writes the scratch, and no slot; in a launch behind the first it ends after the one before
// that, which does.
WEIR_DEVICE void wait_for_products() {
  device::wait_for_previous();
  device::start_next();
}

// While the matrix units work, a warp neither waits nor takes a branch that its lanes do not share: the compiler would
// put their instructions one after the other.
WEIR_DEVICE void run_chain(const GpuGdnPackedArgs& args, Shared& m, const Block& w) {
  const int warp = role_warp();
  State state;
  if (args.chunk_begin > 0) wait_for_products();
  load_state(w, state);
  if (args.chunk_begin == 0) wait_for_products();
  const int folded = w.ends ? w.chunks - 1 : w.chunks;  // the sequence's last chunk stays in the ring
  for (int n = 0; n < w.chunks; ++n) {
    const GdnChunkRows chunk = gdn_chunk_rows(w.s, w.number + n);
    const Stage& stage = m.stages[n % kStages];
    Operand operand[kSteps];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) make_operand(state + 8 * step, state + 8 * step + 4, operand[step]);
    wait_turn(m.full, n, kStages);
    if (n > 0) wait_turn(&m.state_taken[warp], n - 1, 1);
    Product rows;
    begin_products(operand, stage.k, rows);
    hand_over(operand, m.state[warp]);
    if (n < folded) {
      const float fade = stage.head.fade[kRows - 1];
#pragma unroll
      for (float& x : state) x *= fade;
    }
    Terms terms;
    load_terms(stage, terms);
    end_products(rows);
    warp_arrive(&m.state_handed[warp]);
    subtract_state(terms, rows);
    if (chunk.known > 0) load_updates(w, chunk.known, rows);
    Operand updates[kGroups];
    make_updates(stage, rows, updates);
    if (n > 0) wait_turn(&m.updates_taken[warp], n - 1, 1);
    if (n < folded) {
      Operand weighted[kGroups];
      weigh_updates(stage, rows, weighted);
      begin_fold(state, stage, weighted);
      hand_over(updates, m.updates[warp]);
      end_products(state);
    } else {
      hand_over(updates, m.updates[warp]);
      store_updates(w, chunk, rows);
    }
    warp_arrive(&m.updates_handed[warp]);
    warp_arrive(&m.empty[n % kStages]);
  }
  if (folded > 0) store_state(w, state);
}

WEIR_DEVICE void run_outputs(Shared& m, const Block& w) {
  const float q_scale = 1.0F / sqrtf(static_cast<float>(kDim));
  const int warp = role_warp();
  for (int n = 0; n < w.chunks; ++n) {
    const Stage& stage = m.stages[n % kStages];
    wait_turn(m.full, n, kStages);
    Operand state[kSteps];
    take_over(m.state[warp], n, &m.state_handed[warp], &m.state_taken[warp], state);
    Product out;
    begin_products(state, stage.q, out);
    end_products(out);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float2 fade = *reinterpret_cast<const float2*>(stage.head.fade + 8 * i + 2 * lane_place());
      out[4 * i] *= fade.x;
      out[4 * i + 1] *= fade.y;
      out[4 * i + 2] *= fade.x;
      out[4 * i + 3] *= fade.y;
    }
    Operand updates[kGroups];
    take_over(m.updates[warp], n, &m.updates_handed[warp], &m.updates_taken[warp], updates);
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
#pragma unroll
      for (int to = group; to < kGroups; ++to) {
        add_square(stage.head.qk[to * (to + 1) / 2 + group], updates[group], out + 8 * to, out + 8 * to + 4);
      }
    }
    warp_arrive(&m.empty[n % kStages]);
    if (n >= 2) wait_turn(m.taken, n - 2, 2);
    float* to = m.out[n % 2][2 * lane_place()] + 16 * warp + 2 * lane_group();
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float* row = to + 8 * i * kOutStride;
      *reinterpret_cast<float2*>(row) = {out[4 * i] * q_scale, out[4 * i + 2] * q_scale};
      *reinterpret_cast<float2*>(row + kOutStride) = {out[4 * i + 1] * q_scale, out[4 * i + 3] * q_scale};
    }
    warp_arrive(&m.written[n % 2]);
  }
}

inline constexpr int kFinishRows = kRows / kRoleWarps;  // of a warp
inline constexpr int kRowLanes = kColumns / 4;          // a lane has four columns of every other row
inline constexpr int kRowsApart = device::kWarp / kRowLanes;
inline constexpr int kRowSteps = kFinishRows / kRowsApart;

// Rows of a chunk that the lane ends: its first is `first`, the others kRowsApart after each other.
WEIR_DEVICE int finish_row() {
  return role_warp() * kFinishRows + device::lane() / kRowLanes;
}
WEIR_DEVICE bool is_new(const GdnChunkRows& chunk, int row) {
  return static_cast<unsigned>(row - chunk.known) < static_cast<unsigned>(chunk.end - chunk.known);
}

// `z`: of the lane's first row and columns.
WEIR_DEVICE void load_gates(const float* z, int64_t stride, const GdnChunkRows& chunk, float4* gates) {
#pragma unroll
  for (int i = 0; i < kRowSteps; ++i) {
    if (is_new(chunk, finish_row() + i * kRowsApart)) gates[i] = *reinterpret_cast<const float4*>(z);
    z += kRowsApart * stride;
  }
}

// Adds up each of a lane's kRowSteps numbers over the row's lanes and sends the sums to every block of the cluster: a
// lane to one, the lane kRowSteps further to the other.
WEIR_DEVICE void send_squares(Shared& m, const Block& w, int n, float (&sums)[kRowSteps]) {
  static_assert(kRowLanes == kRowSteps * kHalves && kHalves == 2);
  int row;
  const float half = device::spread_sums(sums, &row);
  const float sum = half + __shfl_xor_sync(device::kAllLanes, half, kRowSteps);
  float* to = &m.squares[n % kSums][w.half][finish_row() + row * kRowsApart];
  const int rank = device::lane() % kRowLanes / kRowSteps;
  device::send_shared_to(static_cast<uint32_t>(rank), to, sum, &m.summed[n % kSums]);
}

// What the ring keeps beside the updates: log decays, and by the blocks of a key head's first value head its keys; the
// last raw inputs. By the third role alone; nobody reads the parts that it writes before the kernel has ended. All of a
// thread's loads come before its stores.
WEIR_DEVICE void keep_ring(const GpuGdnPackedArgs& args, const Block& w) {
  constexpr int kKeepThreads = kRoleWarps * device::kWarp;
  const int last = w.chunks - 1;
  const GdnChunkRows chunk = gdn_chunk_rows(w.s, w.number + last);
  uint8_t* slot = w.s.slot + args.slot_offset;
  const int key_head = w.head / args.ratio;
  const bool first_of_key = w.head % args.ratio == 0;
  const int thread = static_cast<int>(threadIdx.x) % kKeepThreads;
  float log_decay = 0;
  const bool decays = w.half == 0 && thread < kRows && is_new(chunk, thread);
  if (decays) {
    const auto* tile = reinterpret_cast<const GdnHeadTile*>(gdn_head_tile(args, w.at + last, w.head));
    log_decay = tile->log_decay[thread];
  }
  // A thread has eight keys of every eighth row.
  constexpr int kParts = kDim / 8;
  constexpr int kKeyRows = kRows / kHalves / (kKeepThreads / kParts);
  const int key_row = w.half * (kRows / kHalves) + thread / kParts;
  uint4 keys[kKeyRows];
  const uint8_t* tile = gdn_key_tile(args, w.at + last, key_head);
#pragma unroll
  for (int i = 0; i < kKeyRows; ++i) {
    const int row = key_row + i * (kKeepThreads / kParts);
    if (first_of_key) keys[i] = *reinterpret_cast<const uint4*>(tile + gdn_key_byte(row, thread % kParts));
  }
  // And four of a row's columns of values, keys and queries.
  constexpr int kInputRows = kInputs / (kKeepThreads / kRowLanes);
  const int column = w.half * kColumns + 4 * (thread % kRowLanes);
  const int channels[3] = {(2 * args.key_heads + w.head) * kDim + column, key_head * kDim + column,
                           (args.key_heads + key_head) * kDim + column};
  const int input_row = w.s.row_count - kInputs + thread / kRowLanes;
  float4 inputs[kInputRows][3];
#pragma unroll
  for (int i = 0; i < kInputRows; ++i) {
    const int row = input_row + i * (kKeepThreads / kRowLanes);
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      if (row < 0 || (c > 0 && !first_of_key)) continue;
      inputs[i][c] = *reinterpret_cast<const float4*>(args.u + (w.s.row_begin + row) * args.u_stride + channels[c]);
    }
  }
  if (decays) reinterpret_cast<float*>(slot + args.log_decay_offset)[w.head * kRows + thread] = log_decay;
  auto* ring = reinterpret_cast<float4*>(slot + args.keys_offset) + static_cast<int64_t>(key_head) * (kRows * kDim / 4);
#pragma unroll
  for (int i = 0; i < kKeyRows; ++i) {
    const int row = key_row + i * (kKeepThreads / kParts);
    if (!first_of_key || !is_new(chunk, row)) continue;
    const uint4 x = keys[i];
    float4* to = ring + row * (kDim / 4) + thread % kParts * 2;
    to[0] = {device::f16_low(x.x), device::f16_high(x.x), device::f16_low(x.y), device::f16_high(x.y)};
    to[1] = {device::f16_low(x.z), device::f16_high(x.z), device::f16_low(x.w), device::f16_high(x.w)};
  }
#pragma unroll
  for (int i = 0; i < kInputRows; ++i) {
    const int row = input_row + i * (kKeepThreads / kRowLanes);
    float* to = reinterpret_cast<float*>(slot + args.inputs_offset) +
                static_cast<int64_t>((w.s.position + row) & (kInputs - 1)) * args.channels;
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      if (row < 0 || (c > 0 && !first_of_key)) continue;
      *reinterpret_cast<float4*>(to + channels[c]) = inputs[i][c];
    }
  }
}

// Sums of squares of the lane's rows of chunk n, to every block of the cluster.
WEIR_DEVICE void sum_rows(Shared& m, const Block& w, int n) {
  const float* from = m.out[n % 2][finish_row()] + 4 * (device::lane() % kRowLanes);
  float squares[kRowSteps];
#pragma unroll
  for (int i = 0; i < kRowSteps; ++i) {
    const float4 x = *reinterpret_cast<const float4*>(from + i * kRowsApart * kOutStride);
    squares[i] = fmaf(x.w, x.w, fmaf(x.z, x.z, fmaf(x.y, x.y, x.x * x.x)));
  }
  send_squares(m, w, n, squares);
}

// The lane's rows of chunk n to `y`, those that are new.
WEIR_DEVICE void end_rows(const GpuGdnPackedArgs& args, const Shared& m, int n, const GdnChunkRows& chunk,
                          const float4& norm, const float4* gates, uint16_t* y) {
  const int first = finish_row();
  const float* from = m.out[n % 2][first] + 4 * (device::lane() % kRowLanes);
  const float (*squares)[kRows] = m.squares[n % kSums];
#pragma unroll
  for (int i = 0; i < kRowSteps; ++i) {
    const int row = first + i * kRowsApart;
    const float sum = squares[0][row] + squares[1][row];
    const float scale = device::fast_rsqrt(fmaf(sum, 1.0F / static_cast<float>(kDim), args.eps));
    const float4 x = *reinterpret_cast<const float4*>(from + i * kRowsApart * kOutStride);
    const float4 z = gates[i];
    const float out[4] = {
        x.x * (scale * norm.x) * device::fast_silu(z.x), x.y * (scale * norm.y) * device::fast_silu(z.y),
        x.z * (scale * norm.z) * device::fast_silu(z.z), x.w * (scale * norm.w) * device::fast_silu(z.w)};
    const uint2 f16 = {device::f16x2(out[0], out[1]), device::f16x2(out[2], out[3])};
    const uint2 bf16 = {device::bf16x2(out[0], out[1]), device::bf16x2(out[2], out[3])};
    if (is_new(chunk, row)) {
      *reinterpret_cast<uint2*>(y + i * kRowsApart * args.y_stride) = args.y_type != 0 ? f16 : bf16;
    }
  }
}

// The gated norm, of a chunk while the next one's sums are under way. A block sends the sums of chunk n + 4 once it has
// those of n + 2 from all blocks, which send them once they have read those of n: kSums places do.
WEIR_DEVICE void run_finish(const GpuGdnPackedArgs& args, Shared& m, const Block& w) {
  const int local = w.half * kColumns + 4 * (device::lane() % kRowLanes);
  const float4 norm = *reinterpret_cast<const float4*>(args.norm + local);
  const bool copies = device::warp() == kWarps - 1 && device::lane() == 0;
#pragma unroll 1
  for (int n = 0; copies && n < min(kStages, w.chunks); ++n) load_stage(args, m, w, n);
  __syncwarp();
  GdnChunkRows chunk = gdn_chunk_rows(w.s, w.number);
  const int64_t row = int64_t{w.s.row_begin} + 64 * chunk.chunk - w.s.position + finish_row();  // of the step
  const float* z = args.z + row * args.z_stride + w.head * kDim + local;
  uint16_t* y = args.y + row * args.y_stride + w.head * kDim + local;
  float4 gates[kRowSteps] = {};
  if (w.ends) keep_ring(args, w);
#pragma unroll 1
  for (int n = 0; n <= w.chunks; ++n) {
    if (n < w.chunks) {
      if (role_warp() == 0 && device::lane() == 0) {
        device::barrier_expect(&m.summed[n % kSums], kHalves * kRows * sizeof(float));
      }
      __syncwarp();
      wait_turn(m.written, n, 2);
      sum_rows(m, w, n);
      if (copies && n + kStages < w.chunks) {
        wait_turn(m.empty, n, kStages);
        load_stage(args, m, w, n + kStages);
      }
      __syncwarp();
    }
    if (n > 0) {
      wait_turn(m.summed, n - 1, kSums);
      end_rows(args, m, n - 1, chunk, norm, gates, y);
      warp_arrive(&m.taken[(n - 1) % 2]);
      y += kRows * args.y_stride;
    }
    if (n < w.chunks) {
      chunk = gdn_chunk_rows(w.s, w.number + n);
      load_gates(z, args.z_stride, chunk, gates);
      z += kRows * args.z_stride;
    }
    __syncwarp();
  }
}

WEIR_DEVICE void open_barriers(Shared& m) {
  for (int i = 0; i < kStages; ++i) {
    device::barrier_init(&m.full[i], 1);
    device::barrier_init(&m.empty[i], 2 * kRoleWarps * device::kWarpArrivals);
  }
  for (int i = 0; i < kRoleWarps; ++i) {
    device::barrier_init(&m.state_handed[i], device::kWarpArrivals);
    device::barrier_init(&m.state_taken[i], device::kWarpArrivals);
    device::barrier_init(&m.updates_handed[i], device::kWarpArrivals);
    device::barrier_init(&m.updates_taken[i], device::kWarpArrivals);
  }
  for (int i = 0; i < 2; ++i) {
    device::barrier_init(&m.written[i], kRoleWarps * device::kWarpArrivals);
    device::barrier_init(&m.taken[i], kRoleWarps * device::kWarpArrivals);
  }
  for (int i = 0; i < kSums; ++i) device::barrier_init(&m.summed[i], 1);
  device::barrier_init_done();
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_gdn_chunks, GpuGdnPackedArgs, kThreads, 1) {
  extern __shared__ __align__(1024) uint8_t gdn_shared[];
  Shared& m = *reinterpret_cast<Shared*>(gdn_shared);
  if (device::shared_address(gdn_shared) % 1024 != 0) __trap();
  Block w;
  const bool any = find_block(args, &w);
  if (threadIdx.x == 0) open_barriers(m);
  __syncthreads();
  device::cluster_arrive_relaxed();
  device::cluster_wait();  // the others' barriers are there
  if (!any) return wait_for_products();
  if (device::warp() < kRoleWarps) {
    device::more_registers<kChainRegisters>();
    run_chain(args, m, w);
  } else if (device::warp() < 2 * kRoleWarps) {
    device::fewer_registers<kOutputRegisters>();
    wait_for_products();
    run_outputs(m, w);
  } else {
    device::fewer_registers<kFinishRegisters>();
    wait_for_products();
    run_finish(args, m, w);
  }
  // A block ends when it has got the last chunk's sums from the others, which send it nothing else.
}

}  // namespace weir
