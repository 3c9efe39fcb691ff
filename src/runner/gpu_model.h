// A model on a GPU.
#pragma once

#include <memory>

#include "runner/gpu_executor.h"
#include "runner/model.h"

namespace weir {

struct GpuModel final : Model {
  std::unique_ptr<device::Device> device;
  device::Stream stream;
  GpuWeights weights;
  GpuRope rope;

  // Copies `weights` (which may be released afterwards) to a device opened with gpu_kernel_images(). `positions`: the
  // longest context that will be run; `host` are the host's threads. kTooLarge: too little memory.
  static Result<std::unique_ptr<GpuModel>> create(std::unique_ptr<device::Device> device, const ModelConfig& config,
                                                  const ModelWeights& weights, const CpuOptions& host,
                                                  int64_t positions);

  bool has_draft_head() const override { return weights.has_draft_head(); }
  std::string device_text() const override {
    return fmt::format("GPU {}, {}", device->info().index, device->info().name);
  }
  int64_t weight_bytes() const override { return weights.bytes(); }
  Result<std::unique_ptr<Caches>> make_caches(const CacheLayout& layout, const std::vector<int32_t>& pages,
                                              int32_t slots) override;
  Result<std::unique_ptr<Executor>> make_executor(const Program& program, Caches* caches,
                                                  const ExecutorLimits& limits) override;
};

}  // namespace weir
