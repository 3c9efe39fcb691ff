// Attention of generated rows over paged keys and values: bound by reading each page once. A block takes one row, one
// key head and either a page or a segment of four pages; its 64 KiB of keys and values come by the copy engine, before
// the kernels before have ended where the page is older than the step; three blocks run on a multiprocessor. The query
// heads of the key head are the 16 rows of the matrix products. Scores: each of four warps takes 16 tokens; the largest
// score, the sum and the bf16 weights meet in shared memory; output: each warp takes 64 columns. Pages of a segment are
// joined in ascending order, by the block or by the merge with the same operations; the merge weighs segments by the
// largest score of all, in 16 lanes that take every sixteenth segment and are added in ascending order. So bits depend
// on position and context alone.
#include "device/async.h"
#include "device/mma.h"
#include "ops/attention/attention_paged_args.h"

namespace weir {
namespace {

inline constexpr int kE = kPagedHeadDim;
inline constexpr int kThreads = 128;
inline constexpr int kWarps = kThreads / device::kWarp;
inline constexpr int kMergeThreads = 256;
inline constexpr int kMergeLanes = 16;
inline constexpr int kMergeColumns = 64;
// Scores times 1 / sqrt(E) become exponents of two.
inline constexpr float kScale = 1.4426950408889634F / 16.0F;

struct Shared {
  uint8_t k[kPagedTileBytes];
  uint8_t v[kPagedTileBytes];
  uint8_t q[kPagedGroupMax * kE * 2];                  // chunk c of row r at c ^ (r % 8)
  uint8_t weights[kPagedGroupMax * kPagedTokens * 2];  // the same
  float largest[kWarps][kPagedGroupMax];
  float total[kWarps][kPagedGroupMax];
  device::Barrier k_here;
  device::Barrier v_here;
};
static_assert(sizeof(Shared) <= 76'416, "what paged_attention_rows asks for");

// Softmax over some tokens.
struct State {
  float largest;
  float total;
};

// The factors of two states that become one.
struct Join {
  float largest;
  float into;
  float from;
};
WEIR_DEVICE Join join(float into, float from) {
  const float largest = fmaxf(into, from);
  return {largest, exp2f(into - largest), exp2f(from - largest)};
}
WEIR_DEVICE float joined(const Join& j, float into, float from) {
  return fmaf(from, j.from, __fmul_rn(into, j.into));
}

// One lane's part: rows g and g + 8, in each of eight groups of 8 columns two of each row.
struct Part {
  State row[2];
  float out[8][4];
};

WEIR_DEVICE float finished(float out, float total, float gate) {
  return __fmul_rn(out / total, device::sigmoid(gate));
}

WEIR_DEVICE int pages_of(GpuRow row) {
  return row.position < 0 ? 0 : row.position / kPagedTokens + 1;
}
WEIR_DEVICE int64_t step_row(const GpuPagedAttentionArgs& args, int index) {
  return args.row_list == nullptr ? args.first_row + index : args.row_list[index];
}
// Where the state `slot` of a (row, head) stands: out [E], and apart from those the sums.
WEIR_DEVICE float* partial_out(const GpuPagedAttentionArgs& args, int index, int head, int slot) {
  return args.partial + ((int64_t{index} * args.heads + head) * args.slots + slot) * kE;
}
WEIR_DEVICE float2* partial_state(const GpuPagedAttentionArgs& args, int index, int head) {
  auto* states = reinterpret_cast<float2*>(args.partial + int64_t{args.count} * args.heads * args.slots * kE);
  return states + (int64_t{index} * args.heads + head) * args.slots;
}

// Copies the visible tokens of a tile; whoever calls is one thread.
WEIR_DEVICE void bring(uint8_t* to, const uint8_t* from, int tokens, device::Barrier* barrier) {
  device::barrier_expect(barrier, static_cast<uint32_t>(tokens) * kE * 2);
  if (tokens == kPagedTokens) return device::bulk_copy(to, from, kPagedTileBytes, barrier);
  for (int quarter = 0; quarter < 4; ++quarter) {
    device::bulk_copy(to + quarter * kPagedQuarter, from + quarter * kPagedQuarter, static_cast<uint32_t>(tokens) * 128,
                      barrier);
  }
}

// Values behind the row's own token become zeros: their weights are zeros, what lies there may be anything.
WEIR_DEVICE void clear_behind(uint8_t* v, int tokens) {
  const int chunks = (kPagedTokens - tokens) * 8;
  for (int i = static_cast<int>(threadIdx.x); i < 4 * chunks; i += kThreads) {
    uint8_t* quarter = v + i / chunks * kPagedQuarter + tokens * 128;
    reinterpret_cast<uint4*>(quarter)[i % chunks] = uint4{0, 0, 0, 0};
  }
}

// Scores of this warp's 16 tokens in two groups of 8, two chains each.
WEIR_DEVICE void scores_of(const Shared& shared, float (&s)[2][4]) {
  const int lane = device::lane();
  const int row = lane % 16;
  const int token = device::warp() * 16 + lane / 16 * 8 + lane % 8;
  const uint32_t q = device::shared_address(shared.q) + static_cast<uint32_t>(row * kE * 2);
  const uint32_t k = device::shared_address(shared.k) + static_cast<uint32_t>(token * 128);
  float d[2][2][4] = {};
#pragma unroll
  for (int step = 0; step < kE / 16; ++step) {
    uint32_t a[4];
    uint32_t b[4];
    const int q_chunk = (2 * step + lane / 16) ^ (row % 8);
    const int k_chunk = (2 * (step % 4) + lane / 8 % 2) ^ (token % 8);
    device::load_matrices(a, q + static_cast<uint32_t>(q_chunk * 16));
    device::load_matrices(b, k + static_cast<uint32_t>(step / 4 * kPagedQuarter + k_chunk * 16));
    device::mma_bf16(d[step % 2][0], a, b[0], b[1]);
    device::mma_bf16(d[step % 2][1], a, b[2], b[3]);
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) s[n][i] = (d[0][n][i] + d[1][n][i]) * kScale;
  }
}

// Each row's largest of four values a lane in a group of four lanes.
WEIR_DEVICE float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(device::kAllLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(device::kAllLanes, x, 2));
}
WEIR_DEVICE float quad_sum(float x) {
  x += __shfl_xor_sync(device::kAllLanes, x, 1);
  return x + __shfl_xor_sync(device::kAllLanes, x, 2);
}

WEIR_DEVICE void keep_largest(Shared& shared, float (&s)[2][4], int tokens) {
  const int lane = device::lane();
  float largest[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (device::warp() * 16 + n * 8 + lane % 4 * 2 + i % 2 >= tokens) s[n][i] = -INFINITY;
      largest[i / 2] = fmaxf(largest[i / 2], s[n][i]);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float row = quad_max(largest[half]);
    if (lane % 4 == 0) shared.largest[device::warp()][half * 8 + lane / 4] = row;
  }
}

// Weights of this warp's tokens; every warp learns the rows' largest scores.
WEIR_DEVICE void keep_weights(Shared& shared, const float (&s)[2][4], Part& part) {
  const int lane = device::lane();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = half * 8 + lane / 4;
    float largest = shared.largest[0][row];
    for (int w = 1; w < kWarps; ++w) largest = fmaxf(largest, shared.largest[w][row]);
    part.row[half].largest = largest;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const float low = exp2f(s[n][2 * half] - largest);
      const float high = exp2f(s[n][2 * half + 1] - largest);
      sum += low + high;
      const int chunk = (2 * device::warp() + n) ^ (row % 8);
      *reinterpret_cast<uint32_t*>(shared.weights + row * 128 + chunk * 16 + lane % 4 * 4) = device::bf16x2(low, high);
    }
    sum = quad_sum(sum);
    if (lane % 4 == 0) shared.total[device::warp()][row] = sum;
  }
}

