// Bound by reading the state once; gdn_rows_few is for few heads, where latency counts. A block has a value head; the
// blocks of a key head are a cluster. A warp has 16 keys of the state, a lane four columns beside each other: the state
// is in the threads' registers from the first instruction on. The ring's rows come to shared memory by the copy engine.
// What only earlier steps wrote (state, ring, convolution window) is under way before the block waits for the kernel
// before it.
//
// Rows go one after the other, and a row has two barriers of the block: before the first, each thread has a channel of
// q or k, and the gates; between them a warp multiplies its 16 keys and its 8 rows of the ring, whose products with the
// row's k and q it makes itself; behind the second, a warp for each 32 columns has the end of the row.
//
// What blocks of a cluster share in the slot (the ring's keys, the convolution's inputs for them) one of them writes.
// That needs no order while nobody reads the places that are written; where the state moves, and where more rows are
// kept than the window leaves free, the cluster waits until everybody has read.
//
// Bits: the order of every sum is that of gdn_rows_few.
#include "device/async.h"
#include "ops/gdn/gdn_rows.h"

namespace weir {
namespace {

inline constexpr int kThreads = kGdnRowsThreads;  // each with a channel of q or k
inline constexpr int kKeys = kDim / kParts;       // of the state, of a warp
inline constexpr int kRows = kRing / kParts;      // of the ring, of a warp
static_assert(kThreads == 2 * kDim && kThreads == kParts * device::kWarp && kDim == 4 * device::kWarp && kRows == 8);

using Head = Place<kHeadTiles>;

struct alignas(128) Shared {
  float keys[kRing][kDim];
  float update[kHeadTiles][kRing][kColumns];
  float parts[2][kParts][kDim];  // of what k takes from state and ring, then q
  float qk[2 * kDim];            // the row's q, then its k, before their norm
  float squares[kParts];         // of q by the first four warps, of k by the next
  float log_decay[kRing];
  float minus_a[kRing];
  float b[kRing];
  float norm[kHeadTiles];  // squares of the output's tiles
  device::Barrier loaded;

