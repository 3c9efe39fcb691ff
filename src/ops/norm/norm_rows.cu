// Rows for the products with packed weights: a block a row, a warp an eighth of it. Bound by one read and the writes.
#include "device/async.h"
#include "device/mma.h"
#include "ops/norm/norm_rows_args.h"

namespace weir {

inline constexpr int kWarps = 8;

WEIR_KERNEL_BOUNDED(weir_norm_rows, GpuNormRowsArgs, kWarps* device::kWarp, 4) {
  __shared__ float squares[kWarps];
  const int64_t row = blockIdx.x;
  const int warp = device::warp();
  const int eighth = args.size / kWarps / 4;  // in groups of four floats
  device::wait_for_previous();
  device::start_next();
  const int64_t from = args.x_rows == nullptr ? row : args.x_rows[row];
  const auto* x = reinterpret_cast<const float4*>(args.x + from * args.x_stride);
  const int begin = warp * eighth + device::lane();
  const int end = (warp + 1) * eighth;
  float scale = 1;
  if (args.weight != nullptr) {
    float sum = 0;
    for (int i = begin; i < end; i += device::kWarp) {
      const float4 v = x[i];
      sum = fmaf(v.w, v.w, fmaf(v.z, v.z, fmaf(v.y, v.y, fmaf(v.x, v.x, sum))));
    }
    sum = device::warp_sum(sum);
    if (device::lane() == 0) squares[warp] = sum;
    __syncthreads();
    sum = 0;
    for (int i = 0; i < kWarps; ++i) sum += squares[i];
    scale = 1.0F / sqrtf(sum / static_cast<float>(args.size) + args.eps);
  }
  for (int i = begin; i < end; i += device::kWarp) {
    float4 y = x[i];
    if (args.weight != nullptr) {
      const float4 n = reinterpret_cast<const float4*>(args.weight)[i];
      y = {(1.0F + n.x) * (y.x * scale), (1.0F + n.y) * (y.y * scale), (1.0F + n.z) * (y.z * scale),
           (1.0F + n.w) * (y.w * scale)};
    }
    if (args.bf16 != nullptr) {
      reinterpret_cast<uint2*>(args.bf16 + row * args.size)[i] = {device::bf16x2(y.x, y.y), device::bf16x2(y.z, y.w)};
    }
    if (args.f16 != nullptr) {
      reinterpret_cast<uint2*>(args.f16 + row * args.size)[i] = {device::f16x2(y.x, y.y), device::f16x2(y.z, y.w)};
    }
    if (args.y != nullptr) reinterpret_cast<float4*>(args.y + row * args.y_stride)[i] = y;
  }
}

}  // namespace weir
