// A block per row.
#include "device/kernel.h"
#include "ops/norm/gpu_args.h"

namespace weir {

inline constexpr int kThreads = 256;

WEIR_KERNEL_BOUNDED(weir_rms_norm, GpuRmsNormArgs, kThreads, 1) {
  __shared__ float scratch[kThreads / device::kWarp];
  const int64_t row = blockIdx.x;
  const float* x = args.x + (args.x_rows == nullptr ? row : args.x_rows[row]) * args.x_stride;
  float sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < args.size; i += kThreads) sum = fmaf(x[i], x[i], sum);
  sum = device::block_sum<kThreads>(sum, scratch);
  const float scale = 1.0F / sqrtf(sum / static_cast<float>(args.size) + args.eps);
  float* y = args.y + row * args.y_stride;
  for (int i = static_cast<int>(threadIdx.x); i < args.size; i += kThreads) {
    y[i] = (1.0F + args.weight[i]) * (x[i] * scale);
  }
}

}  // namespace weir
