#include "ops/moe/feed_forward.h"

#include <algorithm>

#include "ops/cpu/kernel_table.h"
#include "ops/linear/tiles.h"

namespace weir {
namespace {

constexpr int64_t kFloat = sizeof(float);

int64_t panels(const PackedMatrix& matrix) {
  return (matrix.tiles() + kPanelTiles - 1) / kPanelTiles;
}

class FeedForward {
 public:
  FeedForward(Cpu& cpu, const FeedForwardSlice& slice, Cpu::Frame& frame) : cpu_(cpu), s_(slice) {
    hidden_ = frame.take<float>(s_.assignments * s_.width);
    up_ = frame.take<float>(s_.assignments * s_.width);
    hidden_rows_ = frame.take<const float*>(s_.assignments);
    scratch_ = frame.take<float>(cpu.threads() * kLinearTaskScratch);
    parts_ = frame.take<float>(cpu.threads() * s_.assignments * kPanelColumns);
    part_rows_ = frame.take<const float*>(cpu.threads() * s_.slots);
    for (int64_t i = 0; i < s_.assignments; ++i) hidden_rows_[i] = hidden_ + i * s_.width;
  }

  void run() {
    int64_t tasks = 0;
    for (int64_t i = 0; i < s_.job_count; ++i) {
      s_.jobs[i].first_task = tasks;
      tasks += panels(s_.jobs[i].expert->gate);
    }
    cpu_.pool().parallel_for(tasks, [this](int64_t task, int thread) { gate_and_up(task, thread); });
    cpu_.pool().parallel_for(panels(s_.jobs[0].expert->down),
                             [this](int64_t panel, int thread) { down_and_combine(panel, thread); });
  }

 private:
  LinearTask linear(const PackedMatrix& weight, const ExpertJob& job, int64_t panel, int thread) const {
    LinearTask task;
    task.weight = weight_tiles(weight);
    task.tile_begin = panel * kPanelTiles;
    task.tile_end = std::min(weight.tiles(), task.tile_begin + kPanelTiles);
    task.rows = job.count;
    task.scratch = scratch_ + thread * kLinearTaskScratch;
    return task;
  }

  // Columns of one panel of SiLU(gate x) * up x for one expert's rows.
  void gate_and_up(int64_t task, int thread) {
    const ExpertJob* job = std::upper_bound(s_.jobs, s_.jobs + s_.job_count, task,
                                            [](int64_t t, const ExpertJob& j) { return t < j.first_task; }) -
                           1;
    const int64_t panel = task - job->first_task;
    const int64_t at = job->first * s_.width + panel * kPanelColumns;
    LinearTask gate = linear(job->expert->gate, *job, panel, thread);
    gate.x = s_.inputs + job->first;
    gate.y = hidden_ + at;
    gate.y_stride = s_.width;
    cpu_.kernels().linear_task(gate);
    LinearTask up = linear(job->expert->up, *job, panel, thread);
    up.x = gate.x;
    up.y = up_ + at;
    up.y_stride = s_.width;
    cpu_.kernels().linear_task(up);
    SiluMul act;
    act.rows = job->count;
    act.columns = std::min(kPanelColumns, job->expert->gate.n() - panel * kPanelColumns);
    act.gate = hidden_ + at;
    act.up = up_ + at;
    act.out = hidden_ + at;
    act.stride = s_.width;
    cpu_.kernels().silu_mul(act);
  }

  // Columns of one panel of the output: every expert's part, then every row's sum.
  void down_and_combine(int64_t panel, int thread) {
    float* parts = parts_ + thread * s_.assignments * kPanelColumns;
    for (int64_t i = 0; i < s_.job_count; ++i) {
      const ExpertJob& job = s_.jobs[i];
      LinearTask down = linear(job.expert->down, job, panel, thread);
      down.x = hidden_rows_ + job.first;
      down.y = parts + job.first * kPanelColumns;
      down.y_stride = kPanelColumns;
      cpu_.kernels().linear_task(down);
    }
    const float** rows = part_rows_ + thread * s_.slots;
    Combine sum;
    sum.columns = std::min(kPanelColumns, s_.jobs[0].expert->down.n() - panel * kPanelColumns);
    sum.parts_count = s_.slots;
    sum.parts = rows;
    sum.add = s_.args.add;
    for (int64_t row = 0; row < s_.args.rows; ++row) {
      for (int64_t p = 0; p < s_.slots; ++p) rows[p] = parts + s_.places[row * s_.slots + p] * kPanelColumns;
      sum.weights = s_.part_weights + row * s_.slots;
      sum.y = s_.args.y + row * s_.args.y_stride + panel * kPanelColumns;
      cpu_.kernels().combine(sum);
    }
  }

  Cpu& cpu_;
  const FeedForwardSlice& s_;
  float* hidden_ = nullptr;
  float* up_ = nullptr;
  const float** hidden_rows_ = nullptr;
  float* scratch_ = nullptr;
  float* parts_ = nullptr;
  const float** part_rows_ = nullptr;
};

}  // namespace

int64_t feed_forward_scratch_bytes(int64_t width, int64_t assignments, int64_t slots, int threads) {
  constexpr int64_t kBlocks = 6;  // take() calls, each rounded up to a cache line
  return 2 * assignments * width * kFloat + assignments * 8 +
         threads * (kLinearTaskScratch * kFloat + assignments * kPanelColumns * kFloat + slots * 8) +
         kBlocks * kCacheLine;
}

void feed_forward(Cpu& cpu, const FeedForwardSlice& slice) {
  Cpu::Frame frame(cpu);
  FeedForward(cpu, slice, frame).run();
}

}  // namespace weir
