// Arguments of the products of at most eight rows, or of some more, with packed FP8 and BF16 weights.
#pragma once

#include <cstdint>

#include "ops/linear/linear_packed_args.h"

namespace weir {

inline constexpr int32_t kFewRows = 8;
inline constexpr int32_t kLinearSomeRows = 32;  // of linear_some()

// Sizes that host and kernels share.
inline constexpr int32_t kFewWarps = 8;  // that multiply
inline constexpr int32_t kFewThreads = (kFewWarps + 1) * 32;
inline constexpr int32_t kFewUnitBytes = 2 * packed_tile_bytes(kGpuFp8Block);

// Barriers of a block of these kernels: at most 32 slots of the ring, twice, one for rows on their way, one for rows
// that are there.
inline constexpr int32_t kFewBarriers = 66;

// As GpuPackedLinearArgs; the FP8 outputs, where there are any, come first, and each one's strips and scales lie behind
// those of the one before it. Normed rows are written in types that outputs take alone.
struct GpuFewArgs {
  GpuPackedOutput outputs[kGpuLinearGroupMax];
  const uint8_t* weights = nullptr;  // of the FP8 outputs, or of linear_some()'s; filled in, as the next
  const float* scales = nullptr;
  const float* x = nullptr;          // with `norm`
  const uint16_t* x_f16 = nullptr;   // without: the rows that FP8 outputs take
  const uint16_t* x_bf16 = nullptr;  // and those of BF16 ones
  const int32_t* x_rows = nullptr;
  const float* norm = nullptr;
  uint16_t* x_out_bf16 = nullptr;
  uint16_t* x_out_f16 = nullptr;
  float* normed_out = nullptr;  // of head_few(): the normed rows, [rows][K]; may be null
  int64_t x_stride = 0;
  int32_t rows = 0;
  int32_t count = 0;
  int32_t fp8_count = 0;   // of outputs
  int32_t fp8_strips = 0;  // of all of them; filled in, as the next
  int32_t bf16_strips = 0;
  int32_t strips_max = 0;  // of a block, of both kinds together
  int32_t fp8_blocks = 0;  // blocks that take FP8 strips; the others take BF16 ones
  int32_t ring_bytes = 0;  // of the weights on their way
  int32_t under_way = 0;   // chunks of eight units at a time; the last that is filled in
  int32_t k = 0;           // 128 times a power of two
  float eps = 1e-6F;
};

}  // namespace weir