// Weights times values: this warp's quarter of the columns.
WEIR_DEVICE void weigh_values(const Shared& shared, Part& part) {
  const int lane = device::lane();
  const int row = lane % 16;  // of the weights, and token of a step
  const uint32_t weights = device::shared_address(shared.weights) + static_cast<uint32_t>(row * 128);
  const uint32_t v =
      device::shared_address(shared.v) + static_cast<uint32_t>(device::warp() * kPagedQuarter + row * 128);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int of = half * 8 + lane / 4;
    part.row[half].total = (shared.total[0][of] + shared.total[1][of]) + (shared.total[2][of] + shared.total[3][of]);
  }
#pragma unroll
  for (auto& column : part.out) {
#pragma unroll
    for (float& x : column) x = 0;
  }
#pragma unroll
  for (int step = 0; step < kPagedTokens / 16; ++step) {
    uint32_t a[4];
    device::load_matrices(a, weights + static_cast<uint32_t>(((2 * step + lane / 16) ^ (row % 8)) * 16));
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      uint32_t b[4];
      const int chunk = (2 * pair + lane / 16) ^ (row % 8);
      device::load_matrices_transposed(b, v + static_cast<uint32_t>(step * 16 * 128 + chunk * 16));
      device::mma_bf16(part.out[2 * pair], a, b[0], b[1]);
      device::mma_bf16(part.out[2 * pair + 1], a, b[2], b[3]);
    }
  }
}

