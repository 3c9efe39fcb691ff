// A model on a GPU: by the kernels for packed weights where its shapes fit them, else by the plain ones.
#pragma once

#include <memory>

#include "runner/gpu_executor.h"
#include "runner/model.h"
#include "runner/packed_executor.h"

namespace weir {

// Of one layer, in the layout that the model will take on a GPU.
CacheSizes gpu_cache_sizes(const ModelConfig& config);

// Bytes beside the weights and caches that steps of `rows` tokens of at most `sequences` sequences take, and that
// loading takes.
int64_t gpu_work_bytes(const ModelConfig& config, const Program& program, int64_t rows, int64_t sequences);

// The same of the draft head beside them; `head_rows` as for make_draft_program().
int64_t gpu_draft_bytes(const ModelConfig& config, const RunnerLimits& limits, int64_t head_rows);

struct GpuModel final : Model {
  std::unique_ptr<device::Device> device;
  device::Stream stream;
  bool packed = false;
  PackedWeights packed_weights;  // packed
  GpuWeights weights;            // not packed
  GpuRope rope;

  // Copies `weights` (which may be released afterwards) to a device opened with gpu_kernel_images(). `positions`: the
  // longest context that will be run; `host` are the host's threads. kTooLarge: too little memory.
  static Result<std::unique_ptr<GpuModel>> create(std::unique_ptr<device::Device> device, const ModelConfig& config,
                                                  const ModelWeights& weights, const CpuOptions& host,
                                                  int64_t positions);

  bool has_draft_head() const override { return packed ? packed_weights.has_draft_head() : weights.has_draft_head(); }
  bool can_draft() const override { return packed && has_draft_head(); }
  std::string device_text() const override {
    return fmt::format("GPU {}, {}", device->info().index, device->info().name);
  }
  int64_t weight_bytes() const override { return packed ? packed_weights.bytes() : weights.bytes(); }
  CacheSizes cache_sizes() const override { return gpu_cache_sizes(config); }
  Result<std::unique_ptr<Caches>> make_caches(const CacheLayout& layout, const std::vector<int32_t>& pages,
                                              int32_t slots) override;
  Result<std::unique_ptr<Executor>> make_executor(const Program& program, Caches* caches,
                                                  const ExecutorLimits& limits) override;
  Result<std::unique_ptr<Drafter>> make_drafter(Caches* caches, Executor* main, const RunnerLimits& limits) override;
};

}  // namespace weir