  // The state on its way between two owners, where the ring is: [tile][key][column].
  WEIR_DEVICE float* passing() { return &keys[0][0]; }
};
static_assert(sizeof(Shared) == kGdnRowsSharedBytes);

// Of a row, beside each other; as many as a lane has columns.
struct alignas(16) Four {
  float at[4];
};

// A thread's part of the state.
struct State {
  Four of[kKeys];
};

// Makes the barrier, and starts the copies of the ring's first `rows` rows; one thread.
WEIR_DEVICE void load_ring(Shared& m, const Head& p, int rows) {
  device::barrier_init(&m.loaded, 1);
  device::barrier_init_done();
  constexpr int kRowBytes = kColumns * static_cast<int>(sizeof(float));
  constexpr int kKeyBytes = kDim * static_cast<int>(sizeof(float));
  device::barrier_expect(&m.loaded, rows * (kHeadTiles * kRowBytes + kKeyBytes));
  if (rows == 0) return;
  // Other blocks read the keys too.
  device::bulk_copy(m.keys, p.keys(), rows * kKeyBytes, &m.loaded);
#pragma unroll 1
  for (int tile = 0; tile < kHeadTiles; ++tile) {
    device::bulk_copy_once(m.update[tile], p.update() + tile * kRing * kColumns, rows * kRowBytes, &m.loaded);
  }
}

// The lane's first column, as a place in tiles of `rows` rows each.
WEIR_DEVICE int column_in_tiles(int rows) {
  const int column = 4 * device::lane();
  return column / kColumns * rows * kColumns + column % kColumns;
}

WEIR_DEVICE void load_state(const Head& p, int warp, State& state) {
  const float* from = p.state() + column_in_tiles(kDim) + warp * kKeys * kColumns;
#pragma unroll
  for (int d = 0; d < kKeys; ++d) {
    const float4 x = __ldcs(reinterpret_cast<const float4*>(from + d * kColumns));
    state.of[d] = {x.x, x.y, x.z, x.w};
  }
}

WEIR_DEVICE float4 scaled(float4 x, float scale) {
  return {scale * x.x, scale * x.y, scale * x.z, scale * x.w};
}

// What a thread has of the state while it moves: keys, and groups of four columns, so many that a row of the ring costs
// few reads for its products.
struct Fold {
  static constexpr int kKeysOwn = 8;
  static constexpr int kGroups = 2;
  static constexpr int kAcross = kDim / 4 / kGroups;  // threads along the columns
  static_assert(kThreads / kAcross * kKeysOwn == kDim);
  // Of the first column of a thread's group in tiles of `rows` rows.
  WEIR_DEVICE static int place(int thread, int group, int rows, int row) {
    const int n = thread % kAcross + group * kAcross;
    return (n / (kColumns / 4) * rows + row) * kColumns + n % (kColumns / 4) * 4;
  }
};

// S <- e^G_63 S + sum_j e^(G_63 - G_j) k_j delta_j^T, in the slot and in the registers; the ring's rows are not needed
// any more. The whole cluster: at the end all of its blocks have read what they need of the slot's ring.
WEIR_DEVICE void fold(Shared& m, const Head& p, int warp, State& state) {
  int me = thread();
  asm volatile("" : "+r"(me));  // else what follows from it is worked out, and kept, for every row
  const int key = me / Fold::kAcross * Fold::kKeysOwn;
  float4 sum[Fold::kGroups][Fold::kKeysOwn];
#pragma unroll
  for (int g = 0; g < Fold::kGroups; ++g) {
#pragma unroll
    for (int d = 0; d < Fold::kKeysOwn; ++d) {
      sum[g][d] = __ldcg(reinterpret_cast<const float4*>(p.state() + Fold::place(me, g, kDim, key + d)));
    }
  }
  device::barrier_wait(&m.loaded, 0);
  __syncthreads();                   // the block's own rows are there, too
  device::cluster_arrive_relaxed();  // what was read has arrived, and nothing is handed over
  const float last = m.log_decay[kRing - 1];
#pragma unroll 1
  for (int j = warp; j < kRing; j += kParts) {
    auto* row = reinterpret_cast<float4*>(m.keys[j]) + device::lane();
    *row = scaled(*row, expf(last - m.log_decay[j]));
  }
  const float fade = expf(last);
#pragma unroll
  for (int g = 0; g < Fold::kGroups; ++g) {
#pragma unroll
    for (int d = 0; d < Fold::kKeysOwn; ++d) sum[g][d] = scaled(sum[g][d], fade);
  }
  __syncthreads();
#pragma unroll 1
  for (int j = 0; j < kRing; ++j) {
    float4 x[Fold::kGroups];
#pragma unroll
    for (int g = 0; g < Fold::kGroups; ++g) {
      x[g] = *reinterpret_cast<const float4*>(&m.update[0][0][0] + Fold::place(me, g, kRing, j));
    }
    const auto keys = *reinterpret_cast<const Four(*)[Fold::kKeysOwn / 4]>(m.keys[j] + key);
#pragma unroll
    for (int g = 0; g < Fold::kGroups; ++g) {
#pragma unroll
      for (int d = 0; d < Fold::kKeysOwn; ++d) {
        const float k = keys[d / 4].at[d % 4];
        float4& s = sum[g][d];
        s = {fmaf(k, x[g].x, s.x), fmaf(k, x[g].y, s.y), fmaf(k, x[g].z, s.z), fmaf(k, x[g].w, s.w)};
      }
    }
  }
  __syncthreads();  // nobody reads the ring any more
#pragma unroll
  for (int g = 0; g < Fold::kGroups; ++g) {
#pragma unroll
    for (int d = 0; d < Fold::kKeysOwn; ++d) {
      const int place = Fold::place(me, g, kDim, key + d);
      *reinterpret_cast<float4*>(m.passing() + place) = sum[g][d];
      __stcs(reinterpret_cast<float4*>(p.state() + place), sum[g][d]);
    }
  }
  __syncthreads();
  const float* from = m.passing() + column_in_tiles(kDim) + warp * kKeys * kColumns;
#pragma unroll
  for (int d = 0; d < kKeys; ++d) state.of[d] = *reinterpret_cast<const Four*>(from + d * kColumns);
  device::cluster_wait();
}

// A channel of the convolution over the rows.
struct Channel {
  int index;
  float weights[kTaps];
  float window[kTaps];  // the last is the row's own input
  float in;             // of the next row
};

WEIR_DEVICE float convolve(Channel& own) {
  return weir::convolve(own.weights, own.window, own.in);
}

// What a thread keeps over the rows.
struct Thread {
  bool ends;      // its warp has columns to end the row of
  Channel qk;     // of its q or k
  Channel value;  // of its column
  float norm;
  float decay;
  float dt_bias;
  float before;  // the decay's logarithm behind the row before, from the base on
  // Of the next row.
  float z;
  float a;
  float b;
};

WEIR_DEVICE void open_thread(const Head& p, int warp, int position, int ring, Thread& own) {
  const GpuGdnPackedArgs& args = p.args;
  own.ends = warp < kHeadTiles;
  own.qk.index = p.qk_channel();
  open_channel(p, position, own.qk.index, own.qk.weights, own.qk.window);
  if (own.ends) {
    own.value.index = p.value_channel(thread());
    open_channel(p, position, own.value.index, own.value.weights, own.value.window);
    own.norm = args.norm[thread()];
  }
  own.decay = args.decay[p.value_head];
  own.dt_bias = args.dt_bias[p.value_head];
  own.before = ring == 0 || ring == kRing ? 0.0F : p.log_decay()[ring - 1];
}

WEIR_DEVICE void read_row(const Head& p, int64_t row, Thread& own) {
  const GpuGdnPackedArgs& args = p.args;
  const float* u = args.u + row * args.u_stride;
  own.qk.in = __ldcg(u + own.qk.index);
  own.a = __ldcg(args.a + row * args.a_stride + p.value_head);
  own.b = __ldcg(args.b + row * args.b_stride + p.value_head);
  if (own.ends) {
    own.value.in = __ldcg(u + own.value.index);
    own.z = __ldcg(args.z + row * args.z_stride + own.value.index - 2 * args.key_heads * kDim);
  }
}

// A row as every thread of the block knows it.
struct Row {
  int i;      // of the ring
  float now;  // the decay's logarithm from the base on
  float fade;
  Norms norm;
};

// The row's products with this warp's rows of the ring, and of them the coefficients of the updates; row i is the row
// itself. Each exchange halves how many sums a lane adds up: lanes of the first half end with one of k, the others with
// one of q.
WEIR_DEVICE void coefficients(Shared& m, int first, const Row& row) {
  constexpr int kHalf = device::kWarp / 2;
  const bool of_k = device::lane() < kHalf;
  const int at = 4 * device::lane();
  const float4 k = *reinterpret_cast<const float4*>(m.qk + kDim + at);
  const float4 q = *reinterpret_cast<const float4*>(m.qk + at);
  float sums[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const float* from = first + r == row.i ? m.qk + kDim : m.keys[first + r];
    const float4 key = *reinterpret_cast<const float4*>(from + at);
    const float kk = dot(key, k);
    const float qk = dot(key, q);
    sums[r] = (of_k ? kk : qk) + __shfl_xor_sync(device::kAllLanes, of_k ? qk : kk, kHalf);
  }
#pragma unroll
  for (int left = kRows / 2; left > 0; left /= 2) {
    const bool upper = (device::lane() & 2 * left) != 0;
#pragma unroll
    for (int r = 0; r < left; ++r) {
      const float given = upper ? sums[r] : sums[r + left];
      const float kept = upper ? sums[r + left] : sums[r];
      sums[r] = kept + __shfl_xor_sync(device::kAllLanes, given, 2 * left);
    }
  }
  float sum = sums[0] + __shfl_xor_sync(device::kAllLanes, sums[0], 1);
  const int j = first + device::lane() % kHalf / 2;
  sum *= of_k ? row.norm.k_scale : row.norm.q_scale;
  if (j == row.i) sum *= row.norm.k_scale;
  const float product = expf(row.now - (j < row.i ? m.log_decay[j] : row.now)) * sum;
  if (device::lane() % 2 == 0) {
    if (of_k) {
      m.minus_a[j] = j < row.i ? -product : 0.0F;
    } else {
      m.b[j] = j <= row.i ? product : 0.0F;
    }
  }
  __syncwarp();
}

// The sums over this warp's rows of the ring before the row.
WEIR_DEVICE void ring_products(Shared& m, int first, int i, Four& from_k, Four& from_q) {
  const float* update = &m.update[0][first][0] + column_in_tiles(kRing);
#pragma unroll 1
  for (int t = 0; t < kRows && first + t < i; t += 4) {
    const auto as = *reinterpret_cast<const Four*>(m.minus_a + first + t);
    const auto bs = *reinterpret_cast<const Four*>(m.b + first + t);
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const auto x = *reinterpret_cast<const Four*>(update + (t + n) * kColumns);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const float delta = first + t + n < i ? x.at[c] : 0.0F;
        from_k.at[c] = fmaf(as.at[n], delta, from_k.at[c]);
        from_q.at[c] = fmaf(bs.at[n], delta, from_q.at[c]);
      }
    }
  }
}

