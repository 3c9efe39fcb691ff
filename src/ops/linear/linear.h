// y = x W^T over weights kept in their stored format, repacked once so that 16 output columns lie side by side.
//
// Numeric contract, the same for every number of rows and every instruction set: K is cut into blocks (128; MXFP4: 32);
// within a block one chain of fused multiply-adds in ascending k from zero; the block sums are combined in ascending
// order, sum = fma(block, scale of the block, sum). BF16 and F32 have scale 1, that is a plain addition. With `add` the
// finished sum is added to what y holds. FP8 codes for NaN are read as +-480.
#pragma once

#include <cstdint>
#include <span>

#include "ops/cpu/aligned.h"
#include "ops/cpu/cpu.h"
#include "tensor/dtype.h"

namespace weir {

inline constexpr int64_t kTileColumns = 16;  // output columns of a tile: the lanes of the widest vector
inline constexpr int64_t kFp8GroupRows = 4;  // k of an FP8 group

// Where a tile holds the FP8 code of (k, column).
constexpr int64_t fp8_offset(int64_t k, int64_t column) {
  return k / kFp8GroupRows * (kFp8GroupRows * kTileColumns) + column / 4 * 16 + k % kFp8GroupRows * 4 + column % 4;
}

// W[N, K] as tiles [ceil(N/16)][K][16] in the stored format, zero columns at the end. MXFP4: two codes of one column a
// byte, [K/2][16]. FP8: groups of four k, [ceil(K/4)][4][4 k][4 columns], zeros behind K. Scales follow per tile: block
// FP8 and row FP8 as float32, MXFP4 as E8M0 [K/32][16].
class PackedMatrix {
 public:
  PackedMatrix() = default;

  bool empty() const { return n_ == 0; }
  int64_t n() const { return n_; }
  int64_t k() const { return k_; }
  WeightFormat format() const { return format_; }
  int64_t tiles() const { return (n_ + kTileColumns - 1) / kTileColumns; }
  // Bytes held, which is what one full read moves.
  int64_t bytes() const { return data_.size() + scales_.size(); }

  const std::byte* tile_data(int64_t tile) const { return data_.data() + tile * tile_bytes_; }
  const std::byte* tile_scales(int64_t tile) const { return scales_.data() + tile * tile_scale_bytes_; }
  int64_t tile_bytes() const { return tile_bytes_; }
  int64_t tile_scale_bytes() const { return tile_scale_bytes_; }

 private:
  friend PackedMatrix pack(const WeightMatrix& weight);
  WeightFormat format_ = WeightFormat::kF32;
  int64_t n_ = 0;
  int64_t k_ = 0;
  int64_t tile_bytes_ = 0;
  int64_t tile_scale_bytes_ = 0;
  AlignedBytes data_;
  AlignedBytes scales_;
};

// Repacks; the source may be released afterwards. Programmer error: an empty matrix, MXFP4 with K not a multiple of 32.
PackedMatrix pack(const WeightMatrix& weight);

// One matrix of a group: y[rows, N] with `y_stride` floats between rows.
struct LinearOutput {
  const PackedMatrix* weight = nullptr;
  float* y = nullptr;
  int64_t y_stride = 0;
  bool add = false;  // y += x W^T (the residual, then the finished dot product); else y = x W^T
};

// Up to kLinearGroupMax matrices of the same K over the same rows in one parallel region.
struct LinearArgs {
  const float* x = nullptr;  // [*, K], x_stride floats between rows
  int64_t x_stride = 0;
  const int32_t* x_rows = nullptr;  // row r of the call reads row x_rows[r] of x; null: row r
  int64_t rows = 0;
  std::span<const LinearOutput> outputs;
};
inline constexpr int kLinearGroupMax = 4;

void linear_group(Cpu& cpu, const LinearArgs& args);

// The same for one matrix.
void linear(Cpu& cpu, const float* x, int64_t x_stride, int64_t rows, const LinearOutput& output);

// Scratch for any linear operation on `threads` threads.
int64_t linear_scratch_bytes(int threads);

}  // namespace weir
