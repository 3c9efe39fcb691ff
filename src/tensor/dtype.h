// Number formats and the views that pass between loading, operations and models.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace weir {

// How elements are stored. Names in comments: the safetensors header's.
enum class DType : uint8_t {
  kF32,     // F32
  kBf16,    // BF16
  kF16,     // F16
  kF8E4M3,  // F8_E4M3 (finite, no infinities, max 448)
  kU8,      // U8: raw bytes; MXFP4 codes and E8M0 scales travel as U8
  kI8,      // I8
  kI32,     // I32
  kI64,     // I64
  kBool,    // BOOL
};

// Bytes of one element.
int64_t dtype_bytes(DType dtype);
// The safetensors spelling, and back.
std::string_view dtype_name(DType dtype);
std::optional<DType> dtype_from_name(std::string_view name);

// How a linear layer's matrix is stored; values are exact in float32 for all of them.
enum class WeightFormat : uint8_t {
  kF32,
  kBf16,
  kFp8Block,  // e4m3 with one scale per 128 x 128 block: w[n,k] = fp8[n,k] * scale[n / 128, k / 128]
  kFp8Row,    // e4m3 with one scale per output row (or one for all rows, scale_stride 0)
  kMxfp4,     // two E2M1 codes a byte (low nibble first), one E8M0 scale per 32 elements of a row
};

std::string_view weight_format_name(WeightFormat format);

inline constexpr int64_t kFp8Block = 128;   // block side of official block-FP8 checkpoints
inline constexpr int64_t kMxfp4Group = 32;  // OCP MX group length along K

// A matrix W[N, K] (out, in), row-major in its stored format; y = x W^T. Borrowed memory.
struct WeightMatrix {
  WeightFormat format = WeightFormat::kF32;
  int64_t n = 0;
  int64_t k = 0;
  const std::byte* data = nullptr;
  int64_t row_bytes = 0;              // distance between rows of `data`
  const std::byte* scales = nullptr;  // kFp8Block: [ceil(N/128), ceil(K/128)]; kFp8Row: [N] or [1]; kMxfp4: [N, K/32]
  DType scale_dtype = DType::kF32;    // kBf16 or kF32; kU8 (E8M0) for MXFP4
  int64_t scale_stride = 0;           // elements between rows of `scales`

  // Bytes that a full read of the matrix moves, scales included.
  int64_t bytes() const;
  // Rows [first, first + count): for kFp8Block `first` must be a multiple of 128.
  WeightMatrix rows(int64_t first, int64_t count) const;
};

// A vector of float32 parameters (norm weights, A_log, dt_bias): converted at load.
struct VectorView {
  const float* data = nullptr;
  int64_t size = 0;
};

}  // namespace weir