// This warp's part of S^T k and S^T q, its lanes' columns.
WEIR_DEVICE void state_products(const Shared& m, int warp, const State& state, Four& from_k, Four& from_q) {
#pragma unroll
  for (int d = 0; d < kKeys; d += 4) {
    const auto ks = *reinterpret_cast<const Four*>(m.qk + kDim + warp * kKeys + d);
    const auto qs = *reinterpret_cast<const Four*>(m.qk + warp * kKeys + d);
#pragma unroll
    for (int n = 0; n < 4; ++n) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const float x = state.of[d + n].at[c];
        from_k.at[c] = fmaf(ks.at[n], x, from_k.at[c]);
        from_q.at[c] = fmaf(qs.at[n], x, from_q.at[c]);
      }
    }
  }
}

// The row's scales; its products with the ring and the state, into the parts.
WEIR_DEVICE void multiply_row(Shared& m, int warp, const State& state, Row& row) {
  row.norm = norms(m.squares);
  device::barrier_wait(&m.loaded, 0);
  Four ring_k = {};
  Four ring_q = {};
  const int first = warp * kRows;
  if (first <= row.i) {
    coefficients(m, first, row);
    ring_products(m, first, row.i, ring_k, ring_q);
  }
  Four state_k = {};
  Four state_q = {};
  state_products(m, warp, state, state_k, state_q);
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    state_k.at[c] = fmaf(-row.fade, state_k.at[c] * row.norm.k_scale, ring_k.at[c]);
    state_q.at[c] = fmaf(row.fade, state_q.at[c] * row.norm.q_scale, ring_q.at[c]);
  }
  *reinterpret_cast<Four*>(&m.parts[0][warp][4 * device::lane()]) = state_k;
  *reinterpret_cast<Four*>(&m.parts[1][warp][4 * device::lane()]) = state_q;
}

