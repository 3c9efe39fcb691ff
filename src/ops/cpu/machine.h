// What this machine can do at most, measured: the denominators of every "percent of the limit".
#pragma once

#include <cstdint>

#include "ops/cpu/cpu.h"

namespace weir {

struct MachineLimits {
  int threads = 0;
  double fma_gflops = 0;  // float32 multiply-adds of all threads together, two operations each
  double read_gbs = 0;    // GB/s (1e9) of all threads reading a working set of `working_set_bytes` again and again
  int64_t working_set_bytes = 0;
};

// Takes about `seconds` in all; `working_set_bytes` is allocated meanwhile.
MachineLimits measure_machine(Cpu& cpu, int64_t working_set_bytes, double seconds = 0.5);

}  // namespace weir
