// At most eight rows times packed FP8 weights: bound by reading the weights once. A block takes a contiguous share of
// the strips; few_units.h says how it works them off. BF16 outputs beside them (gates, router) are a few strips at the
// end.
#include "ops/linear/few_units.h"
#include "ops/linear/linear_few_args.h"

namespace weir {
namespace {

// Strip `index` of the outputs [first, end).
struct Strip {
  int output;
  int strip;
};
WEIR_DEVICE Strip find_strip(const GpuFewArgs& args, int first, int index) {
  int o = first;
  while (index >= args.outputs[o].weight.strips) index -= args.outputs[o++].weight.strips;
  return {o, index};
}

struct FewShared {
  uint8_t* f16;    // [rows + 1][row_bytes]
  uint8_t* bf16;   // the same
  float* sums;     // [strips_max][blocks][rows][16]
  float* scales;   // [strips_max][blocks][2]
  float* squares;  // [8][8]
  int row_bytes;
};

// Rows into shared memory in the types that are needed; normed where that is asked for: warp w sums the squares of the
// w-th eighth of each row, the eighths are added in ascending order.
WEIR_DEVICE void take_rows(const GpuFewArgs& args, const FewShared& m, bool bf16) {
  const int thread = static_cast<int>(threadIdx.x);
  const auto source = [&](int r) -> int64_t { return (args.x_rows == nullptr ? r : args.x_rows[r]) * args.x_stride; };
#pragma unroll 1
  for (int i = thread; i < m.row_bytes / 4; i += kFewThreads) {
    reinterpret_cast<uint32_t*>(m.f16 + args.rows * m.row_bytes)[i] = 0;
    if (bf16) reinterpret_cast<uint32_t*>(m.bf16 + args.rows * m.row_bytes)[i] = 0;
  }
  if (args.norm == nullptr) {
#pragma unroll 1
    for (int r = 0; r < args.rows; ++r) {
      const auto* from = reinterpret_cast<const uint4*>(args.x_f16 + source(r));
#pragma unroll 1
      for (int i = thread; i < args.k / 8; i += kFewThreads)
        reinterpret_cast<uint4*>(m.f16 + r * m.row_bytes)[i] = from[i];
    }
    __syncthreads();
    return;
  }
  const int eighth = args.k / kFewWarps / 4;
  const int begin = device::warp() * eighth + device::lane();
  const int end = (device::warp() + 1) * eighth;
#pragma unroll 1
  for (int r = 0; r < args.rows; ++r) {
    const auto* x = reinterpret_cast<const float4*>(args.x + source(r));
    float sum = 0;
#pragma unroll 1
    for (int i = begin; i < end; i += device::kWarp) {
      const float4 v = x[i];
      sum = fmaf(v.w, v.w, fmaf(v.z, v.z, fmaf(v.y, v.y, fmaf(v.x, v.x, sum))));
    }
    sum = device::warp_sum(sum);
    if (device::lane() == 0) m.squares[r * kFewWarps + device::warp()] = sum;
  }
  __syncthreads();
#pragma unroll 1
  for (int r = 0; r < args.rows; ++r) {
    float sum = 0;
    for (int i = 0; i < kFewWarps; ++i) sum += m.squares[r * kFewWarps + i];
    const float scale = 1.0F / sqrtf(sum / static_cast<float>(args.k) + args.eps);
    const auto* x = reinterpret_cast<const float4*>(args.x + source(r));
#pragma unroll 1
    for (int i = begin; i < end; i += device::kWarp) {
      const float4 v = x[i];
      const float4 n = reinterpret_cast<const float4*>(args.norm)[i];
      const float4 y = {(1.0F + n.x) * (v.x * scale), (1.0F + n.y) * (v.y * scale), (1.0F + n.z) * (v.z * scale),
                        (1.0F + n.w) * (v.w * scale)};
      const uint2 half = {device::f16x2(y.x, y.y), device::f16x2(y.z, y.w)};
      reinterpret_cast<uint2*>(m.f16 + r * m.row_bytes)[i] = half;
      if (blockIdx.x == 0 && args.x_out_f16 != nullptr) reinterpret_cast<uint2*>(args.x_out_f16 + r * args.k)[i] = half;
      if (!bf16) continue;
      const uint2 brain = {device::bf16x2(y.x, y.y), device::bf16x2(y.z, y.w)};
      reinterpret_cast<uint2*>(m.bf16 + r * m.row_bytes)[i] = brain;
      if (blockIdx.x == 0 && args.x_out_bf16 != nullptr)
        reinterpret_cast<uint2*>(args.x_out_bf16 + r * args.k)[i] = brain;
    }
  }
  __syncthreads();
}

// The block's BF16 strips, a unit of each warp at a time.
WEIR_DEVICE void multiply_bf16(const GpuFewArgs& args, const FewShared& m, int first, int count, float* sums) {
  const int blocks = args.k / kBlockK;
  const int row = min(device::lane() % 8, args.rows);
  const uint32_t columns = device::shared_address(m.bf16 + row * m.row_bytes + device::lane() / 8 * 16);
#pragma unroll 1
  for (int at = device::warp(); at < count * blocks; at += kFewWarps) {
    const int block = at & (blocks - 1);
    const Strip s = find_strip(args, args.fp8_count, first + at / blocks);
    const GpuPacked& w = args.outputs[s.output].weight;
    const uint8_t* unit = w.data + (static_cast<int64_t>(s.strip) * blocks + block) * 4096;
    uint4 words[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) words[i] = device::load_once(unit + i * 512 + device::lane() * 16);
    float d[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint32_t b[4];
      device::load_matrices(b, columns + static_cast<uint32_t>(block * kBlockK + i * 32) * 2U);
      const uint32_t a0[4] = {words[2 * i].x, words[2 * i].y, words[2 * i].z, words[2 * i].w};
      const uint32_t a1[4] = {words[2 * i + 1].x, words[2 * i + 1].y, words[2 * i + 1].z, words[2 * i + 1].w};
      device::mma_bf16(d, a0, b[0], b[1]);
      device::mma_bf16(d, a1, b[2], b[3]);
    }
    keep_unit(sums + at * args.rows * kStripRows, args.rows, d);
  }
}

// Joins and hands out `count` strips of the outputs from `first_output` on.
WEIR_DEVICE void finish(const GpuFewArgs& args, int first_output, int first, int count, const float* sums,
                        const float* scales, float before) {
  const int blocks = args.k / kBlockK;
  const int values = count * args.rows * kStripRows;
#pragma unroll 1
  for (int base = device::warp() * device::kWarp; base < values; base += kFewThreads) {
    const int i = min(base + device::lane(), values - 1);
    const int row = i % kStripRows;
    const int strip = i / kStripRows / args.rows;
    const int r = i / kStripRows - strip * args.rows;
    const float total = join_units(sums + (strip * blocks * args.rows + r) * kStripRows + row, args.rows * kStripRows,
                                   scales == nullptr ? nullptr : scales + strip * blocks * 2 + row / 8, blocks);
    const float up = __shfl_down_sync(device::kAllLanes, total, kStripRows / 2);
    if (base + device::lane() >= values) continue;
    const Strip s = find_strip(args, first_output, first + strip);
    const GpuPackedOutput& out = args.outputs[s.output];
    if (out.kind == kPackedSwiglu) {
      const int n = s.strip * (kStripRows / 2) + row;
      if (row >= kStripRows / 2 || n >= out.weight.n / 2) continue;
      static_cast<uint16_t*>(out.y)[r * out.y_stride + n] =
          static_cast<uint16_t>(device::half_pair(out.y_type != 0, device::silu(total) * up, 0.0F));
      continue;
    }
    const int n = s.strip * kStripRows + row;
    if (n >= out.weight.n) continue;
    float* y = static_cast<float*>(out.y) + r * out.y_stride + n;
    if (out.kind == kPackedAdd) {
      *y = (base < kFewThreads ? before : *y) + total;
    } else {
      *y = total;
    }
  }
}

// What the thread's first value is added to.
WEIR_DEVICE float read_before(const GpuFewArgs& args, int first, int count) {
  const int i = static_cast<int>(threadIdx.x);
  if (args.outputs[0].kind != kPackedAdd || i >= count * args.rows * kStripRows) return 0;
  const int strip = i / kStripRows / args.rows;
  const int r = i / kStripRows - strip * args.rows;
  const Strip s = find_strip(args, 0, first + strip);
  const int n = s.strip * kStripRows + i % kStripRows;
  const GpuPackedOutput& out = args.outputs[s.output];
  return n < out.weight.n ? static_cast<const float*>(out.y)[r * out.y_stride + n] : 0.0F;
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_linear_few, GpuFewArgs, kFewThreads, 2) {
  extern __shared__ __align__(16) uint8_t shared[];
  const int blocks = args.k / kBlockK;
  const bool bf16 = args.bf16_strips > 0;
  FewShared m;
  m.row_bytes = 2 * args.k + 16;
  m.f16 = shared;
  m.bf16 = m.f16 + (args.rows + 1) * m.row_bytes;
  m.sums = reinterpret_cast<float*>(m.bf16 + (bf16 ? (args.rows + 1) * m.row_bytes : 0));
  m.scales = m.sums + args.strips_max * blocks * args.rows * kStripRows;
  m.squares = m.scales + args.strips_max * blocks * 2;

  const unsigned total = static_cast<unsigned>(args.fp8_strips + 2 * args.bf16_strips);
  const int low = static_cast<int>(total * blockIdx.x / gridDim.x);
  const int high = static_cast<int>(total * (blockIdx.x + 1) / gridDim.x);
  const int first = min(low, args.fp8_strips);
  const int strips = min(high, args.fp8_strips) - first;
  const int first_bf16 = max(0, low - args.fp8_strips + 1) / 2;
  const int strips_bf16 = max(0, high - args.fp8_strips + 1) / 2 - first_bf16;
  const int row = min(device::lane() % 8, args.rows);
  const uint32_t columns = device::shared_address(m.f16 + row * m.row_bytes + device::lane() / 8 * 16);
  float before = 0;
  const uint8_t* weights = args.weights + static_cast<int64_t>(first) * blocks * kFewUnitBytes;
  run_units(
      strips * blocks, args.rows, m.sums,
      [&](int unit) { return weights + static_cast<int64_t>(unit) * kFewUnitBytes; },
      [&](int unit) { return columns + static_cast<uint32_t>((unit & (blocks - 1)) * kBlockK * 2); },
      [&] {
#pragma unroll 1
        for (int i = static_cast<int>(threadIdx.x); i < strips * blocks; i += kFewThreads) {
          device::copy8(m.scales + 2 * i, args.scales + 2 * (first * blocks + i));
        }
        device::copies_commit();
        device::wait_for_previous();
        device::start_next();
        before = read_before(args, first, strips);
        take_rows(args, m, bf16);
      });
  float* sums_bf16 = m.sums + strips * blocks * args.rows * kStripRows;
  if (strips_bf16 > 0) multiply_bf16(args, m, first_bf16, strips_bf16, sums_bf16);
  device::copies_wait<0>();
  __syncthreads();
  finish(args, 0, first, strips, m.sums, m.scales, before);
  if (strips_bf16 > 0) finish(args, args.fp8_count, first_bf16, strips_bf16, sums_bf16, nullptr, 0);
}

}  // namespace weir
