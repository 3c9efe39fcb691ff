// Bound by reading the state once, and for few sequences by latency. A block holds 32 columns of one value head's state
// (64 with four value heads a key head) in shared memory; the blocks of a key head are a cluster. What only earlier
// steps wrote (state, ring, convolution window) is under way before the block waits for the kernel before it. Rows go
// one after the other. Each block of the cluster keeps an equal share of the ring's keys: it computes the share's
// products with the row's k and q, and the others read them from its shared memory; a second exchange joins the sums of
// squares of the gated norm. What several blocks read of the slot is written behind the first exchange. Eight warps
// share the products (a warp takes 16 keys or 8 rows of the ring, a lane a column), the ninth has the values, the gates
// and the end of the row.
#include "device/async.h"
#include "device/mma.h"
#include "ops/gdn/gdn_packed_args.h"

namespace weir {
namespace {

inline constexpr int kDim = kGdnHeadDim;
inline constexpr int kColumns = kGdnTileColumns;
inline constexpr int kThreads = 2 * kDim + device::kWarp;
inline constexpr int kValueWarp = kThreads / device::kWarp - 1;
inline constexpr int kRing = 64;
inline constexpr int kParts = 8;
inline constexpr int kOwnMax = 16;  // rows of the ring that a block keeps the keys of
inline constexpr int kInputs = 16;
inline constexpr int kTaps = 4;
inline constexpr float kL2Eps = 1e-6F;

template <int kTiles>
struct Shared {
  float state[kTiles][kDim][kColumns];
  float update[kTiles][kRing][kColumns];
  float keys[kOwnMax][kDim];
  float qk[2 * kDim];  // the row's q, then its k, before their norm
  float log_decay[kRing];
  float minus_a[kRing];
  float b[kRing];
  float parts_k[kTiles][kParts][kColumns];
  float parts_q[kTiles][kParts][kColumns];
  float squares[kParts];  // of q by the first four warps, of k by the next
  float own_kk[kOwnMax];  // k . key, read by the cluster
  float own_qk[kOwnMax];
  float norm_squares;  // of the block's columns, read by the cluster
  float fade;          // e^G
  device::Barrier loaded;
};

// Where the block stands.
struct Place {
  int key_head;
  int value_head;
  int rank;    // in the cluster
  int own;     // keys that each block of the cluster keeps
  int first;   // rank of the first block of the value head
  int blocks;  // of the value head
  int tile;    // first tile of 32 columns of the head
  uint8_t* slot;
  float* state;
  float* keys;
  float* update;
  float* log_decay;
  float* inputs;
};

WEIR_DEVICE int thread() {
  return static_cast<int>(threadIdx.x);
}

template <int kTiles>
WEIR_DEVICE Place place_of(const GpuGdnPackedArgs& args, const GpuGdnSequence& s) {
  Place p;
  p.key_head = static_cast<int>(blockIdx.x) / args.cluster;
  p.rank = static_cast<int>(blockIdx.x) % args.cluster;
  p.own = kRing / args.cluster;
  p.blocks = args.cluster / args.ratio;
  p.first = p.rank / p.blocks * p.blocks;
  p.value_head = p.key_head * args.ratio + p.rank / p.blocks;
  p.tile = p.rank % p.blocks * kTiles;
  p.slot = s.slot + args.slot_offset;
  const int64_t tile = static_cast<int64_t>(p.value_head) * (kDim / kColumns) + p.tile;
  p.state = reinterpret_cast<float*>(p.slot + args.state_offset) + tile * kDim * kColumns;
  p.keys = reinterpret_cast<float*>(p.slot + args.keys_offset) + static_cast<int64_t>(p.key_head) * kRing * kDim;
  p.update = reinterpret_cast<float*>(p.slot + args.update_offset) + tile * kRing * kColumns;
  p.log_decay = reinterpret_cast<float*>(p.slot + args.log_decay_offset) + static_cast<int64_t>(p.value_head) * kRing;
  p.inputs = reinterpret_cast<float*>(p.slot + args.inputs_offset);
  return p;
}

// Starts the copies of the state and of the ring's first `rows` rows.
template <int kTiles>
WEIR_DEVICE void load_slot(Shared<kTiles>& m, const Place& p, int rows) {
  if (thread() != 0) return;
  device::barrier_init(&m.loaded, 1);
  device::barrier_init_done();
  constexpr int kRowBytes = kColumns * static_cast<int>(sizeof(float));
  constexpr int kKeyBytes = kDim * static_cast<int>(sizeof(float));
  // At the end of a chunk the state moves and no key of the ring is needed by itself.
  const int keys = rows == kRing ? 0 : max(0, min(rows - p.own * p.rank, p.own));
  device::barrier_expect(&m.loaded, kTiles * (kDim + rows) * kRowBytes + keys * kKeyBytes);
  device::bulk_copy_once(m.state, p.state, kTiles * kDim * kRowBytes, &m.loaded);
  if (rows > 0) {
    for (int tile = 0; tile < kTiles; ++tile) {
      device::bulk_copy_once(m.update[tile], p.update + tile * kRing * kColumns, rows * kRowBytes, &m.loaded);
    }
  }
  if (rows == kRing) device::bulk_prefetch(p.keys + p.own * p.rank * kDim, p.own * kKeyBytes);
  if (keys > 0) device::bulk_copy_once(m.keys, p.keys + p.own * p.rank * kDim, keys * kKeyBytes, &m.loaded);
}

inline constexpr int kSliceParts = kOwnMax * kDim / 4 / (2 * kDim);  // float4 that a thread copies of a slice's keys

// A slice of the ring's keys on its way through a thread: kOwnMax rows of the slot.
WEIR_DEVICE void read_slice(const float* keys, int slice, float4* parts) {
#pragma unroll
  for (int i = 0; i < kSliceParts; ++i) {
    const auto* from = reinterpret_cast<const float4*>(keys + slice * kOwnMax * kDim);
    parts[i] = __ldcg(from + i * 2 * kDim + thread());
  }
}

// S <- e^G_63 S + sum_j e^(G_63 - G_j) k_j delta_j^T, in shared memory and in the slot, before the first row. A thread
// has four keys and four columns; the ring's keys, with their factors, pass through the place of the block's own, which
// no later row needs.
template <int kTiles>
WEIR_DEVICE void fold(Shared<kTiles>& m, const Place& p) {
  const bool works = device::warp() < kParts;
  const int row = thread() / 8 * 4;
  const int column = thread() % 8 * 4;
  float4 parts[kSliceParts];
  float4 sum[kTiles][4];
  if (works) read_slice(p.keys, 0, parts);
  if (thread() < kRing) m.b[thread()] = expf(m.log_decay[kRing - 1] - m.log_decay[thread()]);
  const float fade = expf(m.log_decay[kRing - 1]);
#pragma unroll
  for (int i = 0; works && i < kTiles * 4; ++i) {
    const float4 x = *reinterpret_cast<const float4*>(m.state[i / 4][row + i % 4] + column);
    sum[i / 4][i % 4] = {fade * x.x, fade * x.y, fade * x.z, fade * x.w};
  }
#pragma unroll 1
  for (int slice = 0; slice < kRing / kOwnMax; ++slice) {
    __syncthreads();
    for (int i = 0; works && i < kSliceParts; ++i) {
      const int at = i * 2 * kDim + thread();
      const float factor = m.b[slice * kOwnMax + at / (kDim / 4)];
      const float4 x = parts[i];
      reinterpret_cast<float4*>(m.keys)[at] = {factor * x.x, factor * x.y, factor * x.z, factor * x.w};
    }
    if (works && slice + 1 < kRing / kOwnMax) read_slice(p.keys, slice + 1, parts);
    __syncthreads();
#pragma unroll 4
    for (int t = 0; works && t < kOwnMax; ++t) {
      const float4 key = *reinterpret_cast<const float4*>(m.keys[t] + row);
      const float keys[4] = {key.x, key.y, key.z, key.w};
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const float4 x = *reinterpret_cast<const float4*>(m.update[tile][slice * kOwnMax + t] + column);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float4& to = sum[tile][i];
          to = {fmaf(keys[i], x.x, to.x), fmaf(keys[i], x.y, to.y), fmaf(keys[i], x.z, to.z), fmaf(keys[i], x.w, to.w)};
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; works && i < kTiles * 4; ++i) {
    const int at = row + i % 4;
    *reinterpret_cast<float4*>(m.state[i / 4][at] + column) = sum[i / 4][i % 4];
    *reinterpret_cast<float4*>(p.state + (i / 4 * kDim + at) * kColumns + column) = sum[i / 4][i % 4];
  }
  __syncthreads();
}

// The same, bit by bit, between two rows of a step. Slower, with a few registers: those that fold() takes would push
// what a thread keeps over the rows to memory in every step, and make it wait for the loads before the kernel before it
// has ended.
template <int kTiles>
WEIR_DEVICE void fold_within(Shared<kTiles>& m, const Place& p) {
  constexpr int kRows = 8;  // of the state that a warp moves at a time
  if (thread() < kRing) m.b[thread()] = expf(m.log_decay[kRing - 1] - m.log_decay[thread()]);
  __syncthreads();
  const int c = device::lane();
  const float fade = expf(m.log_decay[kRing - 1]);
  for (int n = 0; n < kTiles * kDim / kRows / kParts && device::warp() < kParts; ++n) {
    const int tile = n / (kDim / kRows / kParts);
    const int first = (n % (kDim / kRows / kParts) * kParts + device::warp()) * kRows;
    float sum[kRows];
    for (int i = 0; i < kRows; ++i) sum[i] = fade * m.state[tile][first + i][c];
#pragma unroll 4
    for (int t = 0; t < kRing; ++t) {
      const float weight = m.b[t];
      const float update = m.update[tile][t][c];
      const auto* keys = reinterpret_cast<const float4*>(p.keys + t * kDim + first);
      for (int i = 0; i < kRows; i += 4) {
        const float4 key = __ldcg(keys + i / 4);
        sum[i] = fmaf(weight * key.x, update, sum[i]);
        sum[i + 1] = fmaf(weight * key.y, update, sum[i + 1]);
        sum[i + 2] = fmaf(weight * key.z, update, sum[i + 2]);
        sum[i + 3] = fmaf(weight * key.w, update, sum[i + 3]);
      }
    }
    for (int i = 0; i < kRows; ++i) {
      m.state[tile][first + i][c] = sum[i];
      p.state[(tile * kDim + first + i) * kColumns + c] = sum[i];
    }
  }
  __syncthreads();
}

// This block's share of the row's products with the ring's keys: row i is the row itself.
template <int kTiles>
WEIR_DEVICE void own_products(Shared<kTiles>& m, const Place& p, int i, float q_scale, float k_scale) {
  const int at = 4 * device::lane();
  const float4 k = *reinterpret_cast<const float4*>(m.qk + kDim + at);
  const float4 q = *reinterpret_cast<const float4*>(m.qk + at);
  const float4 unit = {k.x * k_scale, k.y * k_scale, k.z * k_scale, k.w * k_scale};
  for (int r = device::warp(); r < p.own; r += kParts) {
    const int row = p.own * p.rank + r;
    if (row > i) return;
    const float4 key = row == i ? unit : *reinterpret_cast<const float4*>(m.keys[r] + at);
    const float kk = fmaf(key.w, unit.w, fmaf(key.z, unit.z, fmaf(key.y, unit.y, key.x * unit.x)));
    const float qk = fmaf(key.w, q.w, fmaf(key.z, q.z, fmaf(key.y, q.y, key.x * q.x)));
    const float kk_sum = device::warp_sum(kk);
    const float qk_sum = device::warp_sum(qk) * q_scale;
    if (device::lane() == 0) {
      m.own_kk[r] = kk_sum;
      m.own_qk[r] = qk_sum;
    }
  }
}

// The coefficients of the row's update and output, from the products that the blocks of the cluster keep.
template <int kTiles>
WEIR_DEVICE void coefficients(Shared<kTiles>& m, const Place& p, int i) {
  const int j = thread();
  if (j > i) return;
  const auto rank = static_cast<uint32_t>(j / p.own);
  const float kk = device::read_shared_of(rank, m.own_kk + j % p.own);
  const float qk = device::read_shared_of(rank, m.own_qk + j % p.own);
  const float e = expf(m.log_decay[i] - m.log_decay[j]);
  m.minus_a[j] = -(e * kk);
  m.b[j] = e * qk;
}

// One warp's part of S^T k and S^T q, its lanes' columns.
template <int kTiles>
WEIR_DEVICE void state_products(const Shared<kTiles>& m, float* from_k, float* from_q) {
  constexpr int kRows = kDim / kParts;
  const int first = device::warp() * kRows;
  for (int tile = 0; tile < kTiles; ++tile) from_k[tile] = from_q[tile] = 0;
#pragma unroll
  for (int d = first; d < first + kRows; d += 4) {
    const float4 k = *reinterpret_cast<const float4*>(m.qk + kDim + d);
    const float4 q = *reinterpret_cast<const float4*>(m.qk + d);
    for (int tile = 0; tile < kTiles; ++tile) {
      const float* state = m.state[tile][d] + device::lane();
      from_k[tile] = fmaf(k.x, state[0], from_k[tile]);
      from_q[tile] = fmaf(q.x, state[0], from_q[tile]);
      from_k[tile] = fmaf(k.y, state[kColumns], from_k[tile]);
      from_q[tile] = fmaf(q.y, state[kColumns], from_q[tile]);
      from_k[tile] = fmaf(k.z, state[2 * kColumns], from_k[tile]);
      from_q[tile] = fmaf(q.z, state[2 * kColumns], from_q[tile]);
      from_k[tile] = fmaf(k.w, state[3 * kColumns], from_k[tile]);
      from_q[tile] = fmaf(q.w, state[3 * kColumns], from_q[tile]);
    }
  }
}

// The warp's part of the sums over earlier rows of the ring, joined with its part of the state's.
template <int kTiles>
WEIR_DEVICE void ring_products(Shared<kTiles>& m, int i, const float* from_k, const float* from_q) {
  constexpr int kRows = kRing / kParts;
  const int first = device::warp() * kRows;
  for (int tile = 0; tile < kTiles; ++tile) {
    float earlier_a = 0;
    float earlier_b = 0;
#pragma unroll
    for (int t = first; t < first + kRows; ++t) {
      if (t < i) {
        const float update = m.update[tile][t][device::lane()];
        earlier_a = fmaf(m.minus_a[t], update, earlier_a);
        earlier_b = fmaf(m.b[t], update, earlier_b);
      }
    }
    m.parts_k[tile][device::warp()][device::lane()] = fmaf(-m.fade, from_k[tile], earlier_a);
    m.parts_q[tile][device::warp()][device::lane()] = fmaf(m.fade, from_q[tile], earlier_b);
  }
}

WEIR_DEVICE float add_parts(const float (*parts)[kColumns]) {
  const int c = device::lane();
  return ((parts[0][c] + parts[1][c]) + (parts[2][c] + parts[3][c])) +
         ((parts[4][c] + parts[5][c]) + (parts[6][c] + parts[7][c]));
}

// A channel of the convolution: the block's threads have one of q or k each, the last warp's lanes kTiles values.
struct Channel {
  int index;
  float weights[kTaps];
  float window[kTaps];  // the last is the row's own input
  float next;           // the row after it
};

WEIR_DEVICE void open_channel(const GpuGdnPackedArgs& args, const Place& p, const GpuGdnSequence& s, int index,
                              Channel* channel) {
  channel->index = index;
#pragma unroll
  for (int tap = 0; tap < kTaps; ++tap) {
    channel->weights[tap] = args.conv[tap * args.channels + index];
    const int token = s.position - kTaps + tap;
    channel->window[tap] =
        tap == 0 || token < 0 ? 0.0F : p.inputs[static_cast<int64_t>(token % kInputs) * args.channels + index];
  }
}

WEIR_DEVICE float convolve(Channel* channel) {
  float sum = 0;
#pragma unroll
  for (int tap = 0; tap + 1 < kTaps; ++tap) channel->window[tap] = channel->window[tap + 1];
  channel->window[kTaps - 1] = channel->next;
#pragma unroll
  for (int tap = 0; tap < kTaps; ++tap) sum = fmaf(channel->weights[tap], channel->window[tap], sum);
  return device::silu(sum);
}

// What the last warp reads of a row for itself; gates are the same in every lane.
template <int kTiles>
struct RowInputs {
  float a;
  float b;
  float z[kTiles];
};

template <int kTiles>
WEIR_DEVICE void read_row(const GpuGdnPackedArgs& args, const Place& p, int64_t row, Channel* channels,
                          RowInputs<kTiles>* in) {
  if (device::warp() < kValueWarp) {
    channels[0].next = args.u[row * args.u_stride + channels[0].index];
    return;
  }
  for (int tile = 0; tile < kTiles; ++tile) {
    channels[tile].next = args.u[row * args.u_stride + channels[tile].index];
    in->z[tile] = args.z[row * args.z_stride + p.value_head * kDim + (p.tile + tile) * kColumns + device::lane()];
  }
  in->a = args.a[row * args.a_stride + p.value_head];
  in->b = args.b[row * args.b_stride + p.value_head];
}

// The raw input of the row at `token` goes to the ring, the last kInputs rows of the step alone.
template <int kTiles>
WEIR_DEVICE void keep_input(const GpuGdnPackedArgs& args, const Place& p, int token, const Channel* channels) {
  float* to = p.inputs + static_cast<int64_t>(token % kInputs) * args.channels;
  if (device::warp() < kValueWarp) {
    if (p.rank == 0) to[channels[0].index] = channels[0].window[kTaps - 1];
    return;
  }
  for (int tile = 0; tile < kTiles; ++tile) to[channels[tile].index] = channels[tile].window[kTaps - 1];
}

// Cumulative log decay of row i; every lane of the last warp.
template <int kTiles>
WEIR_DEVICE void enter_gates(Shared<kTiles>& m, const RowInputs<kTiles>& in, float decay, float dt_bias, int i) {
  const float x = in.a + dt_bias;
  const float softplus = x > 20.0F ? x : log1pf(expf(x));
  const float now = fmaf(decay, softplus, i == 0 ? 0.0F : m.log_decay[i - 1]);
  __syncwarp();
  if (device::lane() == 0) {
    m.log_decay[i] = now;
    m.fade = expf(now);
  }
}

// What a thread keeps over the rows.
template <int kTiles>
struct Thread {
  bool is_value;  // of the last warp
  Channel channels[kTiles];
  float norm[kTiles];
  float decay;
  float dt_bias;
};

template <int kTiles>
WEIR_DEVICE void open_thread(const GpuGdnPackedArgs& args, const Place& p, const GpuGdnSequence& s,
                             Thread<kTiles>& own) {
  own.is_value = device::warp() == kValueWarp;
  for (int tile = 0; tile < kTiles; ++tile) {
    const int column = (p.tile + tile) * kColumns + device::lane();
    int index = 2 * args.key_heads * kDim + p.value_head * kDim + column;
    if (!own.is_value) index = (thread() / kDim * args.key_heads + p.key_head) * kDim + thread() % kDim;
    open_channel(args, p, s, index, &own.channels[tile]);
    own.norm[tile] = args.norm[column];
  }
  own.decay = args.decay[p.value_head];
  own.dt_bias = args.dt_bias[p.value_head];
}

// Convolution and gates of row i of the ring; returns the thread's values.
template <int kTiles>
WEIR_DEVICE void enter_row(Shared<kTiles>& m, Thread<kTiles>& own, const RowInputs<kTiles>& in, int i, float* value) {
  if (own.is_value) {
    for (int tile = 0; tile < kTiles; ++tile) value[tile] = convolve(&own.channels[tile]);
    enter_gates(m, in, own.decay, own.dt_bias, i);
    return;
  }
  value[0] = convolve(&own.channels[0]);
  m.qk[thread()] = value[0];
  const float sum = device::warp_sum(value[0] * value[0]);
  if (device::lane() == 0) m.squares[device::warp()] = sum;
}

// The row's products with the ring and the state, into the parts; returns the factor of the row's key.
template <int kTiles>
WEIR_DEVICE float row_products(Shared<kTiles>& m, const Place& p, bool is_value, int i) {
  const float q_squares = (m.squares[0] + m.squares[1]) + (m.squares[2] + m.squares[3]);
  const float k_squares = (m.squares[4] + m.squares[5]) + (m.squares[6] + m.squares[7]);
  const float q_scale = 1.0F / sqrtf(q_squares + kL2Eps) * (1.0F / sqrtf(static_cast<float>(kDim)));
  const float k_scale = 1.0F / sqrtf(k_squares + kL2Eps);
  float from_k[kTiles];
  float from_q[kTiles];
  if (!is_value) own_products(m, p, i, q_scale, k_scale);
  __syncwarp();
  device::cluster_arrive();
  if (!is_value) {
    state_products(m, from_k, from_q);
    for (int tile = 0; tile < kTiles; ++tile) {
      from_k[tile] *= k_scale;
      from_q[tile] *= q_scale;
    }
  }
  device::cluster_wait();
  coefficients(m, p, i);
  __syncthreads();
  if (!is_value) ring_products(m, i, from_k, from_q);
  __syncthreads();
  return k_scale;
}

// The row's update, its output, and the sum of the output's squares; the last warp.
template <int kTiles>
WEIR_DEVICE void update_row(Shared<kTiles>& m, const Place& p, int i, float b, const float* value, float* out) {
  const float beta = device::sigmoid(b);
  float squares = 0;
  for (int tile = 0; tile < kTiles; ++tile) {
    const float delta = beta * (value[tile] + add_parts(m.parts_k[tile]));
    out[tile] = fmaf(m.b[i], delta, add_parts(m.parts_q[tile]));
    m.update[tile][i][device::lane()] = delta;
    p.update[(tile * kRing + i) * kColumns + device::lane()] = delta;
    squares = fmaf(out[tile], out[tile], squares);
  }
  squares = device::warp_sum(squares);
  if (device::lane() == 0) m.norm_squares = squares;
  __syncwarp();
}

// The gated norm, once all blocks of the head have their sums; the last warp.
template <int kTiles>
WEIR_DEVICE void store_row(const GpuGdnPackedArgs& args, Shared<kTiles>& m, const Place& p, const float* norm,
                           const RowInputs<kTiles>& in, const float* out, int64_t row) {
  float sum = 0;
  for (int block = 0; block < p.blocks; ++block) {
    sum += device::read_shared_of(static_cast<uint32_t>(p.first + block), &m.norm_squares);
  }
  const float scale = 1.0F / sqrtf(sum / static_cast<float>(kDim) + args.eps);
  for (int tile = 0; tile < kTiles; ++tile) {
    const int column = p.value_head * kDim + (p.tile + tile) * kColumns + device::lane();
    args.y[row * args.y_stride + column] = static_cast<uint16_t>(
        device::half_pair(args.y_type != 0, out[tile] * scale * norm[tile] * device::silu(in.z[tile]), 0.0F));
  }
}

template <int kTiles>
WEIR_DEVICE void gdn_rows(const GpuGdnPackedArgs& args, Shared<kTiles>& m) {
  const GpuGdnSequence s = args.sequences[blockIdx.y];
  if (s.row_count == 0) return;  // the whole cluster
  const Place p = place_of<kTiles>(args, s);
  int base = s.base;
  const int ring = s.position - base;
  load_slot(m, p, ring);
  if (thread() < ring) m.log_decay[thread()] = p.log_decay[thread()];
  if (ring == kRing) {
    __syncthreads();
    device::barrier_wait(&m.loaded, 0);
    fold(m, p);
    base = s.position;
  }
  Thread<kTiles> own;
  open_thread(args, p, s, own);
  __syncthreads();
  device::barrier_wait(&m.loaded, 0);
  device::wait_for_previous();
  device::start_next();

  RowInputs<kTiles> next;
  read_row(args, p, s.row_begin, own.channels, &next);
  for (int row = 0; row < s.row_count; ++row) {
    const int position = s.position + row;
    if (position - base == kRing) {
      device::cluster_barrier();  // the keys of this step's rows are in the slot
      fold_within(m, p);
      base = position;
    }
    const int i = position - base;
    const RowInputs<kTiles> in = next;
    float value[kTiles];
    float out[kTiles];
    enter_row(m, own, in, i, value);
    if (row + 1 < s.row_count) read_row(args, p, int64_t{s.row_begin} + row + 1, own.channels, &next);
    __syncthreads();
    const float k_scale = row_products(m, p, own.is_value, i);
    if (own.is_value) update_row(m, p, i, in.b, value, out);
    device::cluster_arrive();
    // Every block has read what it needs of the slot before the first exchange of the row.
    if (thread() >= kDim && !own.is_value && i / p.own == p.rank) {
      const float key = value[0] * k_scale;
      m.keys[i % p.own][thread() - kDim] = key;
      p.keys[i * kDim + thread() - kDim] = key;
    }
    if (row >= s.row_count - kInputs) keep_input<kTiles>(args, p, position, own.channels);
    if (own.is_value && p.rank == p.first && device::lane() == 0) p.log_decay[i] = m.log_decay[i];
    __syncwarp();
    device::cluster_wait();
    if (own.is_value) store_row(args, m, p, own.norm, in, out, int64_t{s.row_begin} + row);
  }
  device::cluster_barrier();  // the others have read this block's shared memory
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_gdn_rows, GpuGdnPackedArgs, kThreads, 4) {
  extern __shared__ __align__(128) uint8_t gdn_rows_shared[];
  gdn_rows(args, *reinterpret_cast<Shared<1>*>(gdn_rows_shared));
}

// Four value heads of a key head: two tiles a block.
WEIR_KERNEL_BOUNDED(weir_gdn_rows_wide, GpuGdnPackedArgs, kThreads, 2) {
  extern __shared__ __align__(128) uint8_t gdn_rows_shared[];
  gdn_rows(args, *reinterpret_cast<Shared<2>*>(gdn_rows_shared));
}

}  // namespace weir
