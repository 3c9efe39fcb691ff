// What the rows of a 64-row chunk need that does not depend on the state: convolution, gates, norms, and the products
// of the rows with each other. Bound by reading the inputs once and writing the scratch. A block per (chunk, key head).
// The convolution runs down the rows, a warp 128 channels of 32 rows, four channels a lane; the products of 16 rows a
// warp are those of k (first four warps) and of q with k on the tensor cores in half precision; each value head's
// decays are multiplied in where the results lie. Rows that the ring holds take part as keys and log decays and have
// zero coefficients themselves: the second kernel leaves them as they are.
#include "device/async.h"
#include "device/mma.h"
#include "ops/gdn/gdn_chunk_list.h"

namespace weir {
namespace {

inline constexpr int kThreads = 256;
inline constexpr int kWarps = kThreads / device::kWarp;
inline constexpr int kDim = kGdnHeadDim;
inline constexpr int kRows = 64;
inline constexpr int kRatioMax = 4;
inline constexpr int kInputs = 16;
inline constexpr int kTaps = 4;
inline constexpr int kBatch = 8;  // rows that a warp convolves at a time
inline constexpr int kTaskRows = 32;
inline constexpr float kL2Eps = 1e-6F;

struct Shared {
  uint8_t k[kGdnKeyTileBytes];
  uint8_t q[kGdnKeyTileBytes];
  float beta[kRatioMax][kRows];
  float softplus[kRatioMax][kRows];
  float log_decay[kRatioMax][kRows];
};

struct Block {
  int key_head;
  int at;  // in the scratch
  GdnChunkRows rows;
  GpuGdnSequence s;
  const float* inputs;  // the slot's
};

WEIR_DEVICE int thread() {
  return static_cast<int>(threadIdx.x);
}

// Four channels of the token's raw input; zeros before the sequence, behind its rows, and where the slot has lost it.
WEIR_DEVICE float4 raw_input(const GpuGdnPackedArgs& args, const Block& w, int token, int channel) {
  const int row = token - w.s.position;
  if (token < 0 || row < -(kTaps - 1) || row >= w.s.row_count) return {0, 0, 0, 0};
  const float* from = row >= 0 ? args.u + (w.s.row_begin + row) * args.u_stride
                               : w.inputs + static_cast<int64_t>(token % kInputs) * args.channels;
  return *reinterpret_cast<const float4*>(from + channel);
}

// Gates of the rows: beta, and the log decay summed up in ascending order, which is there after the next barrier.
WEIR_DEVICE void make_gates(const GpuGdnPackedArgs& args, Shared& m, const Block& w) {
#pragma unroll 1
  for (int n = thread(); n < args.ratio * kRows; n += kThreads) {
    const int j = n / kRows;
    const int r = n % kRows;
    const int value_head = w.key_head * args.ratio + j;
    float beta = 0;
    float softplus = 0;
    float before = 0;
    if (r < w.rows.known) {
      before =
          reinterpret_cast<const float*>(w.s.slot + args.slot_offset + args.log_decay_offset)[value_head * kRows + r];
    } else if (r < w.rows.end) {
      const int64_t t = w.s.row_begin + 64 * w.rows.chunk + r - w.s.position;
      const float x = args.a[t * args.a_stride + value_head] + args.dt_bias[value_head];
      softplus = x > 20.0F ? x : log1pf(expf(x));
      beta = device::sigmoid(args.b[t * args.b_stride + value_head]);
    }
    m.beta[j][r] = beta;
    m.softplus[j][r] = softplus;
    m.log_decay[j][r] = before;
  }
  __syncthreads();
  if (thread() < args.ratio) {
    const int j = thread();
    const float decay = args.decay[w.key_head * args.ratio + j];
    float total = w.rows.known == 0 ? 0.0F : m.log_decay[j][w.rows.known - 1];
#pragma unroll 8
    for (int r = w.rows.known; r < w.rows.end; ++r) {
      total = fmaf(decay, m.softplus[j][r], total);
      m.log_decay[j][r] = total;
    }
  }
}

// Inputs of kCount tokens; `inside`: all of them are rows of the step.
template <int kCount>
WEIR_DEVICE void load_inputs(const GpuGdnPackedArgs& args, const Block& w, bool inside, int token, int channel,
                             float4* x) {
  if (inside) {
    const float* from = args.u + (w.s.row_begin + token - w.s.position) * args.u_stride + channel;
#pragma unroll
    for (int i = 0; i < kCount; ++i) x[i] = *reinterpret_cast<const float4*>(from + i * args.u_stride);
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) x[i] = raw_input(args, w, token + i, channel);
  }
}

WEIR_DEVICE float tap_sum(const float4* weights, const float4* window, int component) {
  const auto part = [component](const float4& x) {
    return component == 0 ? x.x : component == 1 ? x.y : component == 2 ? x.z : x.w;
  };
  float sum = 0;
#pragma unroll
  for (int tap = 0; tap < kTaps; ++tap) sum = fmaf(part(weights[tap]), part(window[tap]), sum);
  return device::fast_silu(sum);
}

// Rows of q or k from row `first`, four channels a lane: to norm 1, half precision. Rows before `known` are the ring's,
// already there.
WEIR_DEVICE void store_units(const Block& w, uint8_t* tile, int first, const float4* x) {
  float sums[kBatch];
#pragma unroll
  for (int i = 0; i < kBatch; ++i) {
    sums[i] = fmaf(x[i].w, x[i].w, fmaf(x[i].z, x[i].z, fmaf(x[i].y, x[i].y, x[i].x * x[i].x)));
  }
  int own;
  float sum = device::spread_sums(sums, &own);
#pragma unroll
  for (int distance = kBatch; distance < device::kWarp; distance *= 2) {
    sum += __shfl_xor_sync(device::kAllLanes, sum, distance);
  }
  const float own_scale = first + own < w.rows.end ? device::fast_rsqrt(sum + kL2Eps) : 0.0F;
#pragma unroll
  for (int i = 0; i < kBatch; ++i) {
    static_assert(kBatch == 8);
    const int from = i / 4 + i / 2 % 2 * 2 + i % 2 * 4;  // the lane that has row i's sum
    const float scale = __shfl_sync(device::kAllLanes, own_scale, from);
    const uint2 halves = {device::f16x2(x[i].x * scale, x[i].y * scale), device::f16x2(x[i].z * scale, x[i].w * scale)};
    if (first + i < w.rows.known) continue;
    reinterpret_cast<uint2*>(tile + gdn_key_byte(first + i, device::lane() / 2))[device::lane() % 2] = halves;
  }
}

// Eight rows of beta v from row `first`: a lane's four columns are two lanes' columns of the matrix units' layout, its
// eight rows the rows of four lanes.
WEIR_DEVICE void store_values(const GpuGdnPackedArgs& args, const Block& w, int j, int first, const float* beta,
                              const float4* x) {
  uint8_t* tile = gdn_value_tile(args, w.at, w.key_head * args.ratio + j);
  const int lane = device::lane();
  auto* to = reinterpret_cast<uint4*>(tile + lane / 4 * kGdnValueGroupBytes + first / 8 * 256 + lane % 4 * 64);
#pragma unroll
  for (int i = 0; i < kBatch; i += 4) {
    const float b[4] = {beta[i], beta[i + 1], beta[i + 2], beta[i + 3]};
    const float4* rows = x + i;
    to[i / 4] = {device::f16x2(b[0] * rows[0].x, b[1] * rows[1].x), device::f16x2(b[0] * rows[0].y, b[1] * rows[1].y),
                 device::f16x2(b[2] * rows[2].x, b[3] * rows[3].x), device::f16x2(b[2] * rows[2].y, b[3] * rows[3].y)};
    to[2 + i / 4] = {
        device::f16x2(b[0] * rows[0].z, b[1] * rows[1].z), device::f16x2(b[0] * rows[0].w, b[1] * rows[1].w),
        device::f16x2(b[2] * rows[2].z, b[3] * rows[3].z), device::f16x2(b[2] * rows[2].w, b[3] * rows[3].w)};
  }
}

// Convolution and SiLU of part `part` (q, k, then the value heads) for the rows from `first`.
WEIR_DEVICE void convolve(const GpuGdnPackedArgs& args, Shared& m, const Block& w, int part, int first) {
  int channel = 4 * device::lane();
  if (part < 2) {
    channel += (part * args.key_heads + w.key_head) * kDim;
  } else {
    channel += (2 * args.key_heads + w.key_head * args.ratio + part - 2) * kDim;
  }
  float4 weights[kTaps];
#pragma unroll
  for (int tap = 0; tap < kTaps; ++tap) {
    weights[tap] = *reinterpret_cast<const float4*>(args.conv + static_cast<int64_t>(tap) * args.channels + channel);
  }
  const int token = 64 * w.rows.chunk + first;
  const int row = token - w.s.position;
  const bool inside = row >= kTaps - 1 && row + kTaskRows <= w.s.row_count;
  float4 x[kTaps - 1 + kBatch];
  load_inputs<kTaps - 1>(args, w, inside, token - (kTaps - 1), channel, x);
#pragma unroll 1
  for (int done = 0; done < kTaskRows; done += kBatch) {
    load_inputs<kBatch>(args, w, inside, token + done, channel, x + kTaps - 1);
    float4 out[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      out[i] = {tap_sum(weights, x + i, 0), tap_sum(weights, x + i, 1), tap_sum(weights, x + i, 2),
                tap_sum(weights, x + i, 3)};
    }
    if (part < 2) {
      store_units(w, part == 0 ? m.q : m.k, first + done, out);
    } else {
      store_values(args, w, part - 2, first + done, m.beta[part - 2] + first + done, out);
    }
#pragma unroll
    for (int i = 0; i < kTaps - 1; ++i) x[i] = x[kBatch + i];
  }
}

// The ring's keys, as far as this chunk has them.
WEIR_DEVICE void load_known(const GpuGdnPackedArgs& args, Shared& m, const Block& w) {
  const auto* keys = reinterpret_cast<const float4*>(w.s.slot + args.slot_offset + args.keys_offset) +
                     static_cast<int64_t>(w.key_head) * (kRows * kDim / 4);
#pragma unroll 1
  for (int n = thread(); n < w.rows.known * (kDim / 4); n += kThreads) {
    const float4 x = keys[n];
    const uint2 halves = {device::f16x2(x.x, x.y), device::f16x2(x.z, x.w)};
    const int at = gdn_key_byte(n / (kDim / 4), n % (kDim / 4) / 2) + n % 2 * 8;
    *reinterpret_cast<uint2*>(m.k + at) = halves;
    *reinterpret_cast<uint2*>(m.q + at) = {0, 0};
  }
}

// Products of the warp's 16 rows (of k: warps 0-3, of q: 4-7) with the keys of the rows up to its own group.
WEIR_DEVICE void row_products(const Shared& m, float (*sums)[4]) {
  const int group = device::warp() % 4;
  const int lane = device::lane();
  const uint8_t* rows = device::warp() < 4 ? m.k : m.q;
  const int a_row = 16 * group + lane / 8 % 2 * 8 + lane % 8;
  const int b_row = lane / 16 * 8 + lane % 8;
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    for (int i = 0; i < 4; ++i) sums[n][i] = 0;
  }
#pragma unroll 1
  for (int step = 0; step < kDim / 16; ++step) {
    uint32_t a[4];
    device::load_matrices(a, device::shared_address(rows + gdn_key_byte(a_row, 2 * step + lane / 16)));
    uint32_t b[4][4];
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      const uint8_t* from = m.k + gdn_key_byte(16 * pair + b_row, 2 * step + lane / 8 % 2);
      device::load_matrices(b[pair], device::shared_address(from));
    }
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      if (pair > group) continue;
      device::mma_f16(sums[2 * pair], a, b[pair][0], b[pair][1]);
      device::mma_f16(sums[2 * pair + 1], a, b[pair][2], b[pair][3]);
    }
  }
}

