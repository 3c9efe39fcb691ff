// The kernels of one instruction set. Kernel sources (`*_kernels.cpp`) are compiled once per set into their own
// namespace; kernel_table.cpp, compiled beside them, fills the table.
#pragma once

#include <cstdint>

#include "ops/attention/attention_kernels.h"
#include "ops/cpu/machine_kernels.h"
#include "ops/gdn/gdn_kernels.h"
#include "ops/linear/linear_kernels.h"
#include "ops/logits/logits_kernels.h"
#include "ops/moe/moe_kernels.h"
#include "ops/norm/norm_kernels.h"

namespace weir {

struct KernelTable {
  void (*linear_task)(const LinearTask&);
  void (*rms_norm_rows)(const RmsNormRows&);
  void (*attention_prepare_row)(const AttentionPrepareRow&);
  void (*attend_segment)(const AttendSegment&);
  void (*attend_merge)(const AttendMerge&);
  void (*attend_finish)(const AttendFinish&);
  void (*gdn_head)(const GdnHead&);
  void (*silu_mul)(const SiluMul&);
  void (*combine)(const Combine&);
  void (*route_row)(const RouteRow&);
  void (*sum_exp_row)(const SumExpRow&);
  void (*read_bytes)(const ReadBytes&);
  void (*multiply_adds)(const MultiplyAdds&);
};

#define WEIR_DECLARE_KERNELS(isa)                             \
  namespace isa {                                             \
  void linear_task(const LinearTask& task);                   \
  void rms_norm_rows(const RmsNormRows& rows);                \
  void attention_prepare_row(const AttentionPrepareRow& row); \
  void attend_segment(const AttendSegment& segment);          \
  void attend_merge(const AttendMerge& merge);                \
  void attend_finish(const AttendFinish& rows);               \
  void gdn_head(const GdnHead& head);                         \
  void silu_mul(const SiluMul& rows);                         \
  void combine(const Combine& rows);                          \
  void route_row(const RouteRow& row);                        \
  void sum_exp_row(const SumExpRow& row);                     \
  void read_bytes(const ReadBytes& work);                     \
  void multiply_adds(const MultiplyAdds& work);               \
  extern const KernelTable kKernels;                          \
  }

WEIR_DECLARE_KERNELS(scalar)
WEIR_DECLARE_KERNELS(avx2)
WEIR_DECLARE_KERNELS(avx512)

}  // namespace weir
