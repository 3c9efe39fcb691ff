// Rows of the embedding table as float32: y[t] = W[ids[t]]. Exact.
#pragma once

#include <cstdint>
#include <span>

#include "ops/cpu/cpu.h"
#include "ops/linear/linear.h"
#include "tensor/dtype.h"

namespace weir {

// From the packed table (tied models keep one copy for the head and the embedding). y[T, K]. Programmer error: an id
// outside [0, N).
void embed(Cpu& cpu, const PackedMatrix& table, std::span<const int32_t> ids, float* y, int64_t y_stride);
// From the stored table.
void embed(Cpu& cpu, const WeightMatrix& table, std::span<const int32_t> ids, float* y, int64_t y_stride);

}  // namespace weir