// The coefficients of one value head from the warp's products, a square of 16 rows and 16 columns at a time.
WEIR_DEVICE void make_coefficients(const GpuGdnPackedArgs& args, const Shared& m, const Block& w, int j,
                                   const float (*sums)[4]) {
  GdnHeadTile& tile = *reinterpret_cast<GdnHeadTile*>(gdn_head_tile(args, w.at, w.key_head * args.ratio + j));
  const int group = device::warp() % 4;
  const bool of_k = device::warp() < 4;
  const int lane = device::lane();
  const float* total = m.log_decay[j];
  float own[2];  // of rows 0-7, 8-15
  float factor[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int i = 16 * group + 8 * half + lane / 4;
    own[half] = total[i];
    factor[half] = i < w.rows.known || i >= w.rows.end ? 0.0F : of_k ? -m.beta[j][i] : 1.0F;
  }
#pragma unroll
  for (int square = 0; square < 4; ++square) {
    if (square > group) continue;
    uint32_t pairs[2][2];  // [rows 0-7, 8-15][columns 0-7, 8-15]
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int column = 8 * n + lane % 4 * 2;
      const float2 other = *reinterpret_cast<const float2*>(total + 16 * square + column);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        // Where a row does not count, the difference may be anything.
        const float* sum = sums[2 * square + n] + 2 * half;
        float low = factor[half] * device::fast_exp(fminf(own[half] - other.x, 0.0F)) * sum[0];
        float high = factor[half] * device::fast_exp(fminf(own[half] - other.y, 0.0F)) * sum[1];
        if (square == group) {
          const int last = 8 * half + lane / 4 - (of_k ? 1 : 0);  // column that counts
          low = column <= last ? low : 0.0F;
          high = column + 1 <= last ? high : 0.0F;
        }
        pairs[half][n] = device::f16x2(low, high);
      }
    }
    uint4* to = (of_k ? tile.kk : tile.qk)[group * (group + 1) / 2 + square];
    to[lane] = {pairs[0][0], pairs[0][1], pairs[1][0], pairs[1][1]};
  }
  if (thread() < kRows) {
    const int i = thread();
    const float fade = i < w.rows.end ? __expf(total[i]) : 0.0F;
    tile.fade[i] = fade;
    tile.beta_fade[i] = m.beta[j][i] * fade;
    tile.to_end[i] = w.rows.end == kRows ? __expf(total[kRows - 1] - total[i]) : 0.0F;
    tile.log_decay[i] = total[i];
  }
}

