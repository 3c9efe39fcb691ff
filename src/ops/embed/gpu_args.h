#pragma once

#include <cstdint>

#include "ops/linear/gpu_args.h"

namespace weir {

// y[t] = table[ids[t]] as float32; BF16 and F32 tables. With `next_tokens`, an id below 0 stands for next_tokens[-1 -
// id]. A poisoned id outside [0, N) reads row 0 and sets *fault to its row plus one.
struct GpuEmbedArgs {
  GpuMatrix table;
  const int32_t* ids = nullptr;
  const int32_t* next_tokens = nullptr;
  float* y = nullptr;
  int64_t y_stride = 0;
  int32_t* fault = nullptr;
};

}  // namespace weir
