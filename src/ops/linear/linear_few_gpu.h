// Products of at most eight rows, or of some more, with packed FP8 and BF16 weights on a GPU.
#pragma once

#include "ops/gpu/gpu.h"
#include "ops/linear/linear_few_args.h"

namespace weir {

// Whether linear_few() takes the call: its shapes, formats and places. Its bits are those of linear_packed().
bool few_takes(const Gpu& gpu, const GpuFewArgs& args);
// The same but for the places, of any device: no pointer is followed.
bool few_fits(const device::DeviceInfo& info, const GpuFewArgs& args);

// Filled in by the caller: what GpuFewArgs does not say otherwise. Overlaps with the kernel before it.
void linear_few(Gpu& gpu, GpuFewArgs args);

// One BF16 output of many strips over rows that are normed: a vocabulary head. Its bits are those of linear_packed().
bool head_few_takes(const Gpu& gpu, const GpuFewArgs& args);
void head_few(Gpu& gpu, const GpuFewArgs& args);

// One FP8 or BF16 output of at most as many strips as the device has multiprocessors, times up to kLinearSomeRows rows
// that lie in x_f16 or x_bf16 as they are. Its bits are those of linear_packed().
bool some_rows_takes(const Gpu& gpu, const GpuFewArgs& args);
bool some_rows_fit(const device::DeviceInfo& info, const GpuFewArgs& args);  // the same, of any device
void linear_some(Gpu& gpu, GpuFewArgs args);

}  // namespace weir
