// gdn_rows for few heads, where latency counts: more warps, each with less to do, and nothing that a cluster's blocks
// need is made twice. A block holds 32 columns of one value head's state (64 with four value heads a key head) in
// shared memory; the blocks of a key head are a cluster. What only earlier steps wrote (state, ring, convolution
// window) is under way before the block waits for the kernel before it. Rows go one after the other. Each block of the
// cluster keeps an equal share of the ring's keys: it sends the share's products with the row's k and q to the others,
// and at the end of the row the sums of squares that the gated norm needs. Eight warps multiply (each has 32 channels
// of k or q, 16 keys, 8 rows of the ring; a lane a column), one for each tile of 32 columns has the values and the end
// of the row, the last one the gates.
//
// Each instruction is run through once or a few times, so fetching it takes longer than what it does: loops are rolled.
//
// Who waits for whom, in row n: the warps that multiply for each other once k and q are there; those for dots_here,
// where the other warps arrive when they have left row n - 1 behind; all of the block once the parts are there; the
// warps of the tiles for norm_here. What blocks send stands by turns in two places. Dots of row n + 2 leave when the
// block has row n's norms, each of which its sender sends when its block has read the dots of row n; norms of row n + 2
// leave when the block has those of row n + 1, each of which its sender sends when it has read those of row n.
#include "device/async.h"
#include "ops/gdn/gdn_rows.h"

