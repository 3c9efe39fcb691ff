#include "ops/norm/rms_norm.h"

#include <algorithm>

#include "base/check.h"
#include "ops/cpu/kernel_table.h"

namespace weir {

void rms_norm(Cpu& cpu, const RmsNormArgs& args) {
  WEIR_CHECK(args.size > 0, "rows of {} values", args.size);
  // A task of 16 K values takes a few microseconds: less is not worth waking a thread.
  const int64_t rows_per_task = std::max<int64_t>(1, 16 * 1024 / args.size);
  const int64_t tasks = (args.rows + rows_per_task - 1) / rows_per_task;
  cpu.pool().parallel_for(tasks, [&](int64_t task, int) {
    RmsNormRows rows;
    rows.x = args.x;
    rows.x_stride = args.x_stride;
    rows.x_rows = args.x_rows;
    rows.row_begin = task * rows_per_task;
    rows.row_end = std::min(args.rows, rows.row_begin + rows_per_task);
    rows.size = args.size;
    rows.weight = args.weight;
    rows.shift = args.zero_centred ? 1.0F : 0.0F;
    rows.eps = args.eps;
    rows.y = args.y;
    rows.y_stride = args.y_stride;
    cpu.kernels().rms_norm_rows(rows);
  });
}

}  // namespace weir
