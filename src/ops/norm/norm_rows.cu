// Rows for the products with packed weights, bound by one read and the writes. Few rows: a block a row, a warp an
// eighth of it. Many: a warp a row, which it keeps in registers, so that no thread waits for another warp and all of a
// row's reads are under way at once; the sums are the same.
#include "device/async.h"
#include "device/mma.h"
#include "ops/norm/norm_rows_args.h"
#include "ops/quantize/quantize.h"

namespace weir {
namespace {

// A float4 of a row, in the types that are asked for.
WEIR_DEVICE void write_four(const GpuNormRowsArgs& args, int64_t row, int i, float4 y) {
  if (args.bf16 != nullptr) {
    reinterpret_cast<uint2*>(args.bf16 + row * args.size)[i] = {device::bf16x2(y.x, y.y), device::bf16x2(y.z, y.w)};
  }
  if (args.f16 != nullptr) {
    reinterpret_cast<uint2*>(args.f16 + row * args.size)[i] = {device::f16x2(y.x, y.y), device::f16x2(y.z, y.w)};
  }
  if (args.y != nullptr) reinterpret_cast<float4*>(args.y + row * args.y_stride)[i] = y;
}

WEIR_DEVICE float4 normed(float4 x, float4 weight, float scale) {
  return {(1.0F + weight.x) * (x.x * scale), (1.0F + weight.y) * (x.y * scale), (1.0F + weight.z) * (x.z * scale),
          (1.0F + weight.w) * (x.w * scale)};
}

WEIR_DEVICE float plus_squares(float sum, float4 v) {
  return fmaf(v.w, v.w, fmaf(v.z, v.z, fmaf(v.y, v.y, fmaf(v.x, v.x, sum))));
}

// A warp's row in the types that are asked for, e4m3 among them; lane i works out the scale of block i.
template <int kEighths, int kEach>
WEIR_DEVICE void write_quantised(const GpuNormRowsArgs& args, int64_t row, const float4 (&values)[kEighths][kEach]) {
  constexpr int kBlocks = kEighths * kEach;
  static_assert(kBlocks <= device::kWarp);
  uint32_t most = 0;
#pragma unroll
  for (int i = 0; i < kBlocks; ++i) {
    const uint32_t of_block = most_of_128(values[i / kEach][i % kEach]);
    if (device::lane() == i) most = of_block;
  }
  const E4m3Block<true> own(__uint_as_float(most));
#pragma unroll
  for (int i = 0; i < kBlocks; ++i) {
    const float4 y = values[i / kEach][i % kEach];
    write_four(args, row, i * device::kWarp + device::lane(), y);
    write_codes_of_128(own.of_lane(i), y, args.e4m3 + row * args.size + i * kBlockK);
  }
  if (device::lane() < kBlocks) args.scales[device::lane() * args.scale_stride + row] = own.scale;
}

// A warp's row; each lane has kEach groups of four floats of each eighth.
template <int kEach, bool kE4m3>
WEIR_DEVICE void norm_row(const GpuNormRowsArgs& args) {
  constexpr int kEighths = 8;
  device::wait_for_previous();
  device::start_next();
  const int64_t row = int64_t{blockIdx.x} * (kNormRowsThreads / device::kWarp) + device::warp();
  if (row >= args.rows) return;
  const int64_t from = args.x_rows == nullptr ? row : args.x_rows[row];
  const auto* x = reinterpret_cast<const float4*>(args.x + from * args.x_stride) + device::lane();
  float4 values[kEighths][kEach];
#pragma unroll
  for (int e = 0; e < kEighths; ++e) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) values[e][i] = x[(e * kEach + i) * device::kWarp];
  }
  if (args.weight == nullptr) {
    if constexpr (kE4m3) {
      write_quantised(args, row, values);
    } else {
#pragma unroll
      for (int i = 0; i < kEighths * kEach; ++i) {
        write_four(args, row, i * device::kWarp + device::lane(), values[i / kEach][i % kEach]);
      }
    }
    return;
  }
  float squares[kEighths];
#pragma unroll
  for (int e = 0; e < kEighths; ++e) {
    squares[e] = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) squares[e] = plus_squares(squares[e], values[e][i]);
    squares[e] = device::warp_sum(squares[e]);
  }
  float sum = 0;
