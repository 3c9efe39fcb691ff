// Attention of prompt rows over paged keys and values: bound by the matrix products. A block takes a tile of prompt
// rows (up to 128 rows of (token, query head) pairs of one key head): two warpgroups of 64 rows each and one whose
// first warp keeps two stages of keys and of values filled by the copy engine, a page of 64 tokens at a time,
// ascending. Queries lie in shared memory, weights and output stay in registers; the scores of the next page are
// computed while the values of this one are weighed. A tile never crosses a page, so all its rows see the same pages
// and only the last one is masked: the bits of a row depend on its position and context alone, however the prompt was
// cut. Of FP8 pages the codes come to a place of their own, one of keys and one of values, and the third warpgroup
// fills the stages with them as bf16: what follows is the same to the bit.
#include "device/async.h"
#include "device/mma.h"
#include "device/wgmma.h"
#include "ops/attention/attention_fp8.h"

namespace weir {
namespace {

inline constexpr int kE = kPagedHeadDim;
inline constexpr int kGroupThreads = 4 * device::kWarp;
inline constexpr int kGroupRows = 64;
inline constexpr int kComputing = 2 * kGroupThreads;
inline constexpr int kThreads = kComputing + kGroupThreads;
inline constexpr int kStages = 2;
inline constexpr int kQuarterBytes = kPagedPromptRows * 128;  // of the queries
// Scores times 1 / sqrt(E) become exponents of two.
inline constexpr float kScale = 1.4426950408889634F / 16.0F;

struct Shared {
  uint8_t q[4 * kQuarterBytes];  // as a tile of a page, with 128 rows
  uint8_t k[kStages][kPagedTileBytes];
  uint8_t v[kStages][kPagedTileBytes];
  device::Barrier k_here[kStages];
  device::Barrier v_here[kStages];
  device::Barrier k_free[kStages];
  device::Barrier v_free[kStages];
};
static_assert(sizeof(Shared) <= 196'864, "what paged_attention_prompt asks for");

struct Fp8Shared {
  Shared of;
  uint8_t codes[2][kPagedFp8TileBytes];  // of keys, of values
  device::Barrier codes_here[2];
};
static_assert(sizeof(Fp8Shared) <= 229'760, "what paged_attention_prompt asks for of FP8");

#define WEIR_D8(i)                                                                                            \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define WEIR_D32(i) WEIR_D8(i), WEIR_D8(i + 8), WEIR_D8(i + 16), WEIR_D8(i + 24)

// d[64, 64] = rows * columns + (add ? d : 0); 16 k of both in shared memory, k ascending within a row.
WEIR_DEVICE void multiply_keys(float (&d)[32], uint64_t rows, uint64_t columns, bool add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "%32, %33, p, 1, 1, 0, 0;\n}"
      : WEIR_D32(0)
      : "l"(rows), "l"(columns), "r"(static_cast<int>(add)));
}

// d[64, 256] += a * columns; 16 tokens, whose rows of values are 128 bytes of columns in each of four quarters.
WEIR_DEVICE void multiply_values(float (&d)[128], const uint32_t* a, uint64_t columns) {
  asm volatile(
      "{\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
      "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
      "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
      "{%128, %129, %130, %131}, %132, 1, 1, 1, 1;\n}"
      : WEIR_D32(0), WEIR_D32(32), WEIR_D32(64), WEIR_D32(96)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(columns));
}

#undef WEIR_D32
#undef WEIR_D8

// Names of operands in shared memory: rows of 128 bytes, groups of 8 rows 1,024 bytes apart; for values, whose rows are
// tokens, also the distance of the next 64 columns. The lower half, to which 1 is added for 16 bytes further.
WEIR_DEVICE uint32_t named_rows(const uint8_t* p) {
  return (device::shared_address(p) & 0x3ffffU) >> 4;
}
WEIR_DEVICE uint32_t named_values(const uint8_t* p) {
  constexpr uint32_t kColumns = uint32_t{kPagedQuarter / 16} << 16;
  return kColumns | named_rows(p);
}
WEIR_DEVICE uint64_t operand(uint32_t name, int bytes) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kGroups = uint64_t{1024 / 16} << 32;
  return kSwizzle128 | kGroups | (name + static_cast<uint32_t>(bytes / 16));
}

WEIR_DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// sigmoid(x) to a few units in the last place: what it multiplies is rounded to bf16.
WEIR_DEVICE float open_part(float x) {
  return __fdividef(1.0F, 1.0F + exp2_fast(-1.4426950408889634F * x));
}

struct Tile {
  GpuPromptTile tile;
  int kv;
  int group;  // query heads of a key head
  int pages;  // that its rows see
  int first;  // token that they see
};

// Fills the stages; a warp. Of the last page's values only the visible ones are taken and zeros put behind them: their
// weights are zeros, what lies there may be anything.
WEIR_DEVICE void bring_pages(const GpuPagedAttentionArgs& args, Shared& shared, const Tile& own) {
  const int tokens_last = own.tile.position + own.tile.row_count - (own.pages - 1) * kPagedTokens;
  for (int page = 0; page < own.pages; ++page) {
    const int stage = page % kStages;
    const auto phase = static_cast<uint32_t>(page / kStages + 1) & 1U;
    const uint8_t* from =
        args.pages[own.tile.sequence][page] + args.page_offset + int64_t{own.kv} * 2 * kPagedTileBytes;
    if (page >= kStages) device::barrier_wait(&shared.k_free[stage], phase);
    if (device::lane() == 0) {
      device::barrier_expect(&shared.k_here[stage], kPagedTileBytes);
      device::bulk_copy(shared.k[stage], from, kPagedTileBytes, &shared.k_here[stage]);
    }
    if (page >= kStages) device::barrier_wait(&shared.v_free[stage], phase);
    from += kPagedTileBytes;
    const int tokens = page + 1 == own.pages ? tokens_last : kPagedTokens;
    const int chunks = (kPagedTokens - tokens) * 8;
    for (int i = device::lane(); i < 4 * chunks; i += device::kWarp) {
      uint8_t* quarter = shared.v[stage] + i / chunks * kPagedQuarter + tokens * 128;
      reinterpret_cast<uint4*>(quarter)[i % chunks] = uint4{0, 0, 0, 0};
    }
    device::fence_async();
    __syncwarp();
    if (device::lane() != 0) continue;
    device::barrier_expect(&shared.v_here[stage], static_cast<uint32_t>(tokens) * kE * 2);
    for (int quarter = 0; quarter < 4; ++quarter) {
      device::bulk_copy(shared.v[stage] + quarter * kPagedQuarter, from + quarter * kPagedQuarter,
                        static_cast<uint32_t>(tokens) * 128, &shared.v_here[stage]);
    }
  }
}

// A tile of codes becomes one of bf16, tokens from `tokens` on zeros; a warpgroup. Eight lanes that follow each other
// take four chunks of two tokens, whose reads and writes have no banks in common. Loads do not pass stores: those of
// the next token come before this one's.
WEIR_DEVICE void expand(const uint8_t* codes, uint8_t* tile, int tokens) {
  const int thread = static_cast<int>(threadIdx.x) % kGroupThreads;
  const int odd = thread / 4 % 2;
  const int chunk = ((thread / 8 % 4) ^ odd) * 4 + thread % 4;
  const int first = thread / device::kWarp * 2 + odd;
  const uint8_t* from = codes + first * kE + (chunk ^ first) * 16;
  const uint8_t* scales = codes + kPagedFp8Codes + first;
  uint8_t* low = tile + chunk / 4 * kPagedQuarter + first * 128 + ((2 * chunk ^ first) % 8) * 16;
  uint8_t* high = tile + chunk / 4 * kPagedQuarter + first * 128 + (((2 * chunk + 1) ^ first) % 8) * 16;
  uint4 next = *reinterpret_cast<const uint4*>(from);
  uint32_t next_scale = scales[0];
#pragma unroll
  for (int token = 0; token < kPagedTokens; token += 8) {
    const uint4 word = next;
    const uint32_t scale = fp8_scale(first + token < tokens ? next_scale : 0U);
    if (token + 8 < kPagedTokens) {
      next = *reinterpret_cast<const uint4*>(from + (token + 8) * kE);
      next_scale = scales[token + 8];
    }
    *reinterpret_cast<uint4*>(low + token * 128) = {fp8_even(word.x, scale), fp8_even(word.y, scale),
                                                    fp8_even(word.z, scale), fp8_even(word.w, scale)};
    *reinterpret_cast<uint4*>(high + token * 128) = {fp8_odd(word.x, scale), fp8_odd(word.y, scale),
                                                     fp8_odd(word.z, scale), fp8_odd(word.w, scale)};
  }
}

// Fills the stages from pages of FP8; a warpgroup. While one part's codes are expanded, the other's come.
WEIR_DEVICE void bring_fp8_pages(const GpuPagedAttentionArgs& args, Fp8Shared& shared, const Tile& own) {
  const int tokens_last = own.tile.position + own.tile.row_count - (own.pages - 1) * kPagedTokens;
  const bool asks = static_cast<int>(threadIdx.x) == kComputing;
  const uint8_t* const* list = args.pages[own.tile.sequence];
  const int64_t offset = args.page_offset + int64_t{own.kv} * 2 * kPagedFp8TileBytes;
  const auto ask = [&](const uint8_t* page, int part) {
    device::barrier_expect(&shared.codes_here[part], kPagedFp8TileBytes);
    device::bulk_copy(shared.codes[part], page + offset + part * kPagedFp8TileBytes, kPagedFp8TileBytes,
                      &shared.codes_here[part]);
  };
  if (asks) {
    const uint8_t* first = list[0];
    ask(first, 0);
    ask(first, 1);
  }
  for (int page = 0; page < own.pages; ++page) {
    const int stage = page % kStages;
    const auto phase = static_cast<uint32_t>(page / kStages + 1) & 1U;
    const int tokens = page + 1 == own.pages ? tokens_last : kPagedTokens;
    // Read here, so that nobody waits for it where it is needed.
    const uint8_t* next = asks && page + 1 < own.pages ? list[page + 1] : nullptr;
#pragma unroll 1
    for (int part = 0; part < 2; ++part) {
      if (page >= kStages) device::barrier_wait(part == 0 ? &shared.of.k_free[stage] : &shared.of.v_free[stage], phase);
      device::barrier_wait(&shared.codes_here[part], static_cast<uint32_t>(page) & 1U);
      expand(shared.codes[part], part == 0 ? shared.of.k[stage] : shared.of.v[stage], tokens);
      device::fence_async();
      device::warp_arrive(part == 0 ? &shared.of.k_here[stage] : &shared.of.v_here[stage]);
      // Nobody reads these codes any more.
      device::threads_barrier(3, kGroupThreads);
      if (next != nullptr) ask(next, part);
    }
  }
}

// Puts the 64 rows of this warpgroup into shared memory; rows without a token are zeros. Their gates are brought near.
WEIR_DEVICE void take_queries(const GpuPagedAttentionArgs& args, Shared& shared, const Tile& own, int warpgroup) {
  const int thread = static_cast<int>(threadIdx.x) % kGroupThreads;
  for (int i = thread; i < kGroupRows * 32; i += kGroupThreads) {
    const int row = warpgroup * kGroupRows + i / 32;
    const int chunk = i % 32;
    const int token = row / own.group;
    const bool valid = token < own.tile.row_count;
    const int64_t t = own.tile.row_begin + (valid ? token : 0);
    const int64_t head = int64_t{own.kv} * own.group + row % own.group;
    uint8_t* to = shared.q + chunk / 8 * kQuarterBytes + row * 128 + ((chunk ^ row) % 8) * 16;
    device::copy16(to, args.q + (t * args.heads + head) * kE + chunk * 8, valid);
    if (chunk == 0 && valid) {
      device::bulk_prefetch(args.qg + t * args.qg_stride + head * 2 * kE + kE, kE * sizeof(float));
    }
  }
  device::copies_commit();
  device::copies_wait<0>();
  device::fence_async();
  device::threads_barrier(1 + warpgroup, kGroupThreads);
}

// This lane's rows g and g + 8.
struct Softmax {
  float largest[2] = {-INFINITY, -INFINITY};
  float total[2] = {0, 0};  // of this lane's columns
  float fade[2];            // of what was summed before the last page
};

// Scores of a page become weights.
WEIR_DEVICE void weigh(Softmax& state, float (&s)[32]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float largest = state.largest[half];
#pragma unroll
    for (int n = 0; n < 8; ++n) largest = fmaxf(largest, fmaxf(s[4 * n + 2 * half], s[4 * n + 2 * half + 1]));
    largest = fmaxf(largest, __shfl_xor_sync(device::kAllLanes, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(device::kAllLanes, largest, 2));
    const float shift = __fmul_rn(largest, kScale);
    state.fade[half] = exp2_fast(__fmul_rn(state.largest[half], kScale) - shift);
    state.largest[half] = largest;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      float& low = s[4 * n + 2 * half];
      float& high = s[4 * n + 2 * half + 1];
      low = exp2_fast(fmaf(low, kScale, -shift));
      high = exp2_fast(fmaf(high, kScale, -shift));
      sum += low + high;
    }
    state.total[half] = fmaf(state.total[half], state.fade[half], sum);
  }
}

// Pairs of bf16 in the order of a product's rows.
WEIR_DEVICE void round_weights(const float (&s)[32], uint32_t (&weights)[16]) {
#pragma unroll
  for (int i = 0; i < 16; ++i) weights[i] = device::bf16x2(s[2 * i], s[2 * i + 1]);
}

// `q`: named rows of this warpgroup's queries.
WEIR_DEVICE void issue_scores(float (&s)[32], uint32_t q, const uint8_t* k) {
  // Hides that q is the same for each page: the compiler would keep 16 names in registers.
  asm volatile("" : "+r"(q));
  const uint32_t keys = named_rows(k);
#pragma unroll
  for (int step = 0; step < kE / 16; ++step) {
    const int within = step % 4 * 32;
    multiply_keys(s, operand(q, step / 4 * kQuarterBytes + within), operand(keys, step / 4 * kPagedQuarter + within),
                  step > 0);
  }
  device::wgmma_commit();
}

WEIR_DEVICE void issue_values(float (&out)[128], const uint32_t (&weights)[16], const uint8_t* v) {
  const uint32_t values = named_values(v);
#pragma unroll
  for (int step = 0; step < kPagedTokens / 16; ++step) {
    multiply_values(out, weights + 4 * step, operand(values, step * 16 * 128));
  }
  device::wgmma_commit();
}

// The tokens that each of the lane's rows sees of the last page.
struct Seen {
  int tokens[2];
};

WEIR_DEVICE void mask(float (&s)[32], const Seen& seen) {
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    const int token = i / 4 * 8 + device::lane() % 4 * 2 + i % 2;
    if (token >= seen.tokens[i % 4 / 2]) s[i] = -INFINITY;
  }
}

