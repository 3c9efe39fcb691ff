// What every operation on a GPU needs: the device, the stream that it enqueues to, and the kernels of this build.
#pragma once

#include <span>

#include "device/device.h"

namespace weir {

// The compiled kernels of this room; empty in a build without the CUDA toolkit.
std::span<const device::KernelImage> gpu_kernel_images();

struct Gpu {
  device::Device* device = nullptr;
  device::Stream* stream = nullptr;

  template <class Args>
  void launch(std::string_view symbol, const device::Grid& grid, const Args& args) {
    stream->launch(device->kernel(symbol), grid, args);
  }
};

}  // namespace weir
