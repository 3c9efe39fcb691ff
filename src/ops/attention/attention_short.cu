// Attention of few generated rows of at most one segment over paged keys and values: bound by the latency of steps that
// follow one another. A cluster of eight blocks takes one row and one key head, a block one page, whose older tokens
// come before the kernels before have ended. The pages' parts meet in shared memory: each block joins 32 columns of
// them, in ascending order, with the operations of the block that would have taken the whole segment. A row of one page
// is one block's alone.
#include "ops/attention/attention_pages.h"

namespace weir {
namespace {

inline constexpr int kBlocks = kPagedSegmentPages;  // of a cluster
inline constexpr int kColumns = kPagedHeadDim / kBlocks;
inline constexpr int kHeadThreads = kColumns / 4;
static_assert(kRowThreads / kHeadThreads == kPagedGroupMax, "a thread joins four columns of a head");
// Rows of a page's part in shared memory: 8 banks further each.
inline constexpr int kPartStride = kPagedHeadDim + 8;

// A page's part, where its values stood; of FP8, keys and values.
struct Left {
  float out[kPagedGroupMax * kPartStride];
  float2 state[kPagedGroupMax];
};
static_assert(sizeof(Left) <= Bf16Tile::kBytes, "in the place of the values");
static_assert(sizeof(Left) <= 2 * Fp8Tile::kBytes, "in the place of keys and values");

// What a thread joins: four columns of a head.
struct Place {
  int head;  // of the group; where there are fewer, the last one's work is done once more
  int column;
  bool writes;

  WEIR_DEVICE explicit Place(int group) {
    const int thread = static_cast<int>(threadIdx.x);
    writes = thread / kHeadThreads < group;
    head = writes ? thread / kHeadThreads : group - 1;
    column = static_cast<int>(blockIdx.x) * kColumns + thread % kHeadThreads * 4;
  }
};

WEIR_DEVICE void leave_part(Left& left, int group, const Part& part) {
  const int column = device::warp() * 64 + device::lane() % 4 * 2;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = half * 8 + device::lane() / 4;
    if (row >= group) continue;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      *reinterpret_cast<float2*>(left.out + row * kPartStride + column + n * 8) = {part.out[n][2 * half],
                                                                                   part.out[n][2 * half + 1]};
    }
    if (column == 0) left.state[row] = {part.row[half].largest, part.row[half].total};
  }
}

// The parts of the first `pages` blocks.
WEIR_DEVICE Columns join_pages(const Left& left, const Place& place, int pages) {
  float4 out[kBlocks];
  float2 state[kBlocks];
#pragma unroll
  for (int i = 0; i < kBlocks; ++i) {
    if (i >= pages) continue;
    const auto rank = static_cast<uint32_t>(i);
    const float* from = left.out + place.head * kPartStride + place.column;
    out[i] = device::read_shared4_of(rank, from);
    state[i] = {device::read_shared_of(rank, &left.state[place.head].x),
                device::read_shared_of(rank, &left.state[place.head].y)};
  }
  Columns own = {{state[0].x, state[0].y}, out[0]};
#pragma unroll
  for (int i = 1; i < kBlocks; ++i) {
    if (i < pages) join_columns(own, state[i], out[i]);
  }
  return own;
}

template <class Tile>
WEIR_DEVICE float4 gate_of(const Reader<Tile>& r, const Place& place) {
  const float* gates = r.args.qg + r.t * r.args.qg_stride + int64_t{r.kv * r.group + place.head} * 2 * kPagedHeadDim;
  return *reinterpret_cast<const float4*>(gates + kPagedHeadDim + place.column);
}

template <class Tile>
WEIR_DEVICE void attend_short(const GpuPagedAttentionArgs& args, uint8_t* memory) {
  RowShared<Tile>& shared = *reinterpret_cast<RowShared<Tile>*>(memory);
  Left& left = *reinterpret_cast<Left*>(Tile::kFp8 ? shared.k : shared.v);
  const Reader<Tile> r(args, shared, blockIdx.z, blockIdx.y);
  const int page = static_cast<int>(blockIdx.x);
  if (r.pages == 0 || (r.pages == 1 && page > 0)) {
    // The row's first block waits, so that this kernel does not end before the ones before it.
    if (page == 0) device::wait_for_previous();
    return;
  }
  const bool reads = page < r.pages;
  if (reads) start_page(r, page);
  const Place place(r.group);
  device::wait_for_previous();
  device::start_next();
  const float4 gate = gate_of(r, place);
  if (reads) {
    take_queries(r, page);
    Part part;
    attend_page(r, page, r.pages, 0, part);
    if (r.pages == 1) return finish_parts(r, part);
    __syncthreads();
    leave_part(left, r.group, part);
  }
  __syncwarp();
  device::cluster_barrier();
  const Columns all = join_pages(left, place, r.pages);
  device::cluster_arrive();
  if (place.writes) {
    uint16_t* y = args.y + r.t * args.y_stride + int64_t{r.kv * r.group + place.head} * kPagedHeadDim + place.column;
    *reinterpret_cast<uint2*>(y) = finished_columns(args, all.out, all.state.total, gate);
  }
  __syncwarp();
  device::cluster_wait();  // nobody leaves while its part is read
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_paged_short, GpuPagedAttentionArgs, kRowThreads, 3) {
  extern __shared__ __align__(128) uint8_t memory[];
  attend_short<Bf16Tile>(args, memory);
}

WEIR_KERNEL_BOUNDED(weir_paged_short_fp8, GpuPagedAttentionArgs, kRowThreads, 4) {
  extern __shared__ __align__(128) uint8_t memory[];
  attend_short<Fp8Tile>(args, memory);
}

}  // namespace weir
