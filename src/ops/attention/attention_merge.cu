// Joins the states of generated rows: bound by reading them once from the second-level cache. Segments are weighed by
// the largest score of all; lane i of 32 adds segments i, i + 32, ..., then the lanes are added, all in ascending
// order, so bits depend on the number of pages alone. Of pages, which are few, a block merges 64 columns of a row and
// head, a lane being 16 threads of four columns, as many lanes as a row may have segments, and joins the pages of a
// segment first, with the operations of the block that would have taken the whole segment; of segments, a warp merges
// 128 columns, eight segments under way.
#include "device/async.h"
#include "ops/attention/attention_states.h"

namespace weir {
namespace {

inline constexpr int kE = kPagedHeadDim;
inline constexpr int kMergeLanes = device::kWarp;
inline constexpr int kMergeColumns = 64;
inline constexpr int kLaneThreads = kMergeColumns / 4;
inline constexpr int kMergeThreads = kMergeLanes * kLaneThreads;  // at most
inline constexpr int kMergeWarps = 8;

// The pages of a segment; those that are there.
struct Batch {
  float2 state[kPagedSegmentPages];
  float4 out[kPagedSegmentPages];
};
WEIR_DEVICE void read_pages(const float2* states, const float4* outs, int segment, int pages, Batch& batch) {
#pragma unroll
  for (int i = 0; i < kPagedSegmentPages; ++i) {
    const int page = segment * kPagedSegmentPages + i;
    if (page >= pages) continue;
    batch.state[i] = states[page];
    batch.out[i] = outs[page * (kE / 4)];
  }
}
WEIR_DEVICE Columns join_pages(const Batch& batch, int pages) {
  Columns own = {{batch.state[0].x, batch.state[0].y}, batch.out[0]};
#pragma unroll
  for (int i = 1; i < kPagedSegmentPages; ++i) {
    if (i < pages) join_columns(own, batch.state[i], batch.out[i]);
  }
  return own;
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_paged_merge_pages, GpuPagedAttentionArgs, kMergeThreads, 1) {
  __shared__ float4 outs[kMergeLanes][kMergeColumns / 4];
  __shared__ float totals[kMergeLanes];
  __shared__ float warps[kMergeThreads / device::kWarp];
  const int thread = static_cast<int>(threadIdx.x);
  const int threads = static_cast<int>(blockDim.x);
  const int lanes = threads / kLaneThreads;
  const int head = static_cast<int>(blockIdx.y);
  const int index = static_cast<int>(blockIdx.z);
  const int first_column = static_cast<int>(blockIdx.x) * kMergeColumns;
  const int64_t t = step_row(args, index);
  const int pages = pages_of(args.rows[t]);
  const int segments = (pages + kPagedSegmentPages - 1) / kPagedSegmentPages;
  const int64_t at = int64_t{head} * kE + first_column + thread % kMergeColumns;
  float gate = 0;  // not what the kernel before writes
  if (pages > 0 && thread < kMergeColumns) gate = args.qg[t * args.qg_stride + at + int64_t{head + 1} * kE];
  device::wait_for_previous();
  device::start_next();
  if (pages == 0) return;
  const int lane = thread / kLaneThreads;
  const int column = thread % kLaneThreads;
  const float2* state = partial_state(args, index, head);
  const auto* out = reinterpret_cast<const float4*>(partial_out(args, index, head, 0) + first_column) + column;
  Batch batch;
  read_pages(state, out, lane, pages, batch);
  float largest = -INFINITY;
  for (int i = thread; i < pages; i += threads) largest = fmaxf(largest, state[i].x);
  largest = device::warp_max(largest);
  if (device::lane() == 0) warps[device::warp()] = largest;
  __syncthreads();
  for (int i = 0; i < threads / device::kWarp; ++i) largest = fmaxf(largest, warps[i]);
  float4 sum = {0, 0, 0, 0};
  float total = 0;
  for (int segment = lane; segment < segments; segment += kMergeLanes) {
    if (segment != lane) read_pages(state, out, segment, pages, batch);
    const Columns own = join_pages(batch, pages - segment * kPagedSegmentPages);
    const float weight = weight_of(own.state.largest, largest);
    total = fmaf(own.state.total, weight, total);
    sum = weighed(own.out, weight, sum);
  }
  outs[lane][column] = sum;
  if (column == 0) totals[lane] = total;
  __syncthreads();
  if (thread >= kMergeColumns) return;
  float all = 0;
  float y = 0;
#pragma unroll 4
  for (int i = 0; i < lanes; ++i) {
    all += totals[i];
    y += reinterpret_cast<const float*>(outs[i])[thread];
  }
  args.y[t * args.y_stride + at] =
      static_cast<uint16_t>(device::half_pair(args.y_type != 0, finished(y, all, gate), 0.0F));
}

WEIR_KERNEL_BOUNDED(weir_paged_merge_segments, GpuPagedAttentionArgs, kMergeWarps* device::kWarp, 3) {
  static_assert(kMergeLanes == device::kWarp, "a lane of the order is a lane of the warp");
  constexpr int kAhead = 8;  // segments under way
  const int unit = static_cast<int>(blockIdx.x) * kMergeWarps + device::warp();
  const int head = unit / 2 % args.heads;
  const int index = unit / 2 / args.heads;
  const int column = unit % 2 * device::kWarp + device::lane();  // of four values
  device::wait_for_previous();
  device::start_next();
  if (index >= args.count) return;
  const int64_t t = step_row(args, index);
  const int segments = (pages_of(args.rows[t]) + kPagedSegmentPages - 1) / kPagedSegmentPages;
  if (segments == 0) return;
  const float2* state = partial_state(args, index, head);
  const auto* out = reinterpret_cast<const float4*>(partial_out(args, index, head, 0)) + column;
  float largest = -INFINITY;
  for (int i = device::lane(); i < segments; i += kMergeLanes) largest = fmaxf(largest, state[i].x);
  largest = device::warp_max(largest);
  float weight = 0;  // of the first segment of this lane
  float own = 0;
  for (int i = device::lane(); i < segments; i += kMergeLanes) {
    const float2 s = state[i];
    const float w = weight_of(s.x, largest);
    if (i == device::lane()) weight = w;
    own = fmaf(s.y, w, own);
  }
  float all = 0;
  float4 y = {0, 0, 0, 0};
  for (int first = 0; first < min(segments, kMergeLanes); first += kAhead) {
    float4 ahead[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) ahead[i] = first + i < segments ? out[(first + i) * (kE / 4)] : float4{0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      float4 sum = weighed(ahead[i], __shfl_sync(device::kAllLanes, weight, first + i), {0, 0, 0, 0});
#pragma unroll 1
      for (int s = first + i + kMergeLanes; s < segments; s += kMergeLanes) {
        sum = weighed(out[s * (kE / 4)], weight_of(state[s].x, largest), sum);
      }
      all += __shfl_sync(device::kAllLanes, own, first + i);
      y = {y.x + sum.x, y.y + sum.y, y.z + sum.z, y.w + sum.w};
    }
  }
  const int64_t at = int64_t{head} * kE + 4 * column;
  const float4 gate = *reinterpret_cast<const float4*>(args.qg + t * args.qg_stride + at + int64_t{head + 1} * kE);
  *reinterpret_cast<uint2*>(args.y + t * args.y_stride + at) = finished_columns(args, y, all, gate);
}

}  // namespace weir
