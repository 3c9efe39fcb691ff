// Reads a range once, each block 64 KiB at a time, blocks side by side; every thread keeps eight loads of 16 bytes in
// flight. Bound by the memory: what it reaches is the rate that floors are computed with. The words are joined and
// would be stored only if they joined to a value that they do not: the loads cannot be left out. No synchronisation.
#include "device/kernel.h"
#include "ops/gpu/read_all_args.h"

WEIR_KERNEL_BOUNDED(weir_read_all, weir::GpuReadArgs, weir::kReadThreads, 2) {
  uint32_t joined = 0;
  const int64_t step = int64_t{gridDim.x} * weir::kReadTile;
  for (int64_t at = int64_t{blockIdx.x} * weir::kReadTile; at < args.bytes; at += step) {
    const auto* words = reinterpret_cast<const uint4*>(args.data + at) + threadIdx.x;
    uint4 loaded[weir::kReadLoads];
#pragma unroll
    for (int i = 0; i < weir::kReadLoads; ++i) loaded[i] = __ldcs(words + i * weir::kReadThreads);
#pragma unroll
    for (const uint4& v : loaded) joined ^= v.x ^ v.y ^ v.z ^ v.w;
  }
  if (joined == 0x9e3779b9U) *args.sink = joined;
}
