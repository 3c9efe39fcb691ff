#include "ops/attention/attention_gpu.h"

#include "base/check.h"

namespace weir {

void attention(Gpu& gpu, const GpuAttentionArgs& args, int64_t rows) {
  WEIR_CHECK(args.head_dim > 0 && args.head_dim <= kGpuHeadDimMax, "heads of {} values, at most {}", args.head_dim,
             kGpuHeadDimMax);
  WEIR_CHECK(args.kv_heads > 0 && args.heads % args.kv_heads == 0, "{} heads over {}", args.heads, args.kv_heads);
  if (rows == 0) return;
  device::Grid grid;
  grid.x = rows;
  grid.threads = 256;
  gpu.launch("weir_attention_prepare", grid, args);
  grid.y = args.heads;
  if (args.partial == nullptr) return gpu.launch("weir_attend", grid, args);
  grid.z = args.segments;
  gpu.launch("weir_attend", grid, args);
  grid.z = 1;
  if (args.segments > 1) gpu.launch("weir_attend_merge", grid, args);
}

}  // namespace weir