WEIR_DEVICE void mask_first(float (&s)[32]) {
  if (device::lane() % 4 == 0) s[0] = s[2] = -INFINITY;
}

WEIR_DEVICE void release(device::Barrier* barrier) {
  device::together_arrive(barrier);
}

// A factor of 1 changes nothing, so rows do not depend on whether their neighbours' sums shrink.
WEIR_DEVICE void fade(float (&out)[128], const Softmax& state) {
  const bool same = state.fade[0] == 1.0F && state.fade[1] == 1.0F;
  if (__all_sync(device::kAllLanes, static_cast<int>(same)) != 0) return;
#pragma unroll
  for (int i = 0; i < 128; ++i) out[i] *= state.fade[i % 4 / 2];
}

WEIR_DEVICE void attend(Shared& shared, const Tile& own, int warpgroup, const Seen& seen, float (&out)[128],
                        Softmax& state) {
  const uint32_t q = named_rows(shared.q + warpgroup * kGroupRows * 128);
  float s[32];
  uint32_t weights[16];
#pragma unroll
  for (float& x : out) x = 0;
  device::barrier_wait(&shared.k_here[0], 0);
  device::wgmma_fence();
  issue_scores(s, q, shared.k[0]);
  device::wgmma_wait<0>();
  device::wgmma_settle(s);
  release(&shared.k_free[0]);
  if (own.pages == 1) mask(s, seen);
  if (own.first > 0) mask_first(s);
  weigh(state, s);
  round_weights(s, weights);
  for (int page = 1; page < own.pages; ++page) {
    const int stage = page % kStages;
    const int before = (page - 1) % kStages;
    device::barrier_wait(&shared.k_here[stage], static_cast<uint32_t>(page / kStages) & 1U);
    device::wgmma_fence();
    issue_scores(s, q, shared.k[stage]);
    device::barrier_wait(&shared.v_here[before], static_cast<uint32_t>((page - 1) / kStages) & 1U);
    device::wgmma_fence();
    issue_values(out, weights, shared.v[before]);
    device::wgmma_wait<1>();
    device::wgmma_settle(s);
    release(&shared.k_free[stage]);
    if (page + 1 == own.pages) mask(s, seen);
    weigh(state, s);
    device::wgmma_wait<0>();
    device::wgmma_settle(out);
    release(&shared.v_free[before]);
    fade(out, state);
    round_weights(s, weights);
  }
  const int last = own.pages - 1;
  device::barrier_wait(&shared.v_here[last % kStages], static_cast<uint32_t>(last / kStages) & 1U);
  device::wgmma_fence();
  issue_values(out, weights, shared.v[last % kStages]);
  device::wgmma_wait<0>();
  device::wgmma_settle(out);
}