WEIR_DEVICE void join_parts(Part& into, const Part& from) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const Join j = join(into.row[half].largest, from.row[half].largest);
    into.row[half] = {j.largest, joined(j, into.row[half].total, from.row[half].total)};
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) into.out[n][i] = joined(j, into.out[n][i], from.out[n][i]);
    }
  }
}

WEIR_DEVICE void keep_part(const GpuPagedAttentionArgs& args, int index, int head, int half, const Part& part) {
  const int column = device::warp() * 64 + device::lane() % 4 * 2;
  float* out = partial_out(args, index, head, static_cast<int>(blockIdx.x)) + column;
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    *reinterpret_cast<float2*>(out + n * 8) = {part.out[n][2 * half], part.out[n][2 * half + 1]};
  }
  if (column == 0) {
    partial_state(args, index, head)[blockIdx.x] = {part.row[half].largest, part.row[half].total};
  }
}

WEIR_DEVICE void finish_part(const GpuPagedAttentionArgs& args, int64_t t, int head, int half, const Part& part) {
  const int column = device::warp() * 64 + device::lane() % 4 * 2;
  const float* gate = args.qg + t * args.qg_stride + int64_t{head} * 2 * kE + kE + column;
  uint16_t* y = args.y + t * args.y_stride + int64_t{head} * kE + column;
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const float2 g = *reinterpret_cast<const float2*>(gate + n * 8);
    const float total = part.row[half].total;
    *reinterpret_cast<uint32_t*>(y + n * 8) =
        device::bf16x2(finished(part.out[n][2 * half], total, g.x), finished(part.out[n][2 * half + 1], total, g.y));
  }
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_paged_rows, GpuPagedAttentionArgs, kThreads, 3) {
  extern __shared__ __align__(128) uint8_t memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  const int thread = static_cast<int>(threadIdx.x);
  const int kv = static_cast<int>(blockIdx.y);
  const int index = static_cast<int>(blockIdx.z);
  const int64_t t = step_row(args, index);
  const GpuRow row = args.rows[t];
  const int step = args.spread != 0 ? 1 : kPagedSegmentPages;
  const int begin = static_cast<int>(blockIdx.x) * step;
  const int end = min(pages_of(row), begin + step);
  if (begin >= end) {
    // One block of a row waits, so that this kernel does not end before the ones before it.
    if (blockIdx.x == 0) device::wait_for_previous();
    return;
  }
  const auto tokens_of = [&](int page) { return min(kPagedTokens, row.position + 1 - page * kPagedTokens); };
  const auto tile_of = [&](int page) {
    return args.pages[row.sequence][page] + args.page_offset + int64_t{kv} * 2 * kPagedTileBytes;
  };
  const auto bring_k = [&](int page) { bring(shared.k, tile_of(page), tokens_of(page), &shared.k_here); };
  const auto bring_v = [&](int page) {
    bring(shared.v, tile_of(page) + kPagedTileBytes, tokens_of(page), &shared.v_here);
  };
  const bool early = args.fresh > 0 && (begin + 1) * kPagedTokens <= row.position + 1 - args.fresh;
  if (thread == 0) {
    device::barrier_init(&shared.k_here, 1);
    device::barrier_init(&shared.v_here, 1);
    device::barrier_init_done();
    device::fence_async();
    if (early) {
      bring_k(begin);
      bring_v(begin);
    }
  }
  const int group = args.heads / args.kv_heads;
  auto* q = reinterpret_cast<uint4*>(shared.q);
  for (int i = group * 32 + thread; i < kPagedGroupMax * 32; i += kThreads) q[i] = uint4{0, 0, 0, 0};
  clear_behind(shared.v, tokens_of(begin));
  device::wait_for_previous();
  device::start_next();
  if (thread == 0 && !early) {
    bring_k(begin);
    bring_v(begin);
  }
  const uint16_t* queries = args.q + (t * args.heads + int64_t{kv} * group) * kE;
  for (int i = thread; i < group * 32; i += kThreads) {
    device::copy16(q + (i ^ (i / 32 % 8)), queries + i * 8);
  }
  device::copies_commit();
  device::copies_wait<0>();
  __syncthreads();

  Part total;
  for (int page = begin; page < end; ++page) {
    const auto phase = static_cast<uint32_t>((page - begin) % 2);
    Part part;
    float s[2][4];
    device::barrier_wait(&shared.k_here, phase);
    scores_of(shared, s);
    keep_largest(shared, s, tokens_of(page));
    __syncthreads();
    if (thread == 0 && page + 1 < end) bring_k(page + 1);
    keep_weights(shared, s, part);
    device::barrier_wait(&shared.v_here, phase);
    __syncthreads();
    weigh_values(shared, part);
    if (page == begin) {
      total = part;
    } else {
      join_parts(total, part);
    }
    if (page + 1 == end) break;
    __syncthreads();
    clear_behind(shared.v, tokens_of(page + 1));
    if (thread == 0) bring_v(page + 1);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int of = half * 8 + device::lane() / 4;
    if (of >= group) continue;
    if (args.slots == 0) {
      finish_part(args, t, kv * group + of, half, total);
    } else {
      keep_part(args, index, kv * group + of, half, total);
    }
  }
}