// Of the warps that end a row.
using EndsHere = device::NamedBarrier<1, kHeadTiles * device::kWarp>;

// One over the root of the head's mean square, of which a warp has the sum over a tile; the warps that end the row.
WEIR_DEVICE float norm_scale(Shared& m, EndsHere& here, float eps, int warp, float squares) {
  if (device::lane() == 0) m.norm[warp] = squares;
  here.wait();
  return output_scale(*reinterpret_cast<const float4*>(m.norm), eps);
}

// The row's update and its output, of a thread's column.
WEIR_DEVICE void end_row(Shared& m, EndsHere& here, const Head& p, int warp, const Thread& own, const Row& now,
                         float value, float beta, float z, int row, int64_t row_begin) {
  const GpuGdnPackedArgs& args = p.args;
  const float delta = beta * (value + add_parts(m.parts[0], thread()));
  const float out = fmaf(m.b[now.i], delta, add_parts(m.parts[1], thread()));
  const float squares = device::warp_sum(out * out);
  const float gate = own.norm * silu_fast(z);
  const float scale = norm_scale(m, here, args.eps, warp, squares);
  args.y[(row_begin + row) * args.y_stride + own.value.index - 2 * args.key_heads * kDim] =
      output_value(args, out * scale * gate);
  m.update[warp][now.i][device::lane()] = delta;
  p.update()[(warp * kRing + now.i) * kColumns + device::lane()] = delta;
}

