// The elementary functions and decoders of vec.h and vec_math.h, one instruction set at a time, for the tests.
#pragma once

#include <cstddef>
#include <cstdint>

namespace weir {

enum class MathFunction : uint8_t { kExp, kLog, kSoftplus, kSigmoid, kSilu };

// y[i] = function(x[i]), count a multiple of 16.
struct MathWork {
  MathFunction function = MathFunction::kExp;
  const float* x = nullptr;
  float* y = nullptr;
  int64_t count = 0;
};

// All 256 codes of e4m3 (times 2^-8), in groups of 64 bytes as a tile holds them; all 16 of E2M1 as low and high
// nibbles; all 256 of E8M0.
struct DecodeWork {
  const std::byte* codes = nullptr;  // [256]
  float* fp8 = nullptr;              // [256]: four vectors a group
  float* e2m1_low = nullptr;         // [256]
  float* e2m1_high = nullptr;        // [256]
  float* e8m0 = nullptr;             // [256]
};

#define WEIR_DECLARE_TEST_KERNELS(isa)       \
  namespace isa {                            \
  void math_function(const MathWork& work);  \
  void decode_codes(const DecodeWork& work); \
  }

WEIR_DECLARE_TEST_KERNELS(scalar)
WEIR_DECLARE_TEST_KERNELS(avx2)
WEIR_DECLARE_TEST_KERNELS(avx512)

}  // namespace weir