// The kernel does not end before the one before it, whose state the next one needs: one thread waits for all.
WEIR_DEVICE void finish(const GpuGdnPackedArgs& args) {
  if (args.chunk_begin > 0 && blockIdx.x == 0 && blockIdx.y == 0 && thread() == 0) device::wait_for_previous();
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_gdn_chunk_products, GpuGdnPackedArgs, kThreads, 3) {
  extern __shared__ __align__(128) uint8_t gdn_shared[];
  Shared& m = *reinterpret_cast<Shared*>(gdn_shared);
  Block w;
  w.at = static_cast<int>(blockIdx.x);
  w.key_head = static_cast<int>(blockIdx.y);
  int number = args.chunk_begin + w.at;
  int sequence = 0;
  for (; sequence < args.sequence_count; ++sequence) {
    const int chunks = gdn_chunks_of(args.sequences[sequence]);
    if (number < chunks) break;
    number -= chunks;
  }
  // The launches behind the first write other scratch than the kernel before them reads, and nothing that they read is
  // written by any kernel that may still run: they run beside it.
  if (args.chunk_begin == 0) device::wait_for_previous();
  device::start_next();
  if (sequence == args.sequence_count) return finish(args);
  w.s = args.sequences[sequence];
  w.rows = gdn_chunk_rows(w.s, number);
  w.inputs = reinterpret_cast<const float*>(w.s.slot + args.slot_offset + args.inputs_offset);

  make_gates(args, m, w);
  load_known(args, m, w);
  const int tasks = (2 + args.ratio) * (kRows / kTaskRows);
  for (int task = device::warp(); task < tasks; task += kWarps) {
    convolve(args, m, w, task / (kRows / kTaskRows), task % (kRows / kTaskRows) * kTaskRows);
  }
  device::fence_async();
  __syncthreads();
  if (thread() == 0) {
    device::bulk_store(gdn_key_tile(args, w.at, w.key_head), m.k, 2 * kGdnKeyTileBytes);
    device::bulk_stores_commit();
  }
  __syncwarp();
  float sums[8][4];
  row_products(m, sums);
#pragma unroll 1
  for (int j = 0; j < args.ratio; ++j) make_coefficients(args, m, w, j, sums);
  if (thread() == 0) device::bulk_stores_wait();
  finish(args);
}

}  // namespace weir
