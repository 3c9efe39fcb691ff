#include "ops/linear/linear.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "ops/cpu/kernel_table.h"
#include "ops/linear/tiles.h"

namespace weir {
namespace {

// Work below this many weight bytes x rows is done by the caller alone: about the cost of waking a spinning worker.
constexpr int64_t kInlineWork = 32 * 1024;
constexpr int64_t kScratchBytes = kLinearTaskScratch * static_cast<int64_t>(sizeof(float));
constexpr int64_t kPointerBytes = kLinearTaskRows * static_cast<int64_t>(sizeof(const float*));

// A task is (matrix, panels of columns, block of rows): first all row blocks of the first panels, so that neighbouring
// tasks read the same weights.
struct Split {
  int64_t row_block = 0;
  int64_t row_blocks = 0;
  int64_t panels_per_task = 0;
  std::array<int64_t, kLinearGroupMax + 1> first_task{};  // of each output
};

Split split_work(const LinearArgs& args, int threads) {
  Split split;
  int64_t panels = 0;
  for (const LinearOutput& out : args.outputs) panels += (out.weight->tiles() + kPanelTiles - 1) / kPanelTiles;
  // Four tasks a thread even out threads that lose their processor for a while.
  const int64_t wanted = 4 * threads;
  split.panels_per_task = std::max<int64_t>(1, threads == 1 ? panels : panels / wanted);
  // Blocks of fewer than 48 rows would decode the weights too often.
  const int64_t blocks_wanted = std::max<int64_t>(1, wanted / std::max<int64_t>(1, panels));
  split.row_block = std::clamp<int64_t>((args.rows + blocks_wanted - 1) / blocks_wanted, 48, kLinearTaskRows);
  split.row_blocks = (args.rows + split.row_block - 1) / split.row_block;
  for (size_t i = 0; i < args.outputs.size(); ++i) {
    const int64_t own = (args.outputs[i].weight->tiles() + kPanelTiles - 1) / kPanelTiles;
    const int64_t groups = (own + split.panels_per_task - 1) / split.panels_per_task;
    split.first_task[i + 1] = split.first_task[i] + groups * split.row_blocks;
  }
  return split;
}

void run_task(const Cpu& cpu, const LinearArgs& args, const Split& split, int64_t task, std::byte* scratch) {
  size_t index = 0;
  while (task >= split.first_task[index + 1]) ++index;
  const LinearOutput& out = args.outputs[index];
  const int64_t local = task - split.first_task[index];
  const int64_t row = local % split.row_blocks * split.row_block;
  const int64_t step = split.panels_per_task * kPanelTiles;
  auto** x = reinterpret_cast<const float**>(scratch + kScratchBytes);
  LinearTask kernel;
  kernel.weight = weight_tiles(*out.weight);
  kernel.tile_begin = local / split.row_blocks * step;
  kernel.tile_end = std::min(out.weight->tiles(), kernel.tile_begin + step);
  kernel.rows = std::min(split.row_block, args.rows - row);
  for (int64_t r = 0; r < kernel.rows; ++r) {
    const int64_t source = args.x_rows == nullptr ? row + r : args.x_rows[row + r];
    x[r] = args.x + source * args.x_stride;
  }
  kernel.x = x;
  kernel.y = out.y + row * out.y_stride + kernel.tile_begin * kTileColumns;
  kernel.y_stride = out.y_stride;
  kernel.add = out.add;
  kernel.scratch = reinterpret_cast<float*>(scratch);
  cpu.kernels().linear_task(kernel);
}

}  // namespace

int64_t linear_scratch_bytes(int threads) {
  return threads * (kScratchBytes + kPointerBytes);
}

void linear_group(Cpu& cpu, const LinearArgs& args) {
  WEIR_CHECK(!args.outputs.empty() && args.outputs.size() <= kLinearGroupMax, "{} matrices", args.outputs.size());
  if (args.rows == 0) return;
  int64_t work = 0;
  for (const LinearOutput& out : args.outputs) {
    WEIR_CHECK(out.weight->k() == args.outputs[0].weight->k(), "K {} beside {}", out.weight->k(),
               args.outputs[0].weight->k());
    work += out.weight->bytes() * args.rows;
  }
  Cpu::Frame frame(cpu);
  auto* scratch = frame.take<std::byte>(linear_scratch_bytes(cpu.threads()));
  const int threads = work <= kInlineWork ? 1 : cpu.threads();
  const Split split = split_work(args, threads);
  const int64_t tasks = split.first_task[args.outputs.size()];
  const auto run = [&](int64_t task, int thread) {
    run_task(cpu, args, split, task, scratch + thread * (kScratchBytes + kPointerBytes));
  };
  if (threads == 1) {
    for (int64_t task = 0; task < tasks; ++task) run(task, 0);
  } else {
    cpu.pool().parallel_for(tasks, run);
  }
}

void linear(Cpu& cpu, const float* x, int64_t x_stride, int64_t rows, const LinearOutput& output) {
  LinearArgs args;
  args.x = x;
  args.x_stride = x_stride;
  args.rows = rows;
  args.outputs = {&output, 1};
  linear_group(cpu, args);
}

}  // namespace weir
