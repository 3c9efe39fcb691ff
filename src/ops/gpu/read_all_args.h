// Arguments of the kernel that reads memory and does nothing else.
#pragma once

#include <cstdint>

namespace weir {

inline constexpr int32_t kReadThreads = 512;
inline constexpr int32_t kReadLoads = 8;  // of 16 bytes in flight a thread
// Bytes of one block's pass; `bytes` is a multiple of it.
inline constexpr int64_t kReadTile = int64_t{kReadThreads} * kReadLoads * 16;

struct GpuReadArgs {
  const uint8_t* data = nullptr;
  int64_t bytes = 0;
  uint32_t* sink = nullptr;
};

}  // namespace weir
