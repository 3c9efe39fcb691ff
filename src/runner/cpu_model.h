// A model on the CPU.
#pragma once

#include <memory>

#include "runner/cpu_weights.h"
#include "runner/model.h"

namespace weir {

struct CpuModel final : Model {
  CpuWeights weights;
  RopeTable rope;

  // Packs `weights` (which may be released afterwards). `positions`: the longest context that will be run.
  static std::unique_ptr<CpuModel> create(const ModelConfig& config, const ModelWeights& weights,
                                          const CpuOptions& options, int64_t positions);

  bool has_draft_head() const override { return weights.has_draft_head(); }
  std::string device_text() const override {
    return fmt::format("CPU, {} threads, {}", cpu->threads(), isa_name(cpu->isa()));
  }
  int64_t weight_bytes() const override { return weights.bytes(); }
  CacheSizes cache_sizes() const override { return cpu_cache_sizes(config); }
  Result<std::unique_ptr<Caches>> make_caches(const CacheLayout& layout, const std::vector<int32_t>& pages,
                                              int32_t slots) override;
  Result<std::unique_ptr<Executor>> make_executor(const Program& program, Caches* caches,
                                                  const ExecutorLimits& limits) override;
};

}  // namespace weir
