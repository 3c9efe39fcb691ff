#include "ops/cpu/kernel_table.h"

namespace weir::WEIR_ISA {

const KernelTable kKernels = {
    linear_task, rms_norm_rows, attention_prepare_row, attend_segment, attend_merge, attend_finish, gdn_head, silu_mul,
    combine,     route_row,     sum_exp_row,           read_bytes,     multiply_adds};

}  // namespace weir::WEIR_ISA
