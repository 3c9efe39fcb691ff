#include "ops/embed/embed_gpu.h"

#include "base/check.h"

namespace weir {

void embed(Gpu& gpu, const GpuEmbedArgs& args, int64_t tokens) {
  WEIR_CHECK(args.table.format == kGpuBf16 || args.table.format == kGpuF32, "an embedding table of format {}",
             args.table.format);
  if (tokens == 0) return;
  device::Grid grid;
  grid.x = tokens;
  grid.threads = 256;
  grid.overlap = true;
  gpu.launch("weir_embed", grid, args);
}

}  // namespace weir
