// Products of at most eight rows with packed FP8 weights on a GPU.
#pragma once

#include "ops/gpu/gpu.h"
#include "ops/linear/linear_few_args.h"

namespace weir {

// Whether linear_few() takes the call: its shapes, formats and places. Its bits are those of linear_packed().
bool few_takes(const Gpu& gpu, const GpuFewArgs& args);

// Filled in by the caller: what GpuFewArgs does not say otherwise. Overlaps with the kernel before it.
void linear_few(Gpu& gpu, GpuFewArgs args);

// One BF16 output of many strips over rows that are normed: a vocabulary head. Its bits are those of linear_packed().
bool head_few_takes(const Gpu& gpu, const GpuFewArgs& args);
void head_few(Gpu& gpu, const GpuFewArgs& args);

// One FP8 output of at most as many strips as the device has multiprocessors, times up to kLinearSomeRows rows that lie
// in x_f16 as they are. Its bits are those of linear_packed().
bool some_rows_takes(const Gpu& gpu, const GpuFewArgs& args);
void linear_some(Gpu& gpu, GpuFewArgs args);

}  // namespace weir
