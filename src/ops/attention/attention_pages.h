// For kernel files: a block that attends a generated row of one key head page by page. The query heads of the key head
// are the 16 rows of the matrix products. Scores: each of four warps takes 16 tokens; the largest score, the sum and
// the bf16 weights meet in shared memory; output: each warp takes 64 columns. Keys and values come by the copy engine.
#pragma once

#include "device/async.h"
#include "device/mma.h"
#include "ops/attention/attention_states.h"

namespace weir {

inline constexpr int kRowThreads = 128;
inline constexpr int kRowWarps = kRowThreads / device::kWarp;
// Scores times 1 / sqrt(E) become exponents of two.
inline constexpr float kScoreScale = 1.4426950408889634F / 16.0F;

struct RowShared {
  uint8_t k[kPagedTileBytes];
  uint8_t v[kPagedTileBytes];
  uint8_t q[kPagedGroupMax * kPagedHeadDim * 2];       // chunk c of row r at c ^ (r % 8)
  uint8_t weights[kPagedGroupMax * kPagedTokens * 2];  // the same
  float largest[kRowWarps][kPagedGroupMax];
  float total[kRowWarps][kPagedGroupMax];
  device::Barrier k_here;
  device::Barrier v_here;
};
static_assert(sizeof(RowShared) <= 76'416, "what paged_attention_rows asks for: three times in 228 KiB");

// One lane's part: rows g and g + 8, in each of eight groups of 8 columns two of each row.
struct Part {
  State row[2];
  float out[8][4];
};

// Copies tokens [begin, end) of a tile; one thread. The barrier has been told of them.
WEIR_DEVICE void bring(uint8_t* to, const uint8_t* from, int begin, int end, device::Barrier* barrier) {
  if (end - begin == kPagedTokens) return device::bulk_copy_once(to, from, kPagedTileBytes, barrier);
  if (begin >= end) return;
#pragma unroll 1
  for (int at = begin * 128; at < kPagedTileBytes; at += kPagedQuarter) {
    device::bulk_copy_once(to + at, from + at, static_cast<uint32_t>(end - begin) * 128, barrier);
  }
}

// One row and key head, and what is read of them.
struct Reader {
  const GpuPagedAttentionArgs& args;
  RowShared& shared;
  int64_t t;  // row of the step
  GpuRow row;
  int kv;
  int group;
  int pages;

  WEIR_DEVICE Reader(const GpuPagedAttentionArgs& a, RowShared& s)
      : args(a),
        shared(s),
        t(step_row(a, static_cast<int>(blockIdx.z))),
        row(a.rows[t]),
        kv(static_cast<int>(blockIdx.y)),
        group(a.heads / a.kv_heads),
        pages(pages_of(row)) {}
  // The first visible token of a page, and the end of them.
  WEIR_DEVICE int first(int page) const { return page == 0 ? args.first : 0; }
  WEIR_DEVICE int tokens(int page) const { return min(kPagedTokens, row.position + 1 - page * kPagedTokens); }
  // Of those the ones that earlier steps wrote.
  WEIR_DEVICE int old(int page) const {
    return args.fresh == 0 ? 0 : min(tokens(page), max(0, row.position + 1 - args.fresh - page * kPagedTokens));
  }
  WEIR_DEVICE const uint8_t* keys(int page) const {
    return args.pages[row.sequence][page] + args.page_offset + int64_t{kv} * 2 * kPagedTileBytes;
  }
  WEIR_DEVICE void expect(int page, device::Barrier* barrier) const {
    device::barrier_expect(barrier, static_cast<uint32_t>(tokens(page)) * kPagedHeadDim * 2);
  }
  WEIR_DEVICE void bring_k(int page) const {
    expect(page, &shared.k_here);
    bring(shared.k, keys(page), 0, tokens(page), &shared.k_here);
  }
  WEIR_DEVICE void bring_v(int page) const {
    expect(page, &shared.v_here);
    bring(shared.v, keys(page) + kPagedTileBytes, 0, tokens(page), &shared.v_here);
  }
  // Tokens [begin, end) of both.
  WEIR_DEVICE void bring_both(int page, int begin, int end) const {
    if (begin >= end) return;
    const uint8_t* from = keys(page);
    bring(shared.k, from, begin, end, &shared.k_here);
    bring(shared.v, from + kPagedTileBytes, begin, end, &shared.v_here);
  }
};

// Values behind the row's own token become zeros: their weights are zeros, what lies there may be anything.
WEIR_DEVICE void clear_behind(uint8_t* v, int tokens) {
  static_assert(kRowWarps * kPagedQuarter == kPagedTileBytes, "a warp clears a quarter");
  auto* quarter = reinterpret_cast<uint4*>(v + device::warp() * kPagedQuarter);
#pragma unroll 1
  for (int i = tokens * 8 + device::lane(); i < kPagedTokens * 8; i += device::kWarp) quarter[i] = uint4{0, 0, 0, 0};
}

// Scores of this warp's 16 tokens in two groups of 8, two chains each.
WEIR_DEVICE void scores_of(const RowShared& shared, float (&s)[2][4]) {
  const int lane = device::lane();
  const int row = lane % 16;
  const int token = device::warp() * 16 + lane / 16 * 8 + lane % 8;
  const uint32_t q = device::shared_address(shared.q) + static_cast<uint32_t>(row * kPagedHeadDim * 2);
  const uint32_t k = device::shared_address(shared.k) + static_cast<uint32_t>(token * 128);
  float d[2][2][4] = {};
#pragma unroll 1
  for (int quarter = 0; quarter < 4; ++quarter) {
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      uint32_t a[4];
      uint32_t b[4];
      const int q_chunk = 8 * quarter + ((2 * step + lane / 16) ^ (row % 8));
      const int k_chunk = (2 * step + lane / 8 % 2) ^ (token % 8);
      device::load_matrices(a, q + static_cast<uint32_t>(q_chunk * 16));
      device::load_matrices(b, k + static_cast<uint32_t>(quarter * kPagedQuarter + k_chunk * 16));
      device::mma_bf16(d[step % 2][0], a, b[0], b[1]);
      device::mma_bf16(d[step % 2][1], a, b[2], b[3]);
    }
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) s[n][i] = (d[0][n][i] + d[1][n][i]) * kScoreScale;
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

WEIR_DEVICE void keep_largest(RowShared& shared, float (&s)[2][4], int first, int tokens) {
  const int lane = device::lane();
  float largest[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = device::warp() * 16 + n * 8 + lane % 4 * 2 + i % 2;
      if (token < first || token >= tokens) s[n][i] = -INFINITY;
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
WEIR_DEVICE void keep_weights(RowShared& shared, const float (&s)[2][4], Part& part) {
  const int lane = device::lane();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = half * 8 + lane / 4;
    float largest = shared.largest[0][row];
    for (int w = 1; w < kRowWarps; ++w) largest = fmaxf(largest, shared.largest[w][row]);
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
WEIR_DEVICE void weigh_values(const RowShared& shared, Part& part) {
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
#pragma unroll 1
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

// The only segment of a row becomes its output.
WEIR_DEVICE void finish_parts(const Reader& r, const Part& part) {
  const int column = device::warp() * 64 + device::lane() % 4 * 2;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int of = half * 8 + device::lane() / 4;
    if (of >= r.group) continue;
    const int64_t head = int64_t{r.kv} * r.group + of;
    const float* gate = r.args.qg + r.t * r.args.qg_stride + (2 * head + 1) * kPagedHeadDim + column;
    uint16_t* y = r.args.y + r.t * r.args.y_stride + head * kPagedHeadDim + column;
    float2 g[8];  // loads do not pass stores
#pragma unroll
    for (int n = 0; n < 8; ++n) g[n] = *reinterpret_cast<const float2*>(gate + n * 8);
    const float total = part.row[half].total;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      *reinterpret_cast<uint32_t*>(y + n * 8) =
          device::half_pair(r.args.y_type != 0, finished(part.out[n][2 * half], total, g[n].x),
                            finished(part.out[n][2 * half + 1], total, g[n].y));
    }
  }
}

// Before the kernels before have ended: the block's first page, as far as it is old.
WEIR_DEVICE void start_page(const Reader& r, int page) {
  if (threadIdx.x == 0) {
    device::barrier_init(&r.shared.k_here, 1);
    device::barrier_init(&r.shared.v_here, 1);
    device::barrier_init_done();
    device::fence_async();
    r.expect(page, &r.shared.k_here);
    r.expect(page, &r.shared.v_here);
    r.bring_both(page, 0, r.old(page));
  }
  clear_behind(r.shared.v, r.tokens(page));
}

// When the kernels before have ended: the rest of the block's first page, and the queries of the key head's group,
// zeros behind them.
WEIR_DEVICE void take_queries(const Reader& r, int page) {
  if (threadIdx.x == 0) r.bring_both(page, r.old(page), r.tokens(page));
  auto* q = reinterpret_cast<uint4*>(r.shared.q);
  const uint16_t* from = r.args.q + (r.t * r.args.heads + int64_t{r.kv} * r.group) * kPagedHeadDim;
  constexpr int kChunks = kPagedHeadDim / 8;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < kPagedGroupMax * kChunks; i += kRowThreads) {
    const bool valid = i < r.group * kChunks;
    device::copy16(q + (i ^ (i / kChunks % 8)), from + (valid ? i * 8 : 0), valid);
  }
  device::copies_commit();
  device::copies_wait<0>();
  __syncthreads();
}

// A page becomes a part; the keys of page `next` of the block come meanwhile, if it is there.
WEIR_DEVICE void attend_page(const Reader& r, int page, int next, uint32_t phase, Part& part) {
  float s[2][4];
  device::barrier_wait(&r.shared.k_here, phase);
  scores_of(r.shared, s);
  keep_largest(r.shared, s, r.first(page), r.tokens(page));
  __syncthreads();
  if (threadIdx.x == 0 && next < r.pages) r.bring_k(next);
  keep_weights(r.shared, s, part);
  device::barrier_wait(&r.shared.v_here, phase);
  __syncthreads();
  weigh_values(r.shared, part);
}

}  // namespace weir
