#include "ops/gpu/read_all.h"

#include <algorithm>

#include "ops/gpu/read_all_args.h"

namespace weir {

void read_all(Gpu gpu, const std::byte* data, int64_t bytes) {
  GpuReadArgs args;
  args.data = reinterpret_cast<const uint8_t*>(data);
  args.bytes = bytes / kReadTile * kReadTile;
  args.sink = reinterpret_cast<uint32_t*>(const_cast<std::byte*>(data));
  device::Grid grid;
  grid.x = 2 * int64_t{gpu.device->info().multiprocessors};
  grid.threads = kReadThreads;
  gpu.launch("weir_read_all", grid, args);
}

Result<GpuReadRate> measure_read_rate(Gpu gpu) {
  constexpr int64_t kWanted = int64_t{8} << 30;
  constexpr int64_t kLeast = int64_t{256} << 20;  // several times any second-level cache
  constexpr int64_t kLeft = int64_t{1} << 30;
  constexpr int kPasses = 5;
  const int64_t bytes = std::clamp(gpu.device->free_bytes() - kLeft, kLeast, kWanted) / kReadTile * kReadTile;
  WEIR_ASSIGN_OR_RETURN(const device::Bytes memory,
                        gpu.device->allocate(bytes, "memory to read", "free memory on the GPU"));
  gpu.stream->zero(memory.data(), bytes);
  device::Event begin = gpu.device->event();
  device::Event end = gpu.device->event();
  GpuReadRate rate;
  rate.set_bytes = bytes;
  const int64_t times = (kWanted + bytes - 1) / bytes;
  for (int pass = 0; pass < kPasses; ++pass) {
    gpu.stream->record(&begin);
    for (int64_t i = 0; i < times; ++i) read_all(gpu, memory.data(), bytes);
    gpu.stream->record(&end);
    WEIR_RETURN_IF_ERROR(end.wait());
    rate.gbs = std::max(rate.gbs, static_cast<double>(times * bytes) / end.micros_since(begin) / 1e3);
    rate.read_bytes += times * bytes;
  }
  return rate;
}

}  // namespace weir
