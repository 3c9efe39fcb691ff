#include "ops/gpu/gpu.h"

namespace weir {

std::span<const device::KernelImage> gpu_kernel_images() {
  return {};
}

}  // namespace weir
