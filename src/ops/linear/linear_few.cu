// At most eight rows times packed FP8 or BF16 weights: bound by reading the weights once. A block takes a contiguous
// share of the strips of one format; few_units.h says how it works them off. BF16 outputs beside FP8 ones (gates,
// router) are a few strips, which blocks of their own take; a group of BF16 outputs alone has no other blocks.
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
#pragma unroll 1
  while (index >= args.outputs[o].weight.strips) index -= args.outputs[o++].weight.strips;
  return {o, index};
}

struct FewShared {
  FewRing ring;
  uint8_t* rows;   // [rows + 1][row_bytes], the last one zeros
  float* sums;     // [strips_max][blocks][rows][16]
  float* squares;  // [8][8]
  float* scales;   // [strips_max][blocks][2]
  int row_bytes;
  bool f16;  // the type of the rows
};

inline constexpr int kPieces = 4;  // float4 of a row that a thread takes, at most

// Rows [first, first + kRows) of the step, those that are there, into shared memory, normed, by the warps that
// multiply: warp w sums the squares of the w-th eighth of each row, the eighths are added in ascending order. All rows'
// reads are under way at once. A thread takes kEach float4 of a row, a warp's width apart from `begin` on; none of a
// short row's at or behind `end`.
template <int kEach, int kRows>
WEIR_DEVICE void norm_together(const GpuFewArgs& args, const FewShared& m, const float4 (&norm)[kPieces], int begin,
                               int end, int first) {
  uint16_t* out = m.f16 ? args.x_out_f16 : args.x_out_bf16;
  if (static_cast<int>(blockIdx.x) != (m.f16 ? 0 : args.fp8_blocks)) out = nullptr;
  const int pieces = (end - begin + device::kWarp - 1) / device::kWarp;
  float4 v[kRows][kEach];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const int r = first + i;
    if (kRows > 1 && r >= args.rows) break;
    const auto* row =
        reinterpret_cast<const float4*>(args.x + (args.x_rows == nullptr ? r : args.x_rows[r]) * args.x_stride) + begin;
#pragma unroll
    for (int p = 0; p < kEach; ++p) {
      if constexpr (kRows > 1) {  // without branches between the reads
        v[i][p] = begin + p * device::kWarp < end ? __ldcg(row + p * device::kWarp) : float4{0, 0, 0, 0};
      } else if (p < pieces) {
        v[i][p] = __ldcg(row + p * device::kWarp);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    if (kRows > 1 && first + i >= args.rows) break;
    float sum = 0;
#pragma unroll
    for (int p = 0; p < kEach; ++p) {
      if (kRows == 1 && p >= pieces) continue;
      const float4 x = v[i][p];
      sum = fmaf(x.w, x.w, fmaf(x.z, x.z, fmaf(x.y, x.y, fmaf(x.x, x.x, sum))));
    }
    sum = device::warp_sum(sum);
    if (device::lane() == 0) m.squares[(first + i) * kFewWarps + device::warp()] = sum;
  }
  few_barrier();
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const int r = first + i;
    if (kRows > 1 && r >= args.rows) break;
    const float4 low = reinterpret_cast<const float4*>(m.squares + r * kFewWarps)[0];
    const float4 high = reinterpret_cast<const float4*>(m.squares + r * kFewWarps)[1];
    const float sum = ((((((low.x + low.y) + low.z) + low.w) + high.x) + high.y) + high.z) + high.w;
    const float scale = 1.0F / sqrtf(sum / static_cast<float>(args.k) + args.eps);
    auto* to = reinterpret_cast<uint2*>(m.rows + r * m.row_bytes) + begin;
#pragma unroll
    for (int p = 0; p < kEach; ++p) {
      if (p >= pieces) continue;
      const float4 n = norm[p];
      const float4 x = v[i][p];
      const float y[4] = {(1.0F + n.x) * (x.x * scale), (1.0F + n.y) * (x.y * scale), (1.0F + n.z) * (x.z * scale),
                          (1.0F + n.w) * (x.w * scale)};
      uint2 pair;
      if (m.f16) {
        pair = {device::f16x2(y[0], y[1]), device::f16x2(y[2], y[3])};
      } else {
        pair = {device::bf16x2(y[0], y[1]), device::bf16x2(y[2], y[3])};
      }
      to[p * device::kWarp] = pair;
      if (out != nullptr) reinterpret_cast<uint2*>(out + r * args.k)[begin + p * device::kWarp] = pair;
    }
  }
}

