// For kernel files: the dot products of one matrix row with up to kRows input rows by one warp.
//
// Numeric contract, whatever the number of rows: K is cut into chunks of 16 stored bytes (MXFP4: 32 values, FP8: 16,
// BF16: 8, F32: 4); lane l takes chunks l, l + 32, ... in ascending order; a chunk is one chain of fused multiply-adds
// from zero, its scale joins it to the lane's sum by one more; the lanes' sums are added in a butterfly.
// FP8 codes for NaN give NaN here, where the CPU reads +-480: such rows end their request on a GPU.
#pragma once

#include "device/kernel.h"
#include "ops/linear/gpu_args.h"

namespace weir {

template <int kFormat>
struct Chunk;

template <>
struct Chunk<kGpuF32> {
  static constexpr int kValues = 4;
  WEIR_DEVICE static void decode(uint4 raw, float* w) {
    w[0] = __uint_as_float(raw.x);
    w[1] = __uint_as_float(raw.y);
    w[2] = __uint_as_float(raw.z);
    w[3] = __uint_as_float(raw.w);
  }
};

template <>
struct Chunk<kGpuBf16> {
  static constexpr int kValues = 8;
  WEIR_DEVICE static void decode(uint4 raw, float* w) {
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      w[2 * i] = __uint_as_float(words[i] << 16);
      w[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000U);
    }
  }
};

template <>
struct Chunk<kGpuFp8Block> {
  static constexpr int kValues = 16;
  WEIR_DEVICE static void decode(uint4 raw, float* w) {
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float2 pair = device::fp8x2(static_cast<uint16_t>(words[i / 2] >> (i % 2 * 16)));
      w[2 * i] = pair.x;
      w[2 * i + 1] = pair.y;
    }
  }
};

template <>
struct Chunk<kGpuFp8Row> : Chunk<kGpuFp8Block> {};

template <>
struct Chunk<kGpuMxfp4> {
  static constexpr int kValues = 32;
  WEIR_DEVICE static void decode(uint4 raw, float* w) {
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 32; ++i) w[i] = device::e2m1((words[i / 8] >> (i % 8 * 4)) & 15U);
  }
};

// Calls f.template operator()<format>() for a format known at run time.
template <class Function>
WEIR_DEVICE void with_format(int32_t format, const Function& f) {
  switch (format) {
    case kGpuF32:
      return f.template operator()<kGpuF32>();
    case kGpuBf16:
      return f.template operator()<kGpuBf16>();
    case kGpuFp8Block:
      return f.template operator()<kGpuFp8Block>();
    case kGpuFp8Row:
      return f.template operator()<kGpuFp8Row>();
    default:
      return f.template operator()<kGpuMxfp4>();
  }
}

// The scale of the chunk that begins at column k of row n; chunks never straddle a block.
template <int kFormat>
WEIR_DEVICE float chunk_scale(const GpuMatrix& w, int64_t n, int64_t k) {
  if constexpr (kFormat == kGpuFp8Block) {
    return reinterpret_cast<const float*>(w.scales)[n / 128 * w.scale_stride + k / 128];
  } else if constexpr (kFormat == kGpuFp8Row) {
    return reinterpret_cast<const float*>(w.scales)[n * w.scale_stride];
  } else if constexpr (kFormat == kGpuMxfp4) {
    return device::e8m0(w.scales[n * w.scale_stride + k / 32]);
  } else {
    return 1.0F;
  }
}

template <int kFormat, int kRows>
WEIR_DEVICE void dot_rows_of(const GpuMatrix& w, int64_t n, const float* const* x, float* sums) {
  using Format = Chunk<kFormat>;
  constexpr int kValues = Format::kValues;
  const uint8_t* row = w.data + n * w.row_bytes;
#pragma unroll
  for (int r = 0; r < kRows; ++r) sums[r] = 0;
  const int chunks = (w.k + kValues - 1) / kValues;
  for (int c = device::lane(); c < chunks; c += device::kWarp) {
    float values[kValues];
    Format::decode(*reinterpret_cast<const uint4*>(row + static_cast<int64_t>(c) * 16), values);
    const int k = c * kValues;
    const float scale = chunk_scale<kFormat>(w, n, k);
    const bool whole = k + kValues <= w.k;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float* in = x[r] + k;
      float part = 0;
      if (whole) {
#pragma unroll
        for (int i = 0; i < kValues; ++i) part = fmaf(values[i], in[i], part);
      } else {
#pragma unroll
        for (int i = 0; i < kValues; ++i) part = fmaf(values[i], k + i < w.k ? in[i] : 0.0F, part);
      }
      sums[r] = fmaf(part, scale, sums[r]);
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) sums[r] = device::warp_sum(sums[r]);
}

// sums[r] = W[n] . x[r], the same bits in every lane.
template <int kRows>
WEIR_DEVICE void dot_rows(const GpuMatrix& w, int64_t n, const float* const* x, float* sums) {
  with_format(w.format, [&]<int kFormat>() { dot_rows_of<kFormat, kRows>(w, n, x, sums); });
}

// The same for one input row and several columns, which may be of different matrices of one K and format: their loads
// are in flight together and share the reads of x.
template <int kFormat, int kColumns>
WEIR_DEVICE void dot_columns_of(const GpuMatrix* const* w, const int64_t* n, const float* x, float* sums) {
  using Format = Chunk<kFormat>;
  constexpr int kValues = Format::kValues;
  const uint8_t* rows[kColumns];
#pragma unroll
  for (int i = 0; i < kColumns; ++i) {
    rows[i] = w[i]->data + n[i] * w[i]->row_bytes;
    sums[i] = 0;
  }
  const int size = w[0]->k;
  const int chunks = (size + kValues - 1) / kValues;
  for (int c = device::lane(); c < chunks; c += device::kWarp) {
    uint4 raw[kColumns];
#pragma unroll
    for (int i = 0; i < kColumns; ++i) raw[i] = *reinterpret_cast<const uint4*>(rows[i] + static_cast<int64_t>(c) * 16);
    const int k = c * kValues;
    float in[kValues];
    if (k + kValues <= size) {
#pragma unroll
      for (int v = 0; v < kValues; ++v) in[v] = x[k + v];
    } else {
#pragma unroll
      for (int v = 0; v < kValues; ++v) in[v] = k + v < size ? x[k + v] : 0.0F;
    }
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      float values[kValues];
      Format::decode(raw[i], values);
      float part = 0;
#pragma unroll
      for (int v = 0; v < kValues; ++v) part = fmaf(values[v], in[v], part);
      sums[i] = fmaf(part, chunk_scale<kFormat>(*w[i], n[i], k), sums[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < kColumns; ++i) sums[i] = device::warp_sum(sums[i]);
}

template <int kColumns>
WEIR_DEVICE void dot_columns(const GpuMatrix* const* w, const int64_t* n, const float* x, float* sums) {
  with_format(w[0]->format, [&]<int kFormat>() { dot_columns_of<kFormat, kColumns>(w, n, x, sums); });
}

}  // namespace weir
