// Which device the tests of whole models run on: WEIR_TEST_DEVICE=cuda[:N], or the CPU.
#pragma once

#include <cstdlib>
#include <memory>
#include <string>

#include "runner/cpu_model.h"
#include "runner/gpu_model.h"

namespace weir {

inline Result<std::unique_ptr<Model>> make_test_model(const ModelConfig& config, const ModelWeights& weights,
                                                      int64_t positions) {
  CpuOptions options;
  options.threads = 2;
  const char* device = std::getenv("WEIR_TEST_DEVICE");
  const std::string name = device == nullptr ? "cpu" : device;
  if (name.starts_with("cuda")) {
    const int index = name.size() > 5 ? std::atoi(name.c_str() + 5) : 0;
    WEIR_ASSIGN_OR_RETURN(auto opened, device::Device::open(index, gpu_kernel_images()));
    WEIR_ASSIGN_OR_RETURN(auto model, GpuModel::create(std::move(opened), config, weights, options, positions));
    return std::unique_ptr<Model>(std::move(model));
  }
  return std::unique_ptr<Model>(CpuModel::create(config, weights, options, positions));
}

}  // namespace weir
