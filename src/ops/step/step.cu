// The first and the last kernel of a step: tables from page-locked memory, and tokens to it. Both are bound by one
// round trip to the host, which is why they are kernels: a copy by the copy engine between kernels costs several. A
// recorded step serves two mailboxes, so the device itself counts the steps that have ended and takes the mailbox of
// that number; the number at the tables' front, which the host wrote, shows that both count alike.
#include "device/async.h"
#include "device/kernel.h"
#include "ops/step/step_args.h"

namespace weir {
namespace {

constexpr int64_t kTile = int64_t{kStepFetchThreads} * kStepFetchLoads * sizeof(uint4);

WEIR_DEVICE int64_t byte_of(int64_t tile, int i) {
  return tile + (int64_t{i} * kStepFetchThreads + threadIdx.x) * static_cast<int64_t>(sizeof(uint4));
}

// Past every cache: the host has written there since it was last read.
WEIR_DEVICE void load(const uint8_t* from, int64_t tile, int64_t end, uint4 (&loaded)[kStepFetchLoads]) {
#pragma unroll
  for (int i = 0; i < kStepFetchLoads; ++i) {
    const int64_t at = byte_of(tile, i);
    if (at < end) loaded[i] = __ldcv(reinterpret_cast<const uint4*>(from + at));
  }
}

}  // namespace

// Launched when all before it has ended, and so it lets the next kernel start at once; that one must wait before it
// reads anything of the tables, and let nobody start before it has waited.
WEIR_KERNEL_BOUNDED(weir_step_fetch, GpuStepFetchArgs, kStepFetchThreads + kStepFetchReaders, 1) {
  __shared__ GpuStepHead head;
  device::start_next();
  const uint32_t number = *args.number;
  const uint8_t* from = number % kStepMailboxes == 0 ? args.from[0] : args.from[1];
  int64_t tile = int64_t{blockIdx.x} * kTile;
  uint4 loaded[kStepFetchLoads];
  bool here = tile < args.ahead;
  const bool copies = threadIdx.x < kStepFetchThreads;
  if (copies && here) load(from, tile, args.bytes_max, loaded);
  if (threadIdx.x == kStepFetchThreads) {
    const uint4 words = __ldcv(reinterpret_cast<const uint4*>(from));
    head = {words.x, words.y, static_cast<int64_t>(uint64_t{words.w} << 32 | words.z)};
  }
  __syncthreads();
  const bool meant = head.number == number;
  if (blockIdx.x == 0 && threadIdx.x == 0) *args.fault = meant ? 0 : kStepFaultTables;
  if (!meant || !copies) return;
  const int64_t bytes = head.bytes < args.bytes_max ? head.bytes : args.bytes_max;
  for (; tile < bytes; tile += gridDim.x * kTile, here = false) {
    if (!here) load(from, tile, bytes, loaded);
#pragma unroll
    for (int i = 0; i < kStepFetchLoads; ++i) {
      const int64_t at = byte_of(tile, i);
      if (at < bytes) *reinterpret_cast<uint4*>(args.to + at) = loaded[i];
    }
  }
}

// One block. The host reads once an event behind this kernel has passed: by then its writes are in host memory.
WEIR_KERNEL(weir_step_report, GpuStepReportArgs) {
  const uint32_t number = *args.number;  // written by the report before, and no kernel between
  int32_t* to = number % kStepMailboxes == 0 ? args.to[0] : args.to[1];
  device::wait_for_previous();
  for (int i = static_cast<int>(threadIdx.x); i <= args.count; i += static_cast<int>(blockDim.x)) {
    to[i] = __ldcg(i == 0 ? args.fault : args.tokens + i - 1);
  }
  __syncthreads();  // all have read the number
  if (threadIdx.x == 0) *args.number = number + 1;
}

}  // namespace weir
