// Attention of generated rows over paged keys and values: bound by reading each page once. A block takes one row, one
// key head and either a page or a segment of eight pages; its 64 KiB of keys and values come by the copy engine, before
// the kernels before have ended where the page is older than the step; three blocks run on a multiprocessor. The query
// heads of the key head are the 16 rows of the matrix products. Scores: each of four warps takes 16 tokens; the largest
// score, the sum and the bf16 weights meet in shared memory; output: each warp takes 64 columns. Pages of a segment are
// joined in ascending order, here or by the merge, so bits depend on position and context alone.
#include "device/async.h"
#include "device/mma.h"
#include "ops/attention/attention_states.h"

namespace weir {
namespace {

inline constexpr int kE = kPagedHeadDim;
inline constexpr int kThreads = 128;
inline constexpr int kWarps = kThreads / device::kWarp;
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

// One lane's part: rows g and g + 8, in each of eight groups of 8 columns two of each row.
struct Part {
  State row[2];
  float out[8][4];
};

// Copies the visible tokens of a tile; one thread.
WEIR_DEVICE void bring(uint8_t* to, const uint8_t* from, int tokens, device::Barrier* barrier) {
  device::barrier_expect(barrier, static_cast<uint32_t>(tokens) * kE * 2);
  if (tokens == kPagedTokens) return device::bulk_copy(to, from, kPagedTileBytes, barrier);
  for (int quarter = 0; quarter < 4; ++quarter) {
    device::bulk_copy(to + quarter * kPagedQuarter, from + quarter * kPagedQuarter, static_cast<uint32_t>(tokens) * 128,
                      barrier);
  }
}

// What this block reads: pages [begin, end) of one row and key head.
struct Pages {
  const GpuPagedAttentionArgs& args;
  Shared& shared;
  int64_t t;  // row of the step
  GpuRow row;
  int kv;
  int group;
  int begin;
  int end;

  WEIR_DEVICE Pages(const GpuPagedAttentionArgs& a, Shared& s, int index, int head)
      : args(a), shared(s), t(step_row(a, index)), row(a.rows[t]), kv(head), group(a.heads / a.kv_heads) {
    const int step = args.spread != 0 ? 1 : kPagedSegmentPages;
    begin = static_cast<int>(blockIdx.x) * step;
    end = min(pages_of(row), begin + step);
  }
  // Visible tokens of a page.
  WEIR_DEVICE int tokens(int page) const { return min(kPagedTokens, row.position + 1 - page * kPagedTokens); }
  // Whether earlier steps wrote all of it.
  WEIR_DEVICE bool old(int page) const {
    return args.fresh > 0 && (page + 1) * kPagedTokens <= row.position + 1 - args.fresh;
  }
  WEIR_DEVICE const uint8_t* keys(int page) const {
    return args.pages[row.sequence][page] + args.page_offset + int64_t{kv} * 2 * kPagedTileBytes;
  }
  WEIR_DEVICE void bring_k(int page) const { bring(shared.k, keys(page), tokens(page), &shared.k_here); }
  WEIR_DEVICE void bring_v(int page) const {
    bring(shared.v, keys(page) + kPagedTileBytes, tokens(page), &shared.v_here);
  }
  WEIR_DEVICE void bring_both(int page) const {
    bring_k(page);
    bring_v(page);
  }
};

// Queries of the key head's group, zeros behind them.
WEIR_DEVICE void take_queries(const GpuPagedAttentionArgs& args, Shared& shared, const Pages& pages) {
  auto* q = reinterpret_cast<uint4*>(shared.q);
  const uint16_t* from = args.q + (pages.t * args.heads + int64_t{pages.kv} * pages.group) * kE;
  constexpr int kChunks = kE / 8;
  for (int i = static_cast<int>(threadIdx.x); i < kPagedGroupMax * kChunks; i += kThreads) {
    const bool valid = i < pages.group * kChunks;
    device::copy16(q + (i ^ (i / kChunks % 8)), from + (valid ? i * 8 : 0), valid);
  }
  device::copies_commit();
  device::copies_wait<0>();
  __syncthreads();
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
    *reinterpret_cast<uint32_t*>(y + n * 8) = device::half_pair(
        args.y_type != 0, finished(part.out[n][2 * half], total, g.x), finished(part.out[n][2 * half + 1], total, g.y));
  }
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_paged_rows, GpuPagedAttentionArgs, kThreads, 3) {
  extern __shared__ __align__(128) uint8_t memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  const int index = static_cast<int>(blockIdx.z);
  const Pages pages(args, shared, index, static_cast<int>(blockIdx.y));
  if (pages.begin >= pages.end) {
    // One block of a row waits, so that this kernel does not end before the ones before it.
    if (blockIdx.x == 0) device::wait_for_previous();
    return;
  }
  const bool brings = threadIdx.x == 0;
  const bool early = pages.old(pages.begin);
  if (brings) {
    device::barrier_init(&shared.k_here, 1);
    device::barrier_init(&shared.v_here, 1);
    device::barrier_init_done();
    device::fence_async();
    if (early) pages.bring_both(pages.begin);
  }
  clear_behind(shared.v, pages.tokens(pages.begin));
  device::wait_for_previous();
  device::start_next();
  if (brings && !early) pages.bring_both(pages.begin);
  take_queries(args, shared, pages);

  Part total;
  for (int page = pages.begin; page < pages.end; ++page) {
    const auto phase = static_cast<uint32_t>((page - pages.begin) % 2);
    Part part;
    float s[2][4];
    device::barrier_wait(&shared.k_here, phase);
    scores_of(shared, s);
    keep_largest(shared, s, pages.tokens(page));
    __syncthreads();
    if (brings && page + 1 < pages.end) pages.bring_k(page + 1);
    keep_weights(shared, s, part);
    device::barrier_wait(&shared.v_here, phase);
    __syncthreads();
    weigh_values(shared, part);
    if (page == pages.begin) {
      total = part;
    } else {
      join_parts(total, part);
    }
    if (page + 1 == pages.end) break;
    __syncthreads();
    clear_behind(shared.v, pages.tokens(page + 1));
    if (brings) pages.bring_v(page + 1);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int of = half * 8 + device::lane() / 4;
    if (of >= pages.group) continue;
    if (args.slots == 0) {
      finish_part(args, pages.t, pages.kv * pages.group + of, half, total);
    } else {
      keep_part(args, index, pages.kv * pages.group + of, half, total);
    }
  }
}

}  // namespace weir