WEIR_DEVICE void finish(const GpuPagedAttentionArgs& args, const Tile& own, int row, int half, const float (&out)[128],
                        float total) {
  total += __shfl_xor_sync(device::kAllLanes, total, 1);
  total += __shfl_xor_sync(device::kAllLanes, total, 2);
  const int token = row / own.group;
  if (token >= own.tile.row_count) return;
  const int64_t t = own.tile.row_begin + token;
  const int64_t head = int64_t{own.kv} * own.group + row % own.group;
  const int column = device::lane() % 4 * 2;
  const float* gate = args.qg + t * args.qg_stride + head * 2 * kE + kE + column;
  uint16_t* y = args.y + t * args.y_stride + head * kE + column;
  const float inverse = 1.0F / total;
  // Loads do not pass stores: so many are under way at a time.
  constexpr int kAhead = 16;
#pragma unroll
  for (int first = 0; first < 32; first += kAhead) {
    float2 g[kAhead];
#pragma unroll
    for (int n = 0; n < kAhead; ++n) g[n] = *reinterpret_cast<const float2*>(gate + (first + n) * 8);
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      const float* x = out + 4 * (first + n) + 2 * half;
      *reinterpret_cast<uint32_t*>(y + (first + n) * 8) =
          device::half_pair(args.y_type != 0, x[0] * inverse * open_part(g[n].x), x[1] * inverse * open_part(g[n].y));
    }
  }
}

