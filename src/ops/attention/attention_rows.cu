// Attention of generated rows over paged keys and values: bound by reading each page once. A block takes one row, one
// key head and a segment of eight pages or, of few rows, single pages a stride apart. Blocks of a segment follow each
// other, so that those that find nothing to do, behind every row's last page, come last: the device deals blocks out in
// turn, and would give some multiprocessors several of the others and some none. A page's 64 KiB of keys and
// values come by the copy engine, older tokens of the first before the kernels before have ended; three blocks run on a
// multiprocessor, and while the scores of a page become weights the keys of the next are under way. Pages of a segment
// are joined in ascending order, here or by the merge, so bits depend on position and context alone.
#include "ops/attention/attention_pages.h"

namespace weir {
namespace {

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

template <class Tile>
WEIR_DEVICE void keep_part(const Reader<Tile>& r, int slot, const Part& part) {
  const int index = static_cast<int>(blockIdx.y);
  const int column = device::warp() * 64 + device::lane() % 4 * 2;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int of = half * 8 + device::lane() / 4;
    if (of >= r.group) continue;
    const int head = r.kv * r.group + of;
    float* out = partial_out(r.args, index, head, slot) + column;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      *reinterpret_cast<float2*>(out + n * 8) = {part.out[n][2 * half], part.out[n][2 * half + 1]};
    }
    if (column == 0) partial_state(r.args, index, head)[slot] = {part.row[half].largest, part.row[half].total};
  }
}

template <class Tile>
WEIR_DEVICE void attend_rows(const GpuPagedAttentionArgs& args, uint8_t* memory) {
  RowShared<Tile>& shared = *reinterpret_cast<RowShared<Tile>*>(memory);
  const Reader<Tile> r(args, shared, blockIdx.y, blockIdx.x);
  const bool spread = args.spread != 0;
  const int block = static_cast<int>(blockIdx.z);
  const int first = spread ? block : block * kPagedSegmentPages;
  const int step = spread ? static_cast<int>(gridDim.z) : 1;
  const int end = spread ? r.pages : min(r.pages, first + kPagedSegmentPages);
  if (first >= end) {
    // One block of a row waits, so that this kernel does not end before the ones before it.
    if (block == 0) device::wait_for_previous();
    return;
  }
  start_page(r, first);
  device::wait_for_previous();
  device::start_next();
  take_queries(r, first);

  Part total;
  uint32_t phase = 0;
  for (int page = first; page < end; page += step, phase ^= 1U) {
    const int next = page + step < end ? page + step : r.pages;
    Part part;
    attend_page(r, page, next, phase, part);
    if (spread || page == first) {
      total = part;
    } else {
      join_parts(total, part);
    }
    if (spread) keep_part(r, page, total);
    if (next == r.pages) break;
    __syncthreads();
    clear_behind<Tile>(shared.v, r.tokens(next));
    if (threadIdx.x == 0) r.bring_v(next);
  }
  if (spread) return;
  if (args.slots == 0) {
    finish_parts(r, total);
  } else {
    keep_part(r, block, total);
  }
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_paged_rows, GpuPagedAttentionArgs, kRowThreads, 3) {
  extern __shared__ __align__(128) uint8_t memory[];
  attend_rows<Bf16Tile>(args, memory);
}

WEIR_KERNEL_BOUNDED(weir_paged_rows_fp8, GpuPagedAttentionArgs, kRowThreads, 4) {
  extern __shared__ __align__(128) uint8_t memory[];
  attend_rows<Fp8Tile>(args, memory);
}

}  // namespace weir