WEIR_KERNEL_BOUNDED(weir_paged_merge, GpuPagedAttentionArgs, kMergeThreads, 4) {
  __shared__ float4 outs[kMergeLanes][kMergeColumns / 4];
  __shared__ float totals[kMergeLanes];
  __shared__ float warps[kMergeThreads / device::kWarp];
  const int thread = static_cast<int>(threadIdx.x);
  const int head = static_cast<int>(blockIdx.y);
  const int index = static_cast<int>(blockIdx.z);
  const int first_column = static_cast<int>(blockIdx.x) * kMergeColumns;
  const int64_t t = step_row(args, index);
  const int pages = pages_of(args.rows[t]);
  device::wait_for_previous();
  device::start_next();
  if (pages == 0) return;
  const int per = args.spread != 0 ? kPagedSegmentPages : 1;  // states of a segment
  const int segments = (pages + kPagedSegmentPages - 1) / kPagedSegmentPages;
  const int states = args.spread != 0 ? pages : segments;
  const float2* state = partial_state(args, index, head);
  float largest = -INFINITY;
  for (int i = thread; i < states; i += kMergeThreads) largest = fmaxf(largest, state[i].x);
  largest = device::warp_max(largest);
  if (device::lane() == 0) warps[device::warp()] = largest;
  __syncthreads();
  for (float x : warps) largest = fmaxf(largest, x);

  const int lane = thread / (kMergeColumns / 4);
  const int column = thread % (kMergeColumns / 4);
  const auto out_of = [&](int slot) {
    return reinterpret_cast<const float4*>(partial_out(args, index, head, slot) + first_column)[column];
  };
  float4 sum = {0, 0, 0, 0};
  float total = 0;
  for (int segment = lane; segment < segments; segment += kMergeLanes) {
    const int begin = segment * per;
    const int end = min(states, begin + per);
    float2 own = state[begin];
    float4 out = out_of(begin);
    for (int i = begin + 1; i < end; ++i) {
      const float2 next = state[i];
      const float4 more = out_of(i);
      const Join j = join(own.x, next.x);
      own = {j.largest, joined(j, own.y, next.y)};
      out = {joined(j, out.x, more.x), joined(j, out.y, more.y), joined(j, out.z, more.z), joined(j, out.w, more.w)};
    }
    const float weight = exp2f(own.x - largest);
    total = fmaf(own.y, weight, total);
    sum = {fmaf(out.x, weight, sum.x), fmaf(out.y, weight, sum.y), fmaf(out.z, weight, sum.z),
           fmaf(out.w, weight, sum.w)};
  }
  outs[lane][column] = sum;
  if (column == 0) totals[lane] = total;
  __syncthreads();
  if (thread >= kMergeColumns) return;
  float all = 0;
  float out = 0;
  for (int i = 0; i < kMergeLanes; ++i) {
    all += totals[i];
    out += reinterpret_cast<const float*>(outs[i])[thread];
  }
  const int64_t at = int64_t{head} * kE + first_column + thread;
  const float gate = args.qg[t * args.qg_stride + at + int64_t{head + 1} * kE];
  args.y[t * args.y_stride + at] = device::to_bf16(finished(out, all, gate));
}

}  // namespace weir
