#include "runner/cpu_model.h"

#include <algorithm>
#include <utility>

#include "runner/cpu_caches.h"
#include "runner/cpu_executor.h"

namespace weir {

int64_t work_bytes(const ModelConfig& config, const Program& program, int64_t rows) {
  int64_t bytes = attention_scratch_bytes(attention_shape(config), rows, 1);
  for (const BufferSpec& spec : program.buffers) {
    const int64_t count = spec.space == RowSpace::kStep ? rows : std::min(rows, kHeadBlockRows);
    bytes += count * spec.width * static_cast<int64_t>(sizeof(float));
  }
  return bytes;
}

std::unique_ptr<CpuModel> CpuModel::create(const ModelConfig& config, const ModelWeights& weights,
                                           const CpuOptions& options, int64_t positions) {
  auto model = std::make_unique<CpuModel>();
  model->config = config;
  model->cpu = std::make_unique<Cpu>(options);
  model->weights = CpuWeights::pack(config, weights, *model->cpu);
  model->rope = RopeTable(config.rope_dims, config.rope_theta, positions);
  if (weights.mtp) model->draft_ids = weights.mtp->head_ids;
  model->program = make_main_program(config, cpu_cache_sizes(config));
  return model;
}

Result<std::unique_ptr<Caches>> CpuModel::make_caches(const CacheLayout& layout, const std::vector<int32_t>& pages,
                                                      int32_t slots) {
  WEIR_ASSIGN_OR_RETURN(CpuCaches caches, CpuCaches::create(config, layout, pages, slots));
  return std::unique_ptr<Caches>(new CpuCaches(std::move(caches)));
}

Result<std::unique_ptr<Executor>> CpuModel::make_executor(const Program& of, Caches*, const ExecutorLimits& limits) {
  return std::unique_ptr<Executor>(new CpuExecutor(of, config, weights, rope, *cpu, limits.rows));
}

}  // namespace weir