template <bool kFp8>
WEIR_DEVICE void attend_tile(const GpuPagedAttentionArgs& args, uint8_t* memory) {
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  Tile own;
  own.kv = static_cast<int>(blockIdx.x) % args.kv_heads;
  own.tile = args.tiles[static_cast<int>(blockIdx.x) / args.kv_heads];
  own.group = args.heads / args.kv_heads;
  own.pages = own.tile.position / kPagedTokens + 1;
  own.first = args.first;
  if (threadIdx.x == 0) {
    // A stage is filled by the copy engine, or by the warps that expand codes.
    constexpr int kFilling = kFp8 ? kGroupThreads / device::kWarp * device::kWarpArrivals : 1;
    for (int i = 0; i < kStages; ++i) {
      device::barrier_init(&shared.k_here[i], kFilling);
      device::barrier_init(&shared.v_here[i], kFilling);
      device::barrier_init(&shared.k_free[i], kComputing / device::kWarp * device::kWarpArrivals);
      device::barrier_init(&shared.v_free[i], kComputing / device::kWarp * device::kWarpArrivals);
    }
    if constexpr (kFp8) {
      for (device::Barrier& here : reinterpret_cast<Fp8Shared*>(memory)->codes_here) device::barrier_init(&here, 1);
    }
    device::barrier_init_done();
    device::fence_async();
  }
  __syncthreads();
  device::wait_for_previous();
  device::start_next();
  if (own.tile.row_count == 0) return;
  const int warpgroup = static_cast<int>(threadIdx.x) / kGroupThreads;
  if (warpgroup == 2) {
    if constexpr (kFp8) {
      device::fewer_registers<40>();
      bring_fp8_pages(args, *reinterpret_cast<Fp8Shared*>(memory), own);
    } else {
      device::fewer_registers<24>();
      if (device::warp() == kComputing / device::kWarp) bring_pages(args, shared, own);
    }
    return;
  }
  device::more_registers<kFp8 ? 232 : 240>();

  take_queries(args, shared, own, warpgroup);
  const int row = warpgroup * kGroupRows + device::warp() % 4 * 16 + device::lane() / 4;
  const auto seen_by = [&](int r) {
    return own.tile.position % kPagedTokens + min(r / own.group, own.tile.row_count - 1) + 1;
  };
  float out[128];
  Softmax state;
  attend(shared, own, warpgroup, {{seen_by(row), seen_by(row + 8)}}, out, state);
#pragma unroll
  for (int half = 0; half < 2; ++half) finish(args, own, row + 8 * half, half, out, state.total[half]);
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_paged_prompt, GpuPagedAttentionArgs, kThreads, 1) {
  extern __shared__ __align__(1024) uint8_t memory[];
  attend_tile<false>(args, memory);
}

WEIR_KERNEL_BOUNDED(weir_paged_prompt_fp8, GpuPagedAttentionArgs, kThreads, 1) {
  extern __shared__ __align__(1024) uint8_t memory[];
  attend_tile<true>(args, memory);
}

}  // namespace weir
