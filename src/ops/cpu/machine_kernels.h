#pragma once

#include <cstddef>
#include <cstdint>

namespace weir {

// Reads [data, data + bytes), bytes a multiple of 256; *sink keeps the compiler from dropping it.
struct ReadBytes {
  const std::byte* data = nullptr;
  int64_t bytes = 0;
  float* sink = nullptr;  // [16]
};

// `rounds` times kMultiplyAddsPerRound * 16 independent multiply-adds.
inline constexpr int64_t kMultiplyAddsPerRound = 12 * 8;
struct MultiplyAdds {
  int64_t rounds = 0;
  float* sink = nullptr;  // [16]
};

}  // namespace weir
