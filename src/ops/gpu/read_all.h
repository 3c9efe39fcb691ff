// What a GPU's memory gives to a kernel that only reads: the denominator of every "percent of the floor".
#pragma once

#include "ops/gpu/gpu.h"

namespace weir {

// Reads `bytes` (rounded down to a multiple of 64 KiB) from `data` once.
void read_all(Gpu gpu, const std::byte* data, int64_t bytes);

struct GpuReadRate {
  double gbs = 0;         // 1e9 bytes a second
  int64_t set_bytes = 0;  // of memory that was read, again and again
  int64_t read_bytes = 0;
};

// The best of several passes over 8 GiB, or as much as is free beside 1 GiB (read more often, then). Milliseconds.
// kTooLarge: less than 256 MiB are free.
Result<GpuReadRate> measure_read_rate(Gpu gpu);

}  // namespace weir
