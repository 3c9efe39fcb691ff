// Mixtures of experts over the rows of a prompt on a GPU.
#pragma once

#include "ops/gpu/gpu.h"
#include "ops/moe/moe_prompt_args.h"

namespace weir {

// Rows that are worked on at once; more take turns, with the same bits. 10,000, a long prompt's step, fit: a turn of
// the rest would bring every expert's weights again, for tiles that are not half full.
inline constexpr int64_t kMoePromptRows = 10'240;

// Bytes of work memory for calls of at most `rows` rows.
int64_t moe_prompt_work_bytes(int64_t rows, int64_t slots, int64_t experts_total, int64_t columns, int64_t width);

// Filled in by the caller: `table` to `add`, of x_bf16 and x_f16 those that the experts' formats take. x and y: rows
// 16-byte aligned, x_stride a multiple of 8, columns, y_stride and width multiples of 8. `work`:
// moe_prompt_work_bytes(), aligned to 256. A row's bits do not depend on the rows beside it. Overlaps with the kernel
// before it. Bound by 6 D F floating-point operations a row and slot.
void moe_prompt(Gpu& gpu, GpuMoePromptArgs args, std::byte* work);

}  // namespace weir
