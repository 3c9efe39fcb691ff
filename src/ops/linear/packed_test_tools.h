// For tests of packed weights: random matrices in stored form, their values as bf16 numbers with scales apart, and the
// contract of packed.h in float64.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ops/gpu/gpu_test.h"
#include "ops/linear/linear_packed_gpu.h"

namespace weir {

// W[n, k] in a stored format and, element by element, what it stands for.
struct TestMatrix {
  int64_t n = 0;
  int64_t k = 0;
  int32_t format = kGpuBf16;
  std::vector<uint8_t> data;    // rows as stored
  std::vector<uint8_t> scales;  // as stored, float32 or E8M0
  std::vector<double> values;   // [n][k], scales included

  int64_t row_bytes() const;
};
TestMatrix random_matrix(int64_t n, int64_t k, int32_t format, uint64_t seed);

// The matrix on the device, packed; with `second`, interleaved as gate and up. Keeps the memory.
struct PackedOnDevice {
  OnDevice<uint8_t> data;
  OnDevice<float> scales;
  GpuPacked packed;
};
PackedOnDevice pack_on_device(Gpu gpu, const TestMatrix& matrix, const TestMatrix* second = nullptr);

// Values rounded to an operand type, and what the bits stand for.
std::vector<uint16_t> to_operand(const std::vector<float>& x, int32_t type);
std::vector<float> from_operand(const std::vector<uint16_t>& bits, int32_t type);
inline std::vector<float> rounded(const std::vector<float>& x, int32_t type) {
  return from_operand(to_operand(x, type), type);
}

// x[rows][k] W^T, row-major [rows][n].
std::vector<float> reference_product(const std::vector<float>& x, const TestMatrix& w);

}  // namespace weir
