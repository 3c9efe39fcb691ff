// Mixtures of experts over the rows of a prompt on a GPU.
#pragma once

#include "ops/gpu/gpu.h"
#include "ops/moe/moe_prompt_args.h"

namespace weir {

// Rows that are worked on at once; more take turns, with the same bits. 10,000, a long prompt's step, fit: a turn of
// the rest would bring every expert's weights again, for tiles that are not half full.
inline constexpr int64_t kMoePromptRows = 10'240;

// Bytes of work memory for calls of at most `rows` rows. `e4m3`: of quantised rows, which take more.
int64_t moe_prompt_work_bytes(int64_t rows, int64_t slots, int64_t experts_total, int64_t columns, int64_t width,
                              bool e4m3 = false);

// Filled in by the caller: `table` to `add`, of x_bf16 and x_f16 those that the experts' formats take. x and y: rows
// 16-byte aligned, x_stride a multiple of 8, columns, y_stride and width multiples of 8. `work`:
// moe_prompt_work_bytes(), aligned to 256. A row's bits do not depend on the rows beside it. Overlaps with the kernel
// before it. Bound by 6 D F floating-point operations a row and slot.
//
// With x_e4m3, x_scales and scale_stride instead of x_bf16 and x_f16 rows and hidden values are quantised: another
// numeric family (ops/linear/packed.h), for tables whose experts, the shared one among them, all take them
// (takes_e4m3()); x_stride is then of codes and a multiple of 16, width a multiple of 128.
void moe_prompt(Gpu& gpu, GpuMoePromptArgs args, std::byte* work);

}  // namespace weir