#pragma unroll
  for (int e = 0; e < kEighths; ++e) sum += squares[e];
  const float scale = 1.0F / sqrtf(sum / static_cast<float>(args.size) + args.eps);
  const auto* weight = reinterpret_cast<const float4*>(args.weight) + device::lane();
  if constexpr (kE4m3) {
#pragma unroll
    for (int i = 0; i < kEighths * kEach; ++i) {
      float4& value = values[i / kEach][i % kEach];
      value = normed(value, __ldg(weight + i * device::kWarp), scale);
    }
    write_quantised(args, row, values);
  } else {
#pragma unroll
    for (int i = 0; i < kEighths * kEach; ++i) {
      write_four(args, row, i * device::kWarp + device::lane(),
                 normed(values[i / kEach][i % kEach], __ldg(weight + i * device::kWarp), scale));
    }
  }
}

inline constexpr int kWarps = 8;

// 1 / sqrt(mean(x^2) + eps) of a block's row, a warp an eighth of it.
WEIR_DEVICE float row_scale(const GpuNormRowsArgs& args, const float4* x, float* squares) {
  const int eighth = args.size / kWarps / 4;  // in groups of four floats
  float sum = 0;
  for (int i = device::warp() * eighth + device::lane(); i < (device::warp() + 1) * eighth; i += device::kWarp) {
    sum = plus_squares(sum, x[i]);
  }
  sum = device::warp_sum(sum);
  if (device::lane() == 0) squares[device::warp()] = sum;
  __syncthreads();
  sum = 0;
  for (int i = 0; i < kWarps; ++i) sum += squares[i];
  return 1.0F / sqrtf(sum / static_cast<float>(args.size) + args.eps);
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_norm_rows, GpuNormRowsArgs, kWarps* device::kWarp, 4) {
  __shared__ float squares[kWarps];
  const int64_t row = blockIdx.x;
  const int warp = device::warp();
  const int eighth = args.size / kWarps / 4;  // in groups of four floats
  device::wait_for_previous();
  device::start_next();
  const int64_t from = args.x_rows == nullptr ? row : args.x_rows[row];
  const auto* x = reinterpret_cast<const float4*>(args.x + from * args.x_stride);
  const int begin = warp * eighth + device::lane();
  const int end = (warp + 1) * eighth;
  const float scale = args.weight != nullptr ? row_scale(args, x, squares) : 1.0F;
  for (int i = begin; i < end; i += device::kWarp) {
    float4 y = x[i];
    if (args.weight != nullptr) y = normed(y, reinterpret_cast<const float4*>(args.weight)[i], scale);
    write_four(args, row, i, y);
  }
}

// The same quantised, a warp a block of 128 in turn.
WEIR_KERNEL_BOUNDED(weir_norm_rows_e4m3, GpuNormRowsArgs, kWarps* device::kWarp, 4) {
  __shared__ float squares[kWarps];
  const int64_t row = blockIdx.x;
  const int warp = device::warp();
  device::wait_for_previous();
  device::start_next();
  const int64_t from = args.x_rows == nullptr ? row : args.x_rows[row];
  const auto* x = reinterpret_cast<const float4*>(args.x + from * args.x_stride);
  const float scale = args.weight != nullptr ? row_scale(args, x, squares) : 1.0F;
  for (int block = warp; block < args.size / kBlockK; block += kWarps) {
    const int i = block * device::kWarp + device::lane();
    float4 y = x[i];
    if (args.weight != nullptr) y = normed(y, reinterpret_cast<const float4*>(args.weight)[i], scale);
    write_four(args, row, i, y);
    const E4m3Block<true> codes(__uint_as_float(most_of_128(y)));
    write_codes_of_128(codes, y, args.e4m3 + row * args.size + block * kBlockK);
    if (device::lane() == 0) args.scales[block * args.scale_stride + row] = codes.scale;
  }
}

// Rows of 1,024 and of 2,048.
WEIR_KERNEL_BOUNDED(weir_norm_rows_many_1024, GpuNormRowsArgs, kNormRowsThreads, 8) {
  norm_row<1, false>(args);
}
WEIR_KERNEL_BOUNDED(weir_norm_rows_many_1024_e4m3, GpuNormRowsArgs, kNormRowsThreads, 8) {
  norm_row<1, true>(args);
}
WEIR_KERNEL_BOUNDED(weir_norm_rows_many_2048, GpuNormRowsArgs, kNormRowsThreads, 5) {
  norm_row<2, false>(args);
}
WEIR_KERNEL_BOUNDED(weir_norm_rows_many_2048_e4m3, GpuNormRowsArgs, kNormRowsThreads, 5) {
  norm_row<2, true>(args);
}

}  // namespace weir