// What later rows and later steps need of the row beside the updates.
WEIR_DEVICE void keep_row(Shared& m, const Head& p, const Thread& own, const Row& now, float value, int position,
                          bool inputs) {
  if (thread() >= kDim) {
    const float key = value * now.norm.k_scale;
    m.keys[now.i][thread() - kDim] = key;
    if (p.rank == 0) p.keys()[now.i * kDim + thread() - kDim] = key;
  }
  if (thread() == kThreads - 1) m.log_decay[now.i] = p.log_decay()[now.i] = now.now;
  if (!inputs) return;
  if (p.rank == 0) p.inputs(position)[own.qk.index] = own.qk.window[kTaps - 1];
  if (own.ends) p.inputs(position)[own.value.index] = own.value.window[kTaps - 1];
}

WEIR_DEVICE void gdn_rows(const GpuGdnPackedArgs& args, Shared& m) {
  const GpuGdnSequence s = args.sequences[blockIdx.y];
  if (s.row_count == 0) return;  // the whole cluster
  const Head p(args, s);
  const int warp = weir::warp();
  int base = s.base;
  const int ring = s.position - base;
  State state;
  if (ring < kRing) load_state(p, warp, state);
  if (thread() == kThreads - 1) load_ring(m, p, ring);
  __syncwarp();
  Thread own;
  open_thread(p, warp, s.position, ring, own);
  if (thread() < ring) m.log_decay[thread()] = p.log_decay()[thread()];
  __syncthreads();
  EndsHere ends_here;
  if (s.row_count > kInputs - (kTaps - 1)) device::cluster_barrier();  // every block has its window
#pragma unroll 1
  for (int row = 0; row < s.row_count; ++row) {
    const int position = s.position + row;
    if (position - base == kRing) {
      fold(m, p, warp, state);
      base = position;
      own.before = 0;
    }
    if (row == 0) {
      device::wait_for_previous();
      device::start_next();
      read_row(p, s.row_begin, own);
    }
    Row now;
    now.i = position - base;
    now.now = own.before = fmaf(own.decay, softplus(own.a + own.dt_bias), own.before);
    now.fade = expf(now.now);
    const float beta = device::sigmoid(own.b);
    const float z = own.z;
    const float channel = convolve(own.qk);
    m.qk[thread()] = channel;
    const float squares = device::warp_sum(channel * channel);
    if (device::lane() == 0) m.squares[warp] = squares;
    const float value = own.ends ? convolve(own.value) : 0.0F;
    if (row + 1 < s.row_count) read_row(p, int64_t{s.row_begin} + row + 1, own);
    __syncthreads();  // q, k and what the row before left are there
    multiply_row(m, warp, state, now);
    __syncthreads();  // the parts are there
    if (own.ends) end_row(m, ends_here, p, warp, own, now, value, beta, z, row, s.row_begin);
    keep_row(m, p, own, now, channel, position, row >= s.row_count - kInputs);
  }
}

}  // namespace

// As many registers as hold a head's state, and as many blocks as these leave room for.
WEIR_KERNEL_BOUNDED(weir_gdn_rows, GpuGdnPackedArgs, kThreads, 2) {
  extern __shared__ __align__(128) uint8_t gdn_rows_shared[];
  gdn_rows(args, shared_at<Shared>(gdn_rows_shared));
}

}  // namespace weir
