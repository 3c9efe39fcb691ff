// For kernel files: a block that attends a generated row of one key head page by page. The query heads of the key head
// are the 16 rows of the matrix products. Scores: each of four warps takes 16 tokens; the largest score, the sum and
// the bf16 weights meet in shared memory; output: each warp takes 64 columns. Keys and values come by the copy engine;
// those of FP8 become bf16 on their way to the products, so that a page of FP8 gives the bits that a page of bf16 with
// its values gives.
#pragma once

#include "device/async.h"
#include "device/mma.h"
#include "ops/attention/attention_fp8.h"
#include "ops/attention/attention_states.h"

namespace weir {

inline constexpr int kRowThreads = 128;
inline constexpr int kRowWarps = kRowThreads / device::kWarp;
// Scores times 1 / sqrt(E) become exponents of two.
inline constexpr float kScoreScale = 1.4426950408889634F / 16.0F;

// What a tile of a page is.
struct Bf16Tile {
  static constexpr bool kFp8 = false;
  static constexpr int kBytes = kPagedTileBytes;
  static constexpr int kTokenBytes = kPagedHeadDim * 2;
  static constexpr int kScaleBytes = 0;
};
struct Fp8Tile {
  static constexpr bool kFp8 = true;
  static constexpr int kBytes = kPagedFp8TileBytes;
  static constexpr int kTokenBytes = kPagedHeadDim;
  static constexpr int kScaleBytes = kPagedTokens;
};

template <class Tile>
struct RowShared {
  uint8_t k[Tile::kBytes];
  uint8_t v[Tile::kBytes];
  uint8_t q[kPagedGroupMax * kPagedHeadDim * 2];       // chunk c of row r at c ^ (r % 8)
  uint8_t weights[kPagedGroupMax * kPagedTokens * 2];  // the same
  float largest[kRowWarps][kPagedGroupMax];
  float total[kRowWarps][kPagedGroupMax];
  device::Barrier k_here;
  device::Barrier v_here;
};
static_assert(sizeof(RowShared<Bf16Tile>) <= 76'416, "what paged_attention_rows asks for: three times in 228 KiB");
static_assert(sizeof(RowShared<Fp8Tile>) <= 43'776, "the same of FP8: five times");

// One lane's part: rows g and g + 8, in each of eight groups of 8 columns two of each row.
struct Part {
  State row[2];
  float out[8][4];
};

// Copies tokens [begin, end) of a tile of which `tokens` are visible, with the last of them the scales; one thread. The
// barrier has been told of them.
template <class Tile>
WEIR_DEVICE void bring(uint8_t* to, const uint8_t* from, int begin, int end, int tokens, device::Barrier* barrier) {
  if (end - begin == kPagedTokens) return device::bulk_copy_once(to, from, Tile::kBytes, barrier);
  if (begin >= end) return;
  if constexpr (Tile::kFp8) {
    const int at = begin * Tile::kTokenBytes;
    device::bulk_copy_once(to + at, from + at, static_cast<uint32_t>(end - begin) * Tile::kTokenBytes, barrier);
    if (end < tokens) return;
    device::bulk_copy_once(to + kPagedFp8Codes, from + kPagedFp8Codes, Tile::kScaleBytes, barrier);
  } else {
#pragma unroll 1
    for (int at = begin * 128; at < kPagedTileBytes; at += kPagedQuarter) {
      device::bulk_copy_once(to + at, from + at, static_cast<uint32_t>(end - begin) * 128, barrier);
    }
  }
}

// One row and key head, and what is read of them.
template <class Tile>
struct Reader {
  const GpuPagedAttentionArgs& args;
  RowShared<Tile>& shared;
  int64_t t;  // row of the step
  GpuRow row;
  const uint8_t* const* list;  // of the row's pages
  int kv;
  int group;
  int pages;

  // Of the call's row `index` and a key head.
  WEIR_DEVICE Reader(const GpuPagedAttentionArgs& a, RowShared<Tile>& s, unsigned index, unsigned kv_head)
      : args(a),
        shared(s),
        t(step_row(a, static_cast<int>(index))),
        row(a.rows[t]),
        list(row.position < 0 ? nullptr : a.pages[row.sequence]),
        kv(static_cast<int>(kv_head)),
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
    return list[page] + args.page_offset + int64_t{kv} * 2 * Tile::kBytes;
  }
  WEIR_DEVICE void expect(int page, device::Barrier* barrier) const {
    device::barrier_expect(barrier, static_cast<uint32_t>(tokens(page)) * Tile::kTokenBytes + Tile::kScaleBytes);
  }
  WEIR_DEVICE void bring_k(int page) const {
    expect(page, &shared.k_here);
    bring<Tile>(shared.k, keys(page), 0, tokens(page), tokens(page), &shared.k_here);
  }
  WEIR_DEVICE void bring_v(int page) const {
    expect(page, &shared.v_here);
    bring<Tile>(shared.v, keys(page) + Tile::kBytes, 0, tokens(page), tokens(page), &shared.v_here);
  }
  // Tokens [begin, end) of both.
  WEIR_DEVICE void bring_both(int page, int begin, int end) const {
    if (begin >= end) return;
    const uint8_t* from = keys(page);
    bring<Tile>(shared.k, from, begin, end, tokens(page), &shared.k_here);
    bring<Tile>(shared.v, from + Tile::kBytes, begin, end, tokens(page), &shared.v_here);
  }
};

// Values behind the row's own token become zeros: their weights are zeros, what lies there may be anything. Those of
// FP8 are zeros when they are read.
template <class Tile>
WEIR_DEVICE void clear_behind(uint8_t* v, int tokens) {
  if constexpr (Tile::kFp8) return;
  static_assert(kRowWarps * kPagedQuarter == kPagedTileBytes, "a warp clears a quarter");
  auto* quarter = reinterpret_cast<uint4*>(v + device::warp() * kPagedQuarter);
#pragma unroll 1
  for (int i = tokens * 8 + device::lane(); i < kPagedTokens * 8; i += device::kWarp) quarter[i] = uint4{0, 0, 0, 0};
}

// Sums of products of 16 columns each: d[chain][group of 8 tokens].
using Chains = float[2][2][4];

WEIR_DEVICE void multiply_keys(const RowShared<Bf16Tile>& shared, Chains& d) {
  const int lane = device::lane();
  const int row = lane % 16;
  const int token = device::warp() * 16 + lane / 16 * 8 + lane % 8;
  const uint32_t q = device::shared_address(shared.q) + static_cast<uint32_t>(row * kPagedHeadDim * 2);
  const uint32_t k = device::shared_address(shared.k) + static_cast<uint32_t>(token * 128);
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
}

// A word of a lane has the codes of a product of 16 columns.
WEIR_DEVICE void multiply_keys(const RowShared<Fp8Tile>& shared, Chains& d) {
  const int lane = device::lane();
  const int row = lane % 16;
  const int first = device::warp() * 16;
  const int token = first + lane / 16 * 8 + lane % 8;
  const uint32_t q = device::shared_address(shared.q) + static_cast<uint32_t>(row * kPagedHeadDim * 2);
  const uint32_t k = device::shared_address(shared.k) + static_cast<uint32_t>(token * Fp8Tile::kTokenBytes);
  const uint8_t* scales = shared.k + kPagedFp8Codes + first + lane / 4;
  const uint32_t scale[2] = {fp8_scale(scales[0]), fp8_scale(scales[8])};
#pragma unroll 2
  for (int pair = 0; pair < kPagedHeadDim / 32; ++pair) {
    uint32_t b[4];
    device::load_matrices(b, k + static_cast<uint32_t>(((2 * pair + lane / 8 % 2) ^ (token % 8)) * 16));
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      uint32_t a[4];
      const int q_chunk = (4 * pair + 2 * step + lane / 16) ^ (row % 8);
      device::load_matrices(a, q + static_cast<uint32_t>(q_chunk * 16));
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const uint32_t codes = b[2 * n + step];
        device::mma_bf16(d[step][n], a, fp8_even(codes, scale[n]), fp8_odd(codes, scale[n]));
      }
    }
  }
}

