// Around the draft head's passes: which drafts of a step held, what its rows are fed with, and the hidden rows that the
// next step goes on from. A few rows each: bound by latency. Each waits before it reads
// anything.
#include "device/async.h"
#include "device/kernel.h"
#include "ops/draft/draft_args.h"
#include "ops/sample/pinned_acceptance.h"

namespace weir {

// One block. A draft holds if it is the token that was sampled before it, or by chance where acceptance is pinned.
WEIR_KERNEL(weir_draft_accept, GpuDraftArgs) {
  device::wait_for_previous();
  device::start_next();
  const int thread = static_cast<int>(threadIdx.x);
  const int threads = static_cast<int>(blockDim.x);
  for (int i = thread; i < args.sampled; i += threads) args.clean[i] = max(args.tokens[i], 0);
  __syncthreads();
  for (int s = thread; s < args.count; s += threads) {
    const GpuDraftSequence own = args.sequences[s];
    int last = own.last >= 0 ? own.last : own.known;  // position of the token sampled last
    bool goes_on = own.last >= 0 && own.last < own.covered;
    if (own.sampled >= 0) {
      const int32_t* token = args.tokens + own.sampled;
      const int32_t* draft = args.ids + own.row_begin - own.position;
      const int end = own.position + own.rows;
      while (last < end && *token >= 0) {
        if (args.pinned < 0 ? *token != draft[last]
                            : !pinned_accepts(args.sample[s].seed, last, static_cast<uint64_t>(args.pinned))) {
          break;
        }
        if (args.pinned >= 0) args.clean[token - args.tokens] = draft[last];
        ++token;
        ++last;
      }
      goes_on = *token >= 0 && last < own.covered;
    }
    args.chosen[s] = own.pass_row + (goes_on ? last - own.first : 0);
    for (int pass = 0; pass < args.passes; ++pass) {
      const int index = pass * args.count + s;
      args.chain_rows[index] = {s, goes_on && last + pass < own.covered ? last + pass : -1};
      GpuSampleRow row = args.sample[s];
      row.position = last + 1 + pass;
      row.row = goes_on ? s : -1;
      if (row.position >= own.banned_end) row.banned_count = 0;
      args.pass_sample[index] = row;
      if (!goes_on) args.drafts[index] = -1;
    }
  }
}

// A block per row of the pass.
WEIR_KERNEL(weir_draft_gather, GpuDraftArgs) {
  device::wait_for_previous();
  device::start_next();
  const GpuRow row = args.pass_rows[blockIdx.x];
  const GpuDraftSequence& own = args.sequences[row.sequence];
  const int before = row.position - 1;
  const float* from = before >= own.position ? args.normed + int64_t{own.row_begin + before - own.position} * args.width
                                             : own.ring + int64_t{before % args.slots} * args.width;
  float* to = args.hidden + int64_t{blockIdx.x} * args.width;
  for (int i = static_cast<int>(threadIdx.x); i < args.width / 4; i += static_cast<int>(blockDim.x)) {
    reinterpret_cast<float4*>(to)[i] = reinterpret_cast<const float4*>(from)[i];
  }
}

// A block per sequence and slot of its ring: the step's last rows stay there.
WEIR_KERNEL(weir_draft_keep, GpuDraftArgs) {
  device::wait_for_previous();
  device::start_next();
  const GpuDraftSequence& own = args.sequences[blockIdx.y];
  const int row = own.rows - 1 - static_cast<int>(blockIdx.x);
  if (row < 0) return;
  const float* from = args.normed + int64_t{own.row_begin + row} * args.width;
  float* to = own.ring + int64_t{(own.position + row) % args.slots} * args.width;
  for (int i = static_cast<int>(threadIdx.x); i < args.width / 4; i += static_cast<int>(blockDim.x)) {
    reinterpret_cast<float4*>(to)[i] = reinterpret_cast<const float4*>(from)[i];
  }
}

}  // namespace weir
