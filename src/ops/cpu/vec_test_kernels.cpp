#include "ops/cpu/vec_test_kernels.h"

#include "ops/cpu/vec_math.h"

namespace weir::WEIR_ISA {

void math_function(const MathWork& work) {
  for (int64_t i = 0; i < work.count; i += kLanes) {
    const Vec x = load(work.x + i);
    Vec y = x;
    switch (work.function) {
      case MathFunction::kExp:
        y = exp(x);
        break;
      case MathFunction::kLog:
        y = log(x);
        break;
      case MathFunction::kSoftplus:
        y = softplus(x);
        break;
      case MathFunction::kSigmoid:
        y = sigmoid(x);
        break;
      case MathFunction::kSilu:
        y = silu(x);
        break;
    }
    store(work.y + i, y);
  }
}

void decode_codes(const DecodeWork& work) {
  for (int64_t i = 0; i < 256; i += 4 * kLanes) {
    Vec group[4];
    decode_fp8(work.codes + i, group);
    for (int64_t j = 0; j < 4; ++j) store(work.fp8 + i + j * kLanes, group[j]);
  }
  for (int64_t i = 0; i < 256; i += kLanes) {
    Vec low = zero();
    Vec high = zero();
    decode_mxfp4(work.codes + i, &low, &high);
    store(work.e2m1_low + i, low);
    store(work.e2m1_high + i, high);
    store(work.e8m0 + i, decode_e8m0(work.codes + i));
  }
}

}  // namespace weir::WEIR_ISA