// Scores of this warp's 16 tokens in two groups of 8, two chains each.
template <class Tile>
WEIR_DEVICE void scores_of(const RowShared<Tile>& shared, float (&s)[2][4]) {
  Chains d = {};
  multiply_keys(shared, d);
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

template <class Tile>
WEIR_DEVICE void keep_largest(RowShared<Tile>& shared, float (&s)[2][4], int first, int tokens) {
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
template <class Tile>
WEIR_DEVICE void keep_weights(RowShared<Tile>& shared, const float (&s)[2][4], Part& part) {
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
WEIR_DEVICE void multiply_values(const RowShared<Bf16Tile>& shared, uint32_t weights, int, Part& part) {
  const int lane = device::lane();
  const int row = lane % 16;  // of the weights, and token of a step
  const uint32_t v =
      device::shared_address(shared.v) + static_cast<uint32_t>(device::warp() * kPagedQuarter + row * 128);
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

// A word of a lane has the codes of two tokens: of column g of a chunk in its even, of column 8 + g in its odd bytes.
WEIR_DEVICE void multiply_values(const RowShared<Fp8Tile>& shared, uint32_t weights, int tokens, Part& part) {
  const int lane = device::lane();
  const int row = lane % 16;
  const uint32_t v = device::shared_address(shared.v) + static_cast<uint32_t>(row * Fp8Tile::kTokenBytes);
#pragma unroll 1
  for (int step = 0; step < kPagedTokens / 16; ++step) {
    uint32_t a[4];
    device::load_matrices(a, weights + static_cast<uint32_t>(((2 * step + lane / 16) ^ (row % 8)) * 16));
    const int token = step * 16 + lane % 4 * 2;
    const uint32_t scales[2] = {fp8_scales(shared.v + kPagedFp8Codes, token, tokens),
                                fp8_scales(shared.v + kPagedFp8Codes, token + 8, tokens)};
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      uint32_t b[4];
      const int chunk = (4 * device::warp() + 2 * pair + lane / 16) ^ (row % 8);
      device::load_matrices_transposed(b, v + static_cast<uint32_t>(step * 16 * Fp8Tile::kTokenBytes + chunk * 16));
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float (&low)[4] = part.out[4 * pair + 2 * i];
        float (&high)[4] = part.out[4 * pair + 2 * i + 1];
        device::mma_bf16(low, a, fp8_even(b[2 * i], scales[0]), fp8_even(b[2 * i + 1], scales[1]));
        device::mma_bf16(high, a, fp8_odd(b[2 * i], scales[0]), fp8_odd(b[2 * i + 1], scales[1]));
      }
    }
  }
}

template <class Tile>
WEIR_DEVICE void weigh_values(const RowShared<Tile>& shared, int tokens, Part& part) {
  const int lane = device::lane();
  const uint32_t weights = device::shared_address(shared.weights) + static_cast<uint32_t>(lane % 16 * 128);
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
  multiply_values(shared, weights, tokens, part);
}

// The only segment of a row becomes its output.
template <class Tile>
WEIR_DEVICE void finish_parts(const Reader<Tile>& r, const Part& part) {
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
template <class Tile>
WEIR_DEVICE void start_page(const Reader<Tile>& r, int page) {
  if (threadIdx.x == 0) {
    device::barrier_init(&r.shared.k_here, 1);
    device::barrier_init(&r.shared.v_here, 1);
    device::barrier_init_done();
    device::fence_async();
    r.expect(page, &r.shared.k_here);
    r.expect(page, &r.shared.v_here);
    r.bring_both(page, 0, r.old(page));
  }
  clear_behind<Tile>(r.shared.v, r.tokens(page));
}

// When the kernels before have ended: the rest of the block's first page, and the queries of the key head's group,
// zeros behind them.
template <class Tile>
WEIR_DEVICE void take_queries(const Reader<Tile>& r, int page) {
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
template <class Tile>
WEIR_DEVICE void attend_page(const Reader<Tile>& r, int page, int next, uint32_t phase, Part& part) {
  float s[2][4];
  device::barrier_wait(&r.shared.k_here, phase);
  scores_of(r.shared, s);
  keep_largest(r.shared, s, r.first(page), r.tokens(page));
  __syncthreads();
  if (threadIdx.x == 0 && next < r.pages) r.bring_k(next);
  keep_weights(r.shared, s, part);
  device::barrier_wait(&r.shared.v_here, phase);
  __syncthreads();
  weigh_values(r.shared, r.tokens(page), part);
}

}  // namespace weir
