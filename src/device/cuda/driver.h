// The CUDA driver API, found in libcuda.so.1 at run time. Only the toolkit's header is needed to build.
#pragma once

#include <cuda.h>

#include "base/result.h"

namespace weir::device {

// clang-format off
#define WEIR_CUDA_FUNCTIONS(X)                                                                                       \
  X(cuInit) X(cuDriverGetVersion) X(cuGetErrorName) X(cuGetErrorString) X(cuDeviceGetCount) X(cuDeviceGet)           \
  X(cuDeviceGetName) X(cuDeviceGetAttribute) X(cuDeviceTotalMem) X(cuDevicePrimaryCtxRetain)                         \
  X(cuDevicePrimaryCtxRelease) X(cuCtxSetCurrent) X(cuMemGetInfo) X(cuMemAlloc) X(cuMemFree) X(cuMemHostAlloc)       \
  X(cuMemFreeHost) X(cuMemcpyHtoDAsync) X(cuMemcpyDtoHAsync) X(cuMemcpyDtoDAsync) X(cuMemsetD8Async)                 \
  X(cuStreamCreate) X(cuStreamDestroy) X(cuStreamSynchronize) X(cuStreamWaitEvent) X(cuEventCreate)                  \
  X(cuEventDestroy) X(cuEventRecord) X(cuEventSynchronize) X(cuEventElapsedTime) X(cuEventQuery)                     \
  X(cuModuleLoadData) X(cuModuleUnload) X(cuModuleGetFunctionCount) X(cuModuleEnumerateFunctions) X(cuFuncGetName)   \
  X(cuFuncSetAttribute) X(cuFuncGetAttribute) X(cuLaunchKernelEx) X(cuStreamBeginCapture) X(cuStreamEndCapture)      \
  X(cuGraphInstantiate) X(cuGraphLaunch) X(cuGraphExecDestroy) X(cuGraphDestroy)
// clang-format on

// Members bear the names that cuda.h maps the functions to (some are versioned by macro).
struct Driver {
#define WEIR_CUDA_MEMBER(name) decltype(&::name) name = nullptr;
  WEIR_CUDA_FUNCTIONS(WEIR_CUDA_MEMBER)
#undef WEIR_CUDA_MEMBER

  // Loaded and initialised once; every later call gives the same answer.
  static Result<const Driver*> get();

  // "CUDA_ERROR_OUT_OF_MEMORY: out of memory".
  std::string text(CUresult result) const;
};

}  // namespace weir::device