namespace weir {
namespace {

inline constexpr int kWorkers = kParts * device::kWarp;  // their threads, each with a channel of q or k
static_assert(kWorkers == 2 * kDim);
inline constexpr int kOwnRows = kGdnRowsOwn;  // of the ring, that a block keeps the keys of, at most
inline constexpr int kClusterMax = 8;

template <int kTiles>
struct alignas(128) Shared {
  float state[kTiles][kDim][kColumns];
  float update[kTiles][kRing][kColumns];
  float keys[kOwnRows][kDim];
  float parts[2][kTiles][kParts][kColumns];  // of what k takes from state and ring, then q
  float qk[2 * kDim];                        // the row's q, then its k, before their norm
  float squares[kParts];                     // of q by the first four warps, of k by the next
  float log_decay[kRing];
  float minus_a[kRing];
  float b[kRing];
  float dots[2][2][kRing];         // by turns: the ring's keys times the row's k, then times its q
  float norm[2][2 * kClusterMax];  // by turns: squares of the output's tiles
  float fade[2];                   // by turns: e^G
  float beta[2];
  device::Barrier loaded;
  device::Barrier dots_here[2];
  device::Barrier norm_here[2];
};
static_assert(sizeof(Shared<1>) == gdn_rows_few_shared_bytes(1) && sizeof(Shared<2>) == gdn_rows_few_shared_bytes(2));

// Keys of the ring that each block of the cluster keeps: so many bits.
template <int kTiles>
WEIR_DEVICE int own_bits(const Place<kTiles>& p) {
  return __clz(p.args.cluster) - __clz(kRing);
}

WEIR_DEVICE void workers_barrier() {
  device::threads_barrier(1, kWorkers);
}

// What a warp is for.
struct Role {
  int warp;
  bool multiplies;
  bool gates;  // neither: a tile's
};

// Makes the barriers, and starts the copies of the state and of the ring's first `rows` rows; one thread.
template <int kTiles>
WEIR_DEVICE void load_slot(Shared<kTiles>& m, const Place<kTiles>& p, int rows) {
  device::barrier_init(&m.loaded, 1);
#pragma unroll 1
  for (int turn = 0; turn < 2; ++turn) {
    device::barrier_init(&m.dots_here[turn], 1 + (kTiles + 1) * device::kWarpArrivals);
    device::barrier_init(&m.norm_here[turn], 1);
  }
  device::barrier_init_done();
  constexpr int kRowBytes = kColumns * static_cast<int>(sizeof(float));
  constexpr int kKeyBytes = kDim * static_cast<int>(sizeof(float));
  const int own = 1 << own_bits(p);
  const float* from = p.keys() + own * p.rank * kDim;
  // At the end of a chunk the state moves and no key of the ring is needed by itself.
  const int keys = rows == kRing ? 0 : max(0, min(rows - own * p.rank, own));
  device::barrier_expect(&m.loaded, kTiles * (kDim + rows) * kRowBytes + keys * kKeyBytes);
  device::bulk_copy_once(m.state, p.state(), kTiles * kDim * kRowBytes, &m.loaded);
#pragma unroll 1
  for (int tile = 0; tile < kTiles && rows > 0; ++tile) {
    device::bulk_copy_once(m.update[tile], p.update() + tile * kRing * kColumns, rows * kRowBytes, &m.loaded);
  }
  if (keys > 0) device::bulk_copy_once(m.keys, from, keys * kKeyBytes, &m.loaded);
  if (rows == kRing) device::bulk_prefetch(from, own * kKeyBytes);
}

// S <- e^G_63 S + sum_j e^(G_63 - G_j) k_j delta_j^T, in shared memory and in the slot; the warps that multiply. A
// thread has two keys and four columns at a time; the ring's keys, with their factors, pass through the place of the
// block's own, which no later row needs.
template <int kTiles>
WEIR_DEVICE void fold(Shared<kTiles>& m, const Place<kTiles>& p, const Role& role) {
  constexpr int kSlice = kParts;  // rows of the ring on their way, one a warp
  constexpr int kKeys = 2 * kWorkers / (kColumns / 4);
  const float last = m.log_decay[kRing - 1];
  const float fade = expf(last);
  const int column = thread() % (kColumns / 4) * 4;
  const auto* from = reinterpret_cast<const float4*>(p.keys() + role.warp * kDim) + device::lane();
#pragma unroll 1
  for (int pass = 0; pass < kTiles * (kDim / kKeys); ++pass) {
    const int tile = pass / (kDim / kKeys);
    const int key = pass % (kDim / kKeys) * kKeys + thread() / (kColumns / 4) * 2;
    float4 sum[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float4 x = *reinterpret_cast<const float4*>(m.state[tile][key + i] + column);
      sum[i] = {fade * x.x, fade * x.y, fade * x.z, fade * x.w};
    }
    float4 next = __ldcg(from);
#pragma unroll 1
    for (int slice = 0; slice < kRing; slice += kSlice) {
      const float factor = expf(last - m.log_decay[slice + role.warp]);
      workers_barrier();
      reinterpret_cast<float4*>(m.keys[role.warp])[device::lane()] = {factor * next.x, factor * next.y, factor * next.z,
                                                                      factor * next.w};
      if (slice + kSlice < kRing) next = __ldcg(from + (slice + kSlice) * (kDim / 4));
      workers_barrier();
#pragma unroll 2
      for (int t = 0; t < kSlice; ++t) {
        const float2 keys = *reinterpret_cast<const float2*>(m.keys[t] + key);
        const float4 x = *reinterpret_cast<const float4*>(m.update[tile][slice + t] + column);
        sum[0] = {fmaf(keys.x, x.x, sum[0].x), fmaf(keys.x, x.y, sum[0].y), fmaf(keys.x, x.z, sum[0].z),
                  fmaf(keys.x, x.w, sum[0].w)};
        sum[1] = {fmaf(keys.y, x.x, sum[1].x), fmaf(keys.y, x.y, sum[1].y), fmaf(keys.y, x.z, sum[1].z),
                  fmaf(keys.y, x.w, sum[1].w)};
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      *reinterpret_cast<float4*>(m.state[tile][key + i] + column) = sum[i];
      *reinterpret_cast<float4*>(p.state() + (tile * kDim + key + i) * kColumns + column) = sum[i];
    }
  }
  workers_barrier();
}

// What a thread keeps over the rows: a channel of the convolution, and its inputs of the next row. Warps of the tiles
// have a value each and its z, the warp of the gates a and b, the same in every lane.
struct Thread {
  float weights[kTaps];  // of the gates: the decay, dt_bias
  float window[kTaps];   // the last is the row's own input
  int index;             // of the channel; of the gates: the head
  float norm;
  float in;
  float more;
};

template <int kTiles>
WEIR_DEVICE void open_thread(const Place<kTiles>& p, const Role& role, int position, Thread& own) {
  const GpuGdnPackedArgs& args = p.args;
  own.index = p.qk_channel();
  own.norm = own.more = 0;
  if (role.gates) {
    own.weights[0] = args.decay[p.value_head];
    own.weights[1] = args.dt_bias[p.value_head];
    own.index = p.value_head;
    return;
  }
  if (!role.multiplies) {
    const int column = (p.tile + role.warp - kParts) * kColumns + device::lane();
    own.norm = args.norm[column];
    own.index = p.value_channel(column);
  }
  open_channel(p, position, own.index, own.weights, own.window);
}

WEIR_DEVICE void read_row(const GpuGdnPackedArgs& args, const Role& role, int64_t row, Thread& own) {
  if (role.gates) {
    own.in = __ldcg(args.a + row * args.a_stride + own.index);
    own.more = __ldcg(args.b + row * args.b_stride + own.index);
    return;
  }
  own.in = __ldcg(args.u + row * args.u_stride + own.index);
  if (!role.multiplies) own.more = __ldcg(args.z + row * args.z_stride + own.index - 2 * args.key_heads * kDim);
}

// The gates of row i of the ring.
template <int kTiles>
WEIR_DEVICE void enter_gates(Shared<kTiles>& m, const Place<kTiles>& p, const Thread& own, int i, int turn) {
  const float growth = softplus(own.in + own.weights[1]);
  const float now = fmaf(own.weights[0], growth, i == 0 ? 0.0F : m.log_decay[i - 1]);
  __syncwarp();
  if (device::lane() != 0) return;
  m.log_decay[i] = now;
  m.fade[turn] = expf(now);
  m.beta[turn] = device::sigmoid(own.more);
  if (p.leads()) p.log_decay()[i] = now;
}

// This block's share of the row's products with the ring's keys goes to every block of the cluster; row i is the row
// itself. Half a warp has the sums with k, the other those with q.
template <int kTiles>
WEIR_DEVICE void send_dots(Shared<kTiles>& m, const Place<kTiles>& p, const Role& role, int i, int turn,
                           const Norms& norm) {
  constexpr int kHalf = device::kWarp / 2;
  const bool of_k = device::lane() < kHalf;
  const int at = 4 * device::lane();
  const float4 k = *reinterpret_cast<const float4*>(m.qk + kDim + at);
  const float4 q = *reinterpret_cast<const float4*>(m.qk + at);
#pragma unroll 1
  for (int r = role.warp; r < 1 << own_bits(p); r += kParts) {
    const int row = (p.rank << own_bits(p)) + r;
    if (row > i) return;
    const float4 key = *reinterpret_cast<const float4*>((row == i ? m.qk + kDim : m.keys[r]) + at);
    const float kk = dot(key, k);
    const float qk = dot(key, q);
    float sum = (of_k ? kk : qk) + __shfl_xor_sync(device::kAllLanes, of_k ? qk : kk, kHalf);
#pragma unroll
    for (int distance = kHalf / 2; distance > 0; distance /= 2) {
      sum += __shfl_xor_sync(device::kAllLanes, sum, distance);
    }
    sum *= of_k ? norm.k_scale : norm.q_scale;
    if (row == i) sum *= norm.k_scale;
    const int to = device::lane() % kHalf;
    if (to < p.args.cluster) {
      device::send_shared_to(static_cast<uint32_t>(to), &m.dots[turn][of_k ? 0 : 1][row], sum, &m.dots_here[turn]);
    }
  }
}

// One warp's part of S^T k and S^T q, its lanes' columns.
template <int kTiles>
WEIR_DEVICE void state_products(const Shared<kTiles>& m, const Role& role, float (&from_k)[kTiles],
                                float (&from_q)[kTiles]) {
  constexpr int kKeys = kDim / kParts;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) from_k[tile] = from_q[tile] = 0;
  const int first = role.warp * kKeys;
#pragma unroll 1
  for (int d = first; d < first + kKeys; d += 4) {
    const float4 k = *reinterpret_cast<const float4*>(m.qk + kDim + d);
    const float4 q = *reinterpret_cast<const float4*>(m.qk + d);
    const float ks[4] = {k.x, k.y, k.z, k.w};
    const float qs[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const float x = m.state[tile][d + n][device::lane()];
        from_k[tile] = fmaf(ks[n], x, from_k[tile]);
        from_q[tile] = fmaf(qs[n], x, from_q[tile]);
      }
    }
  }
}

// The coefficients of this warp's rows of the ring, up to row i, and the sums over those before it.
template <int kTiles>
WEIR_DEVICE void ring_products(Shared<kTiles>& m, const Role& role, int i, int turn, float (&from_k)[kTiles],
                               float (&from_q)[kTiles]) {
  constexpr int kRows = kRing / kParts;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) from_k[tile] = from_q[tile] = 0;
  const int first = role.warp * kRows;
  if (first > i) return;
  const int j = first + device::lane();
  if (device::lane() < kRows) {
    const float e = expf(m.log_decay[i] - m.log_decay[min(j, i)]);
    m.minus_a[j] = j < i ? -(e * m.dots[turn][0][j]) : 0.0F;
    m.b[j] = j <= i ? e * m.dots[turn][1][j] : 0.0F;
  }
  __syncwarp();
#pragma unroll 1
  for (int t = first; t < min(first + kRows, i); t += 4) {
    const float4 a = *reinterpret_cast<const float4*>(m.minus_a + t);
    const float4 b = *reinterpret_cast<const float4*>(m.b + t);
    const float as[4] = {a.x, a.y, a.z, a.w};
    const float bs[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const float x = t + n < i ? m.update[tile][t + n][device::lane()] : 0.0F;
        from_k[tile] = fmaf(as[n], x, from_k[tile]);
        from_q[tile] = fmaf(bs[n], x, from_q[tile]);
      }
    }
  }
}

