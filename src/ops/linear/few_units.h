// For kernel files: products of at most eight rows with packed FP8 (and some BF16) weights by plain loads. A unit is a
// block of K of a strip; a warp keeps four units under way in registers, from before its rows are known, and leaves
// every unit's sums in shared memory, where they are joined once at the end. Short code on purpose: a decode step runs
// each kernel once, and instructions come from memory too.
#pragma once

#include "device/async.h"
#include "ops/linear/packed_mma.h"

namespace weir {

inline constexpr int kFewWarps = 8;
inline constexpr int kFewThreads = kFewWarps * device::kWarp;
inline constexpr int kFewDepth = 4;  // units of a warp under way
inline constexpr int kFewUnitBytes = 2 * packed_tile_bytes(kGpuFp8Block);

struct FewUnit {
  uint4 words[4];  // [tile][row g, row g + 8]
};

WEIR_DEVICE void load_unit(const uint8_t* unit, FewUnit& to) {
#pragma unroll
  for (int i = 0; i < 4; ++i) to.words[i] = device::load_once(unit + i * 512 + device::lane() * 16);
}

// The unit times the columns at `address` (as load_matrices() takes them), from zero.
WEIR_DEVICE void multiply_unit(const FewUnit& unit, uint32_t address, float (&d)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) d[i] = 0;
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
    const uint4 low = unit.words[2 * tile];
    const uint4 high = unit.words[2 * tile + 1];
    const uint32_t lows[4] = {low.x, low.y, low.z, low.w};
    const uint32_t highs[4] = {high.x, high.y, high.z, high.w};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t b[4];
      device::load_matrices(b, address + static_cast<uint32_t>(tile * kTileK + half * 32) * 2U);
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        uint32_t a[4];
        device::fp8_to_f16x4(lows[2 * half + step], &a[0], &a[2]);
        device::fp8_to_f16x4(highs[2 * half + step], &a[1], &a[3]);
        device::mma_f16(d, a, b[2 * step], b[2 * step + 1]);
      }
    }
  }
}

// The sums of a unit's first `columns` columns: [column][16].
WEIR_DEVICE void keep_unit(float* sums, int columns, const float (&d)[4]) {
  const int g = device::lane() / 4;
  const int column = 2 * (device::lane() % 4);
  if (column < columns) {
    sums[column * kStripRows + g] = d[0];
    sums[column * kStripRows + g + 8] = d[2];
  }
  if (column + 1 < columns) {
    sums[(column + 1) * kStripRows + g] = d[1];
    sums[(column + 1) * kStripRows + g + 8] = d[3];
  }
}

// Joins `blocks` sums in ascending order, `stride` apart; scales (null: 1) two apart.
WEIR_DEVICE float join_units(const float* sums, int stride, const float* scales, int blocks) {
  float total = 0;
  int b = 0;
#pragma unroll 1
  for (; b + 4 <= blocks; b += 4) {
    float part[4];
    float scale[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      part[i] = sums[(b + i) * stride];
      scale[i] = scales != nullptr ? scales[2 * (b + i)] : 1.0F;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) total = fmaf(part[i], scale[i], total);
  }
#pragma unroll 1
  for (; b < blocks; ++b) total = fmaf(sums[b * stride], scales != nullptr ? scales[2 * b] : 1.0F, total);
  return total;
}

// Runs a warp's share, warp, warp + 8, ..., of `count` units: `weights(unit)` is where a unit lies, `columns(unit)` the
// address of what it is multiplied with; its sums go to sums[unit][columns_kept][16]. `begin()` is called once the
// first loads are under way.
template <class Weights, class Columns, class Begin>
WEIR_DEVICE void run_units(int count, int columns_kept, float* sums, const Weights& weights, const Columns& columns,
                           const Begin& begin) {
  FewUnit units[kFewDepth];
#pragma unroll
  for (int i = 0; i < kFewDepth; ++i) {
    const int u = device::warp() + i * kFewWarps;
    if (u < count) load_unit(weights(u), units[i]);
  }
  begin();
  int unit = device::warp();
  while (unit < count) {
#pragma unroll
    for (int i = 0; i < kFewDepth; ++i) {
      if (unit >= count) break;
      float d[4];
      multiply_unit(units[i], columns(unit), d);
      const int next = unit + kFewDepth * kFewWarps;
      if (next < count) load_unit(weights(next), units[i]);
      keep_unit(sums + unit * columns_kept * kStripRows, columns_kept, d);
      unit += kFewWarps;
    }
  }
}

}  // namespace weir
