// For tests of quantised rows: what ops/quantize/quantize_rows_args.h says, one number after the other.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "ops/quantize/quantize_rows_args.h"
#include "tensor/fp8.h"

namespace weir {

struct E4m3Rows {
  std::vector<uint8_t> codes;  // [rows][size]
  std::vector<float> scales;   // [size / 128][stride]
  int64_t size = 0;
  int64_t stride = 0;

  // Where k of a row stands in it.
  static int64_t place(int64_t k) { return k / 16 * 16 + k % 8 / 2 * 4 + k % 16 / 8 * 2 + k % 2; }
  uint8_t code(int64_t row, int64_t k) const { return codes[static_cast<size_t>(row * size + place(k))]; }
  float scale(int64_t row, int64_t block) const { return scales[static_cast<size_t>(block * stride + row)]; }
};

// `stride`: of scales, at least the rows; those of rows that are not there are `rest`.
inline E4m3Rows quantised_on_host(const std::vector<float>& x, int64_t size, int64_t stride, float rest = 0) {
  const int64_t rows = static_cast<int64_t>(x.size()) / size;
  E4m3Rows out;
  out.size = size;
  out.stride = stride;
  out.codes.resize(x.size());
  out.scales.resize(static_cast<size_t>(size / kBlockK * stride), rest);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t block = 0; block < size / kBlockK; ++block) {
      const float* from = x.data() + row * size + block * kBlockK;
      const bool finite = std::all_of(from, from + kBlockK, [](float v) { return std::isfinite(v); });
      float largest = 0;
      for (int64_t i = 0; i < kBlockK; ++i) largest = std::max(largest, std::abs(from[i]));
      const float scale = finite ? largest / kE4m3Largest : std::numeric_limits<float>::quiet_NaN();
      out.scales[static_cast<size_t>(block * stride + row)] = scale;
      for (int64_t i = 0; i < kBlockK; ++i) {
        const float quotient = scale == 0 ? std::copysign(0.0F, from[i]) : from[i] / scale;
        out.codes[static_cast<size_t>(row * size + E4m3Rows::place(block * kBlockK + i))] = float_to_fp8_e4m3(quotient);
      }
    }
  }
  return out;
}

}  // namespace weir
