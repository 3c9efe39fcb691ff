// What the tests and the benchmark of the operations share: random inputs, random weights in every stored format, and
// the machines on which a result must not differ.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "ops/cpu/cpu.h"
#include "ops/linear/linear.h"
#include "ops/reference.h"
#include "tensor/dtype.h"

namespace weir::cases {

using Floats = std::vector<float>;

// Normally distributed.
Floats random_floats(uint64_t seed, int64_t count, float deviation = 1.0F);

// A weight matrix with its memory; values of about 1 / sqrt(K).
struct Weight {
  WeightMatrix view;
  std::vector<std::byte> data;
  std::vector<std::byte> scales;
};
Weight random_weight(uint64_t seed, WeightFormat format, int64_t n, int64_t k);

inline constexpr WeightFormat kFormats[] = {WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kFp8Block,
                                            WeightFormat::kFp8Row, WeightFormat::kMxfp4};

// A Cpu per (instruction set of this machine, 1 and 3 threads), each with `scratch` bytes for 3 threads.
std::vector<std::unique_ptr<Cpu>> all_cpus(int64_t scratch);
inline constexpr int kThreadsMax = 3;

reference::Rows rows_of(std::span<const float> values, int64_t width);
// The largest |a - b| over rows, relative to the largest |b| of the row, or to `typical` where that is larger (a row of
// one value may cancel).
double row_error(std::span<const float> a, const reference::Rows& b, double typical = 1e-30);
// Bit for bit, NaN and the sign of zero included.
bool same_bits(std::span<const float> a, std::span<const float> b);

}  // namespace weir::cases