// All of the step's.
template <int kRows>
WEIR_DEVICE void norm_rows(const GpuFewArgs& args, const FewShared& m, const float4 (&norm)[kPieces], int begin,
                           int end) {
  if constexpr (kRows == 1) {
    norm_together<kPieces, 1>(args, m, norm, begin, end, 0);
  } else if (args.k <= 2 * device::kWarp * 4 * kFewWarps) {
#pragma unroll 1
    for (int first = 0; first < args.rows; first += 4) norm_together<2, 4>(args, m, norm, begin, end, first);
  } else {
#pragma unroll 1
    for (int first = 0; first < args.rows; first += 2) norm_together<kPieces, 2>(args, m, norm, begin, end, first);
  }
}

// A value of the block's outputs: where its sums are, and where it goes.
struct Value {
  int sums;    // of FewShared::sums
  int scales;  // the same
  void* to;    // null: nowhere
  int kind;
  bool f16;
};

// Value `i` of `count` strips of the block's outputs, the first one being `first`.
WEIR_DEVICE Value value_at(const GpuFewArgs& args, const FewShared& m, int step_rows, int first, int count, int i) {
  const int blocks = args.k / kBlockK;
  const bool there = i < count * step_rows * kStripRows;
  const int row = i % kStripRows;
  const int strip = there ? i / kStripRows / step_rows : 0;
  const int r = there ? i / kStripRows - strip * step_rows : 0;
  const Strip s = find_strip(args, m.f16 ? 0 : args.fp8_count, first + strip);
  const GpuPackedOutput& out = args.outputs[s.output];
  Value v = {(strip * blocks * step_rows + r) * kStripRows + row, strip * blocks * 2 + row / 8, nullptr, out.kind,
             out.y_type != 0};
  const bool pairs = out.kind == kPackedSwiglu;
  const int rows = pairs ? kStripRows / 2 : kStripRows;
  const int n = s.strip * rows + row;
  if (there && row < rows && n < (pairs ? out.weight.n / 2 : out.weight.n)) {
    v.to = static_cast<uint8_t*>(out.y) + (r * out.y_stride + n) * (pairs ? 2 : 4);
  }
  return v;
}

