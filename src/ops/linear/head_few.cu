// At most eight normed rows times the many strips of a BF16 vocabulary head: bound by one read of it. A warp takes
// whole strips, one after the other, with two blocks of K under way in registers; its sums never leave them.
#include "ops/linear/few_units.h"
#include "ops/linear/linear_few_args.h"

namespace weir {
namespace {

inline constexpr int kHeadThreads = kFewWarps * device::kWarp;

struct HeadUnit {
  uint4 words[8];  // [tile][step]
};

WEIR_DEVICE void load_head_unit(const uint8_t* unit, HeadUnit& to) {
#pragma unroll
  for (int i = 0; i < 8; ++i) to.words[i] = device::load_once(unit + i * 512 + device::lane() * 16);
}

// A row of x into shared memory, normed, by one warp per eighth: as weir_linear_few does it.
WEIR_DEVICE void take_normed_rows(const GpuFewArgs& args, uint8_t* rows, int row_bytes, float* squares) {
  const int eighth = args.k / kFewWarps / 4;
  const int begin = device::warp() * eighth + device::lane();
  const int end = (device::warp() + 1) * eighth;
  const auto source = [&](int r) {
    return reinterpret_cast<const float4*>(args.x + (args.x_rows == nullptr ? r : args.x_rows[r]) * args.x_stride);
  };
#pragma unroll 1
  for (int r = 0; r < args.rows; ++r) {
    const float4* x = source(r);
    float sum = 0;
#pragma unroll 1
    for (int i = begin; i < end; i += device::kWarp) {
      const float4 v = x[i];
      sum = fmaf(v.w, v.w, fmaf(v.z, v.z, fmaf(v.y, v.y, fmaf(v.x, v.x, sum))));
    }
    sum = device::warp_sum(sum);
    if (device::lane() == 0) squares[r * kFewWarps + device::warp()] = sum;
  }
  __syncthreads();
#pragma unroll 1
  for (int r = 0; r < args.rows; ++r) {
    float sum = 0;
    for (int i = 0; i < kFewWarps; ++i) sum += squares[r * kFewWarps + i];
    const float scale = 1.0F / sqrtf(sum / static_cast<float>(args.k) + args.eps);
    const float4* x = source(r);
#pragma unroll 1
    for (int i = begin; i < end; i += device::kWarp) {
      const float4 v = x[i];
      const float4 n = reinterpret_cast<const float4*>(args.norm)[i];
      const float4 y = {(1.0F + n.x) * (v.x * scale), (1.0F + n.y) * (v.y * scale), (1.0F + n.z) * (v.z * scale),
                        (1.0F + n.w) * (v.w * scale)};
      reinterpret_cast<uint2*>(rows + r * row_bytes)[i] = {device::bf16x2(y.x, y.y), device::bf16x2(y.z, y.w)};
      if (blockIdx.x == 0 && args.normed_out != nullptr) reinterpret_cast<float4*>(args.normed_out + r * args.k)[i] = y;
    }
  }
  for (int i = static_cast<int>(threadIdx.x); i < row_bytes / 4; i += kHeadThreads) {
    reinterpret_cast<uint32_t*>(rows + args.rows * row_bytes)[i] = 0;
  }
  __syncthreads();
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_head_few, GpuFewArgs, kHeadThreads, 2) {
  extern __shared__ __align__(16) uint8_t shared[];
  const GpuPackedOutput& out = args.outputs[0];
  const int row_bytes = 2 * args.k + 16;
  const int blocks = args.k / kBlockK;
  const int stride = static_cast<int>(gridDim.x) * kFewWarps;
  const int first = static_cast<int>(blockIdx.x) * kFewWarps + device::warp();
  const auto unit_at = [&](int strip, int block) {
    return out.weight.data + (static_cast<int64_t>(strip) * blocks + block) * 4096;
  };
  HeadUnit units[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (first < out.weight.strips) load_head_unit(unit_at(first, i), units[i]);
  }
  device::wait_for_previous();
  device::start_next();
  take_normed_rows(args, shared, row_bytes, reinterpret_cast<float*>(shared + (args.rows + 1) * row_bytes));
  const int row = min(device::lane() % 8, args.rows);
  const uint32_t columns = device::shared_address(shared + row * row_bytes + device::lane() / 8 * 16);
#pragma unroll 1
  for (int strip = first; strip < out.weight.strips; strip += stride) {
    float total[4] = {0, 0, 0, 0};
#pragma unroll 1
    for (int block = 0; block < blocks; block += 2) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float d[4] = {0, 0, 0, 0};
#pragma unroll
        for (int half = 0; half < 4; ++half) {
          uint32_t b[4];
          device::load_matrices(b, columns + static_cast<uint32_t>((block + i) * kBlockK + half * 32) * 2U);
          const uint4 low = units[i].words[2 * half];
          const uint4 high = units[i].words[2 * half + 1];
          const uint32_t a0[4] = {low.x, low.y, low.z, low.w};
          const uint32_t a1[4] = {high.x, high.y, high.z, high.w};
          device::mma_bf16(d, a0, b[0], b[1]);
          device::mma_bf16(d, a1, b[2], b[3]);
        }
        const bool same = block + i + 2 < blocks;
        const int next = same ? strip : strip + stride;
        if (next < out.weight.strips) load_head_unit(unit_at(next, same ? block + i + 2 : i), units[i]);
#pragma unroll
        for (int j = 0; j < 4; ++j) total[j] = fmaf(d[j], 1.0F, total[j]);
      }
    }
    const int g = device::lane() / 4;
    const int column = 2 * (device::lane() % 4);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int n = strip * kStripRows + g + j / 2 * 8;
      const int r = column + j % 2;
      if (r < args.rows && n < out.weight.n) static_cast<float*>(out.y)[r * out.y_stride + n] = total[j];
    }
  }
}

}  // namespace weir
