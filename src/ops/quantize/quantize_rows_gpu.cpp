#include "ops/quantize/quantize_rows_gpu.h"

#include "base/check.h"

namespace weir {

void quantize_rows(Gpu& gpu, const GpuQuantizeRowsArgs& args) {
  WEIR_CHECK((args.x_f16 != nullptr) != (args.x_bf16 != nullptr), "rows of one type are quantised");
  WEIR_CHECK(args.size > 0 && args.size % kBlockK == 0 && args.x_stride % 8 == 0 && args.scale_stride >= args.rows,
             "{} rows of {}, {} apart, scales {} apart", args.rows, args.size, args.x_stride, args.scale_stride);
  if (args.rows == 0) return;
  constexpr int64_t kWarps = kQuantizeThreads / 32;
  const int64_t turns = int64_t{args.rows} * ((args.size + kQuantizeChunk - 1) / kQuantizeChunk);
  device::Grid grid;
  grid.x = (turns + kWarps - 1) / kWarps;
  grid.threads = kQuantizeThreads;
  grid.overlap = true;
  gpu.launch(args.x_f16 != nullptr ? "weir_quantize_rows_f16" : "weir_quantize_rows_bf16", grid, args);
}

}  // namespace weir