// A row's products with the ring and the state, into the parts; returns the factor of the row's key.
template <int kTiles>
WEIR_DEVICE float multiply_row(Shared<kTiles>& m, const Place<kTiles>& p, const Role& role, int i, int turn,
                               uint32_t phase) {
  const Norms norm = norms(m.squares);
  float state_k[kTiles];
  float state_q[kTiles];
  float ring_k[kTiles];
  float ring_q[kTiles];
  device::barrier_wait(&m.loaded, 0);
  send_dots(m, p, role, i, turn, norm);
  __syncwarp();
  state_products(m, role, state_k, state_q);
  device::barrier_wait(&m.dots_here[turn], phase);
  ring_products(m, role, i, turn, ring_k, ring_q);
  const float fade = m.fade[turn];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    m.parts[0][tile][role.warp][device::lane()] = fmaf(-fade, state_k[tile] * norm.k_scale, ring_k[tile]);
    m.parts[1][tile][role.warp][device::lane()] = fmaf(fade, state_q[tile] * norm.q_scale, ring_q[tile]);
  }
  return norm.k_scale;
}

// The row's update and its output, once all blocks of the head have their squares; the warp of a tile.
template <int kTiles>
WEIR_DEVICE void finish_row(Shared<kTiles>& m, const Place<kTiles>& p, const Role& role, const Thread& own, float value,
                            float z, int i, int turn, uint32_t phase, int64_t row) {
  const GpuGdnPackedArgs& args = p.args;
  const int tile = role.warp - kParts;
  const int lane = device::lane();
  const float delta = m.beta[turn] * (value + add_parts(m.parts[0][tile], lane));
  const float out = fmaf(m.b[i], delta, add_parts(m.parts[1][tile], lane));
  const float squares = device::warp_sum(out * out);
  if (lane < p.args.cluster) {
    device::send_shared_to(static_cast<uint32_t>(lane), &m.norm[turn][p.rank * kTiles + tile], squares,
                           &m.norm_here[turn]);
  }
  if (tile == 0 && lane == 0) device::barrier_expect(&m.norm_here[turn], p.args.cluster * kTiles * 4);
  __syncwarp();
  m.update[tile][i][lane] = delta;
  p.update()[(tile * kRing + i) * kColumns + lane] = delta;
  const float gate = own.norm * silu_fast(z);
  device::barrier_wait(&m.norm_here[turn], phase);
  const float4 all = *reinterpret_cast<const float4*>(&m.norm[turn][(p.rank * kTiles) & ~3]);
  const float scale = output_scale(all, args.eps);
  const int column = p.value_head * kDim + (p.tile + tile) * kColumns + lane;
  args.y[row * args.y_stride + column] = output_value(args, out * scale * gate);
}

