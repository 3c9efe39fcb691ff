#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "ops/linear/linear.h"
#include "ops/linear/linear_kernels.h"
#include "tensor/weight_scales.h"

namespace weir {
namespace {

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Copies elements of `size` bytes from rows [16 tile, ...) into [k][16].
void pack_elements(const WeightMatrix& w, int64_t tile, int64_t size, int64_t per_row, std::byte* out) {
  const int64_t columns = std::min(kTileColumns, w.n - tile * kTileColumns);
  for (int64_t lane = 0; lane < columns; ++lane) {
    const std::byte* row = w.data + (tile * kTileColumns + lane) * w.row_bytes;
    for (int64_t k = 0; k < per_row; ++k) {
      std::memcpy(out + (k * kTileColumns + lane) * size, row + k * size, static_cast<size_t>(size));
    }
  }
}

void pack_fp8(const WeightMatrix& w, int64_t tile, std::byte* out) {
  const int64_t columns = std::min(kTileColumns, w.n - tile * kTileColumns);
  for (int64_t lane = 0; lane < columns; ++lane) {
    const std::byte* row = w.data + (tile * kTileColumns + lane) * w.row_bytes;
    for (int64_t k = 0; k < w.k; ++k) out[fp8_offset(k, lane)] = row[k];
  }
}

// The kernels read e4m3 as its value times 2^-8 (the difference of the exponent biases of e4m3 and half precision).
constexpr float kFp8Restore = 256.0F;

void pack_scales(const WeightMatrix& w, int64_t tile, std::byte* out) {
  const int64_t first = tile * kTileColumns;
  auto* values = reinterpret_cast<float*>(out);
  if (w.format == WeightFormat::kFp8Block) {
    for (int64_t b = 0; b < ceil_div(w.k, kFp8Block); ++b) {
      values[b] = scale_at(w, first / kFp8Block * w.scale_stride + b) * kFp8Restore;
    }
  } else if (w.format == WeightFormat::kFp8Row) {
    for (int64_t lane = 0; lane < std::min(kTileColumns, w.n - first); ++lane) {
      values[lane] = scale_at(w, (first + lane) * w.scale_stride) * kFp8Restore;
    }
  } else if (w.format == WeightFormat::kMxfp4) {
    WeightMatrix scales;
    scales.n = w.n;
    scales.data = w.scales;
    scales.row_bytes = w.scale_stride;
    pack_elements(scales, tile, 1, w.k / kMxfp4Group, out);
  }
}

}  // namespace

PackedMatrix pack(const WeightMatrix& weight) {
  WEIR_CHECK(weight.n > 0 && weight.k > 0, "a matrix of {} x {}", weight.n, weight.k);
  PackedMatrix packed;
  packed.format_ = weight.format;
  packed.n_ = weight.n;
  packed.k_ = weight.k;
  int64_t size = 1;
  int64_t per_row = weight.k;
  switch (weight.format) {
    case WeightFormat::kF32:
      size = 4;
      break;
    case WeightFormat::kBf16:
      size = 2;
      break;
    case WeightFormat::kFp8Block:
      packed.tile_scale_bytes_ = ceil_div(weight.k, kFp8Block) * 4;
      break;
    case WeightFormat::kFp8Row:
      packed.tile_scale_bytes_ = kTileColumns * 4;
      break;
    case WeightFormat::kMxfp4:
      WEIR_CHECK(weight.k % kMxfp4Group == 0, "MXFP4 with K {}", weight.k);
      per_row = weight.k / 2;
      packed.tile_scale_bytes_ = weight.k / kMxfp4Group * kTileColumns;
      break;
  }
  const bool fp8 = weight.format == WeightFormat::kFp8Block || weight.format == WeightFormat::kFp8Row;
  if (fp8) per_row = round_up(weight.k, kFp8GroupRows);
  packed.tile_bytes_ = per_row * kTileColumns * size;
  packed.data_ = AlignedBytes(packed.tiles() * packed.tile_bytes_);
  packed.scales_ = AlignedBytes(packed.tiles() * packed.tile_scale_bytes_);
  for (int64_t tile = 0; tile < packed.tiles(); ++tile) {
    std::byte* out = packed.data_.data() + tile * packed.tile_bytes_;
    if (fp8) {
      pack_fp8(weight, tile, out);
    } else {
      pack_elements(weight, tile, size, per_row, out);
    }
    pack_scales(weight, tile, packed.scales_.data() + tile * packed.tile_scale_bytes_);
  }
  return packed;
}

}  // namespace weir
