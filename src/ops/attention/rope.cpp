#include <cmath>

#include "base/check.h"
#include "ops/attention/attention.h"

namespace weir {
namespace {

constexpr int64_t kFinePositions = 256;  // the square root of 65,536: both tables stay small for any context

}  // namespace

RopeTable::RopeTable(int64_t rope_dim, double theta, int64_t positions) : half_(rope_dim / 2), positions_(positions) {
  WEIR_CHECK(rope_dim >= 0 && rope_dim % 2 == 0, "rope over {} dims", rope_dim);
  const int64_t coarse = (positions + kFinePositions - 1) / kFinePositions;
  const auto fill = [&](std::vector<Turn>& table, int64_t count, int64_t step) {
    table.resize(static_cast<size_t>(count * half_));
    for (int64_t i = 0; i < half_; ++i) {
      const double rate = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(rope_dim));
      // The common definition rounds the rate to float32 and the angle too; here both stay double.
      for (int64_t p = 0; p < count; ++p) {
        const double angle = static_cast<double>(p * step) * rate;
        table[static_cast<size_t>(p * half_ + i)] = {std::cos(angle), std::sin(angle)};
      }
    }
  };
  fill(coarse_, coarse, kFinePositions);
  fill(fine_, kFinePositions, 1);
}

void RopeTable::at(int64_t position, float* cos, float* sin) const {
  WEIR_CHECK(position >= 0 && position < positions_, "position {} of {}", position, positions_);
  const Turn* coarse = coarse_.data() + position / kFinePositions * half_;
  const Turn* fine = fine_.data() + position % kFinePositions * half_;
  for (int64_t i = 0; i < half_; ++i) {
    cos[i] = static_cast<float>(coarse[i].cos * fine[i].cos - coarse[i].sin * fine[i].sin);
    sin[i] = static_cast<float>(coarse[i].sin * fine[i].cos + coarse[i].cos * fine[i].sin);
  }
}

}  // namespace weir