template <int kTiles>
WEIR_DEVICE void gdn_rows_few(const GpuGdnPackedArgs& args, Shared<kTiles>& m) {
  const GpuGdnSequence s = args.sequences[blockIdx.y];
  if (s.row_count == 0) return;  // the whole cluster
  const Place<kTiles> p(args, s);
  const Role role = {warp(), warp() < kParts, warp() == kParts + kTiles};
  int base = s.base;
  if (role.gates && device::lane() == 0) load_slot(m, p, s.position - base);
  __syncwarp();
  device::cluster_arrive_relaxed();
  if (thread() < s.position - base) m.log_decay[thread()] = p.log_decay()[thread()];
  Thread own;
  open_thread(p, role, s.position, own);
  __syncwarp();
  device::cluster_wait();  // every block's barriers are made
  __syncthreads();
  device::NamedBarrier<0, gdn_rows_few_threads(kTiles)> parts_here;
#pragma unroll 1
  for (int row = 0; row < s.row_count; ++row) {
    const int position = s.position + row;
    if (position - base == kRing) {
      __syncwarp();
      device::cluster_barrier();  // the keys of this step's rows are in the slot
      device::barrier_wait(&m.loaded, 0);
      if (role.multiplies) fold(m, p, role);
      __syncwarp();
      device::cluster_barrier();  // nobody reads any more what later rows write in their place
      base = position;
    }
    if (row == 0) {
      device::wait_for_previous();
      device::start_next();
      read_row(args, role, s.row_begin, own);
    }
    const int i = position - base;
    const int turn = row % 2;
    const uint32_t phase = static_cast<uint32_t>(row) / 2 % 2;
    const float z = own.more;
    float value = 0;
    if (role.gates) {
      enter_gates(m, p, own, i, turn);
    } else {
      value = convolve(own.weights, own.window, own.in);
    }
    if (row + 1 < s.row_count) read_row(args, role, int64_t{s.row_begin} + row + 1, own);
    if (role.multiplies) {
      m.qk[thread()] = value;
      const float sum = device::warp_sum(value * value);
      if (device::lane() == 0) m.squares[role.warp] = sum;
      if (thread() == 0) device::barrier_expect(&m.dots_here[turn], (i + 1) * 8);
      __syncwarp();
      workers_barrier();
      value *= multiply_row(m, p, role, i, turn, phase);
    } else {
      device::warp_arrive(&m.dots_here[turn]);
      __syncwarp();
    }
    parts_here.wait();  // all warps at one place, as the language wants it
    if (role.multiplies) {
      if (thread() >= kDim && i >> own_bits(p) == p.rank) {
        m.keys[i & ((1 << own_bits(p)) - 1)][thread() - kDim] = value;
        p.keys()[i * kDim + thread() - kDim] = value;
      }
    } else if (!role.gates) {
      finish_row(m, p, role, own, value, z, i, turn, phase, int64_t{s.row_begin} + row);
    }
    if (!role.gates && row >= s.row_count - kInputs && (!role.multiplies || p.rank == 0)) {
      p.inputs(position)[own.index] = own.window[kTaps - 1];
    }
  }
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_gdn_rows_few, GpuGdnPackedArgs, gdn_rows_few_threads(1), 4) {
  extern __shared__ __align__(128) uint8_t gdn_rows_few_shared[];
  gdn_rows_few(args, shared_at<Shared<1>>(gdn_rows_few_shared));
}

// Four value heads of a key head: two tiles a block.
WEIR_KERNEL_BOUNDED(weir_gdn_rows_few_wide, GpuGdnPackedArgs, gdn_rows_few_threads(2), 3) {
  extern __shared__ __align__(128) uint8_t gdn_rows_few_shared[];
  gdn_rows_few(args, shared_at<Shared<2>>(gdn_rows_few_shared));
}

}  // namespace weir
