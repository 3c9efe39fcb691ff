// A block per token. Often the kernel behind the one that brings the step's tables: it waits before it reads any, and
// whoever starts behind it finds them there.
#include "device/async.h"
#include "device/kernel.h"
#include "ops/embed/gpu_args.h"

namespace weir {

WEIR_KERNEL(weir_embed, GpuEmbedArgs) {
  device::wait_for_previous();
  device::start_next();
  const int64_t t = blockIdx.x;
  int32_t id = args.ids[t];
  if (id < 0 && args.next_tokens != nullptr) id = args.next_tokens[-1 - id];
  if (id < 0 || id >= args.table.n) {
    if (threadIdx.x == 0) atomicMax(args.fault, static_cast<int32_t>(t) + 1);
    id = 0;
  }
  const uint8_t* row = args.table.data + id * args.table.row_bytes;
  float* y = args.y + t * args.y_stride;
  for (int i = static_cast<int>(threadIdx.x); i < args.table.k; i += static_cast<int>(blockDim.x)) {
    y[i] = args.table.format == kGpuBf16 ? device::bf16(reinterpret_cast<const uint16_t*>(row)[i])
                                         : reinterpret_cast<const float*>(row)[i];
  }
}

}  // namespace weir
