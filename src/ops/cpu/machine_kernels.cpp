// The two limits of a machine: loads with nothing behind them, and multiply-adds with nothing before them.
#include "ops/cpu/machine_kernels.h"

#include "ops/cpu/kernel_table.h"
#include "ops/cpu/vec.h"

namespace weir::WEIR_ISA {

void read_bytes(const ReadBytes& work) {
  const auto* p = reinterpret_cast<const float*>(work.data);
  const float* end = p + work.bytes / static_cast<int64_t>(sizeof(float));
  VecI sum[4] = {};
  for (; p < end; p += 4 * kLanes) {
    for (int64_t i = 0; i < 4; ++i) sum[i] = add(sum[i], bits(load(p + i * kLanes)));
  }
  store(work.sink, to_float(add(add(sum[0], sum[1]), add(sum[2], sum[3]))));
}

void multiply_adds(const MultiplyAdds& work) {
  // AVX2 has registers for six pairs of accumulators, AVX-512 for all twelve.
#if defined(__AVX512F__)
  constexpr int kSums = 12;
#else
  constexpr int kSums = 6;
#endif
  Vec sum[kSums];
  for (int i = 0; i < kSums; ++i) sum[i] = splat(static_cast<float>(i));
  Vec x = load(work.sink);
  Vec y = load(work.sink);
  for (int64_t round = 0; round < work.rounds; ++round) {
    for (int repeat = 0; repeat < kMultiplyAddsPerRound / kSums; ++repeat) {
      for (int i = 0; i < kSums; ++i) sum[i] = fma(sum[i], x, y);
    }
  }
  for (int i = 0; i < kSums; ++i) x = add(x, sum[i]);
  store(work.sink, x);
}

}  // namespace weir::WEIR_ISA
