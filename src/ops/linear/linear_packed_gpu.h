// Products of few rows with packed weights on a GPU, and packing.
#pragma once

#include "ops/gpu/gpu.h"
#include "ops/linear/linear_packed_args.h"

namespace weir {

// The shape of W[n, k] packed, without memory. k must be a multiple of 64.
GpuPacked packed_shape(int64_t n, int64_t k, int32_t format);
// Bytes of its strips; floats of its scales with what copies read behind them (0: it has none).
int64_t packed_data_bytes(const GpuPacked& shape);
int64_t packed_scale_floats(const GpuPacked& shape);

// `target` as packed_shape() gives it, with memory for what its format has. Programmer error: other shapes.
void pack(Gpu& gpu, const GpuPackArgs& args);

// Rows of one call; more take several.
inline constexpr int64_t kPackedRowsMax = 65'536;

// y_i = rows W_i^T and what the kinds say. Overlaps with the kernel before it. Bound by one read of the weights per 16
// rows (8 where K is over 4,096).
void linear_packed(Gpu& gpu, GpuPackedLinearArgs args);

}  // namespace weir
