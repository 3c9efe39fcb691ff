// Weights in device memory, in their stored format, and the arguments of linear layers; shared by host code and
// kernels.
#pragma once

#include <cstdint>

namespace weir {

// Values of GpuMatrix::format.
enum : int32_t { kGpuF32, kGpuBf16, kGpuFp8Block, kGpuFp8Row, kGpuMxfp4 };

// W[N, K], row-major. Rows begin at multiples of 16 bytes with zeros behind K, so that 16-byte loads never leave them.
// Scales are float32: kGpuFp8Block [ceil(N/128)][ceil(K/128)], kGpuFp8Row [N]; kGpuMxfp4: E8M0 bytes [N][K/32].
struct GpuMatrix {
  const uint8_t* data = nullptr;
  const uint8_t* scales = nullptr;
  int64_t row_bytes = 0;
  int64_t scale_stride = 0;  // elements between rows of scales; 0: one scale for all rows
  int32_t n = 0;
  int32_t k = 0;
  int32_t format = kGpuF32;
};

// down(SiLU(gate x) * up x).
struct GpuMlp {
  GpuMatrix gate;
  GpuMatrix up;
  GpuMatrix down;
};

inline constexpr int32_t kGpuLinearGroupMax = 4;

// Up to four matrices of the same K over the same rows in one launch: x[rows, K], y_i[rows, N_i], strides in floats;
// y_i += x W_i^T with `add`.
struct GpuLinearArgs {
  struct Output {
    GpuMatrix weight;
    float* y = nullptr;
    int64_t y_stride = 0;
    int32_t add = 0;
    int32_t block_end = 0;  // the first block behind this output's; filled in by linear()
  };
  Output outputs[kGpuLinearGroupMax];
  const float* x = nullptr;
  int64_t x_stride = 0;
  int64_t rows = 0;
  int32_t count = 0;
};

}  // namespace weir