// kRows: 1, or 0 for any number.
template <int kRows>
WEIR_DEVICE void linear_few(const GpuFewArgs& args, uint8_t* shared) {
  const int step_rows = kRows == 1 ? 1 : args.rows;
  const int blocks = args.k / kBlockK;
  const int block = static_cast<int>(blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x);
  FewShared m;
  m.f16 = block < args.fp8_blocks;
  m.row_bytes = 2 * args.k + 16;
  const int unit_bytes = m.f16 ? kFewUnitBytes : 2 * kFewUnitBytes;
  m.rows = shared + args.ring_bytes;
  m.sums = reinterpret_cast<float*>(m.rows + (step_rows + 1) * m.row_bytes);
  m.squares = m.sums + args.strips_max * blocks * step_rows * kStripRows;
  auto* barriers = reinterpret_cast<device::Barrier*>(m.squares + kFewRows * kFewWarps);
  m.scales = reinterpret_cast<float*>(barriers + kFewBarriers);
  const int slot_bytes = kFewWarps * unit_bytes;
  m.ring = {shared, barriers, barriers + 32, barriers + 64, barriers + 65, args.ring_bytes / slot_bytes, slot_bytes};

  const int of = m.f16 ? block : block - args.fp8_blocks;
  const int sharing = m.f16 ? args.fp8_blocks : static_cast<int>(gridDim.x) - args.fp8_blocks;
  const int total = m.f16 ? args.fp8_strips : args.bf16_strips;
  const int first = total * of / sharing;
  const int strips = total * (of + 1) / sharing - first;
  const int count = strips * blocks;
  const int chunks = (count + kFewWarps - 1) / kFewWarps;
  const int together = min(kFewWarps, blocks);  // units of a chunk that lie behind each other
  const auto fill = [&](int chunk, uint8_t* slot, device::Barrier* barrier) {
    const int here = min(kFewWarps, count - chunk * kFewWarps);
    device::barrier_expect(barrier, here * unit_bytes);
#pragma unroll 1
    for (int i = 0; i < here; i += together) {
      const int unit = chunk * kFewWarps + i;
      const uint8_t* from = args.weights + (static_cast<int64_t>(first) * blocks + unit) * kFewUnitBytes;
      if (!m.f16) {
        const Strip s = find_strip(args, args.fp8_count, first + unit / blocks);
        from = args.outputs[s.output].weight.data +
               (static_cast<int64_t>(s.strip) * blocks + (unit & (blocks - 1))) * 2 * kFewUnitBytes;
      }
      device::bulk_copy_once(slot + i * unit_bytes, from, together * unit_bytes, barrier);
    }
  };
  if (few_brings()) m.ring.prepare();
  clear_row(m.rows + step_rows * m.row_bytes, m.row_bytes);
  __syncthreads();
  if (few_brings()) {
    m.ring.bring(chunks, args.under_way, fill);
    return;
  }
#pragma unroll 1
  for (int i = thread; m.f16 && i < count; i += kFewWarps * device::kWarp) {
    device::copy8(m.scales + 2 * i, args.scales + 2 * (first * blocks + i));
  }
  device::copies_commit();
  const int eighth = args.k / kFewWarps / 4;
  const int begin = device::warp() * eighth + device::lane();
  const int end = (device::warp() + 1) * eighth;
  float4 norm[kPieces];
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    if (args.norm != nullptr && begin + p * device::kWarp < end) {
      norm[p] = __ldg(reinterpret_cast<const float4*>(args.norm) + begin + p * device::kWarp);
    }
  }
  Value value = value_at(args, m, step_rows, first, strips, thread);
  device::wait_for_previous();
  device::start_next();
  const bool adds = value.kind == kPackedAdd && value.to != nullptr;
  float before = adds ? __ldcg(static_cast<const float*>(value.to)) : 0.0F;
  if (args.norm != nullptr) {
    norm_rows<kRows>(args, m, norm, begin, end);
    few_barrier();
  } else {
    const auto* x = m.f16 ? args.x_f16 : args.x_bf16;
#pragma unroll 1
    for (int r = 0; r < step_rows; ++r) {
      copy_beside(m.rows + r * m.row_bytes, x + (args.x_rows == nullptr ? r : args.x_rows[r]) * args.x_stride,
                  args.k * 2, thread, kFewWarps * device::kWarp);
    }
    device::copies_commit();
    device::copies_wait<0>();
    few_barrier();
  }
  if (thread == 0) m.ring.note_rows();
  const int row = min(device::lane() % 8, step_rows);
  const uint32_t columns = device::shared_address(m.rows + row * m.row_bytes + device::lane() / 8 * 16);
  run_units(m.ring, count, [&](int unit, const uint8_t* place) {
    float d[4];
    const uint32_t at = columns + static_cast<uint32_t>((unit & (blocks - 1)) * kBlockK * 2);
    if (m.f16) {
      multiply_fp8(place, at, d);
    } else {
      multiply_bf16(place, at, d);
    }
    keep_unit(m.sums + unit * step_rows * kStripRows, step_rows, d);
  });
  device::copies_wait<0>();
  few_barrier();
  const int values = strips * step_rows * kStripRows;
#pragma unroll 1
  for (int base = device::warp() * device::kWarp;;) {
    if (base >= values) break;
    const float sum =
        join_units(m.sums + value.sums, step_rows * kStripRows, m.f16 ? m.scales + value.scales : nullptr, blocks);
    const float up = __shfl_down_sync(device::kAllLanes, sum, kStripRows / 2);
    if (value.to != nullptr) {
      if (value.kind == kPackedSwiglu) {
        *static_cast<uint16_t*>(value.to) =
            static_cast<uint16_t>(device::half_pair(value.f16, device::silu(sum) * up, 0.0F));
      } else {
        *static_cast<float*>(value.to) = before + sum;
      }
    }
    base += kFewWarps * device::kWarp;
    if (base >= values) break;
    value = value_at(args, m, step_rows, first, strips, base + device::lane());
    const bool more = value.kind == kPackedAdd && value.to != nullptr;
    before = more ? __ldcg(static_cast<const float*>(value.to)) : 0.0F;
  }
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_linear_one, GpuFewArgs, kFewThreads, 1) {
  extern __shared__ __align__(128) uint8_t shared[];
  linear_few<1>(args, shared);
}
WEIR_KERNEL_BOUNDED(weir_linear_few, GpuFewArgs, kFewThreads, 1) {
  extern __shared__ __align__(128) uint8_t shared[];
  linear_few<0>(args, shared);
}

}  // namespace weir
