// Few rows times packed weights: bound by reading the weights once. A block takes a contiguous share of all strips, by
// bytes; one warp keeps a ring of stages filled by the copy engine, from before the rows are known; each of eight warps
// multiplies one block of K of a stage with all rows on the tensor cores, and 16 threads a row join the blocks in
// order.
#include "ops/linear/linear_packed_args.h"
#include "ops/linear/packed_ring.h"

namespace weir {
namespace {

// Blocks [block, block + blocks) of K of strips [strip, strip + count) of an output.
struct Stage {
  int output;
  int strip;
  int count;
  int block;
  int blocks;
  bool last;  // of these strips
};

template <class Function>
WEIR_DEVICE void for_each_stage(const GpuPackedLinearArgs& args, const Function& f) {
  const unsigned share = gridDim.x / static_cast<unsigned>(args.groups);
  const unsigned index = blockIdx.x / static_cast<unsigned>(args.groups);
  const unsigned low = args.total_cost * index / share;
  const unsigned high = args.total_cost * (index + 1) / share;
  unsigned base = 0;
  for (int o = 0; o < args.count; ++o) {
    const GpuPacked& w = args.outputs[o].weight;
    const int tile_bytes = packed_tile_bytes(w.format);
    const unsigned cost = packed_strip_cost(w);
    const auto first_behind = [&](unsigned at) {
      const unsigned strip = at <= base ? 0 : (at - base + cost - 1) / cost;
      return static_cast<int>(min(strip, static_cast<unsigned>(w.strips)));
    };
    const int end = first_behind(high);
    const int all = (w.tiles + 1) / 2;
    const int fit = args.slot_bytes / (2 * tile_bytes);
    const int per = fit < args.units ? fit : args.units;
    const int together = all <= per ? per / all : 1;
    for (int strip = first_behind(low); strip < end; strip += together) {
      const int count = end - strip < together ? end - strip : together;
      for (int block = 0; block < all; block += per) {
        const int blocks = all - block < per ? all - block : per;
        f(Stage{o, strip, count, block, blocks, block + blocks == all});
      }
    }
    base += cost * static_cast<unsigned>(w.strips);
  }
}

WEIR_DEVICE void bring_weights(const GpuPackedLinearArgs& args, const Pipe& pipe) {
  if (device::lane() != 0) return;
  RingPlace at;
  for_each_stage(args, [&](const Stage& s) {
    const GpuPacked& w = args.outputs[s.output].weight;
    const int tile_bytes = packed_tile_bytes(w.format);
    const int tiles = s.count > 1 ? s.count * w.tiles : min(2 * s.blocks, w.tiles - 2 * s.block);
    const auto bytes = static_cast<uint32_t>(tiles * tile_bytes);
    pipe.weights.wait_free(at);
    device::Barrier* filled = &pipe.weights.filled[at.slot];
    const ScaleRange range((w.tiles + 1) / 2, s.strip, s.count, s.block, s.blocks);
    device::barrier_expect(filled, bytes + (w.scales != nullptr ? range.bytes() : 0));
    device::bulk_copy(pipe.slot(at), w.data + (static_cast<int64_t>(s.strip) * w.tiles + 2 * s.block) * tile_bytes,
                      bytes, filled);
    if (w.scales != nullptr) {
      device::bulk_copy(pipe.scale_slot(at), w.scales + range.first, range.bytes(), filled);
    }
    at.advance(pipe.slots);
  });
}

struct Rows {
  int first;
  int count;
};

// Puts the rows into shared memory as bf16, normed where that is asked for: warp w sums the squares of the w-th eighth
// of each row, the eighths are added in ascending order.
WEIR_DEVICE void take_rows(const GpuPackedLinearArgs& args, Rows rows, const Columns& columns, float* squares) {
  const int warp = device::warp();
  const int thread = static_cast<int>(threadIdx.x);
  const auto source = [&](int r) -> int64_t {
    return (args.x_rows == nullptr ? rows.first + r : args.x_rows[rows.first + r]) * args.x_stride;
  };
  if (args.norm == nullptr) {
    const int chunks = args.k / 8;
    for (int i = thread; i < rows.count * chunks; i += kPackedMultiplying) {
      const int r = i / chunks;
      const int c = i % chunks;
      reinterpret_cast<uint4*>(columns.data + static_cast<int64_t>(r) * columns.row_bytes)[c] =
          reinterpret_cast<const uint4*>(args.x_bf16 + source(r))[c];
    }
    device::threads_barrier(1, kPackedMultiplying);
    return;
  }
  const int eighth = args.k / kPackedWarps / 4;  // in groups of four floats
  for (int r = 0; r < rows.count; ++r) {
    const auto* x = reinterpret_cast<const float4*>(args.x + source(r)) + warp * eighth;
    float sum = 0;
    for (int i = device::lane(); i < eighth; i += device::kWarp) {
      const float4 v = x[i];
      sum = fmaf(v.w, v.w, fmaf(v.z, v.z, fmaf(v.y, v.y, fmaf(v.x, v.x, sum))));
    }
    sum = device::warp_sum(sum);
    if (device::lane() == 0) squares[r * kPackedWarps + warp] = sum;
  }
  device::threads_barrier(1, kPackedMultiplying);
  const bool writes = blockIdx.x < static_cast<unsigned>(args.groups);
  for (int r = 0; r < rows.count; ++r) {
    float sum = 0;
    for (int i = 0; i < kPackedWarps; ++i) sum += squares[r * kPackedWarps + i];
    const float scale = 1.0F / sqrtf(sum / static_cast<float>(args.k) + args.eps);
    const auto* x = reinterpret_cast<const float4*>(args.x + source(r));
    const auto* norm = reinterpret_cast<const float4*>(args.norm);
    for (int i = warp * eighth + device::lane(); i < (warp + 1) * eighth; i += device::kWarp) {
      const float4 v = x[i];
      const float4 n = norm[i];
      const float4 y = {(1.0F + n.x) * (v.x * scale), (1.0F + n.y) * (v.y * scale), (1.0F + n.z) * (v.z * scale),
                        (1.0F + n.w) * (v.w * scale)};
      const uint2 pair = {device::bf16x2(y.x, y.y), device::bf16x2(y.z, y.w)};
      reinterpret_cast<uint2*>(columns.data + static_cast<int64_t>(r) * columns.row_bytes)[i] = pair;
      const int64_t out = static_cast<int64_t>(rows.first + r) * args.k;
      if (writes && args.x_out != nullptr) reinterpret_cast<uint2*>(args.x_out + out)[i] = pair;
      if (writes && args.normed_out != nullptr) reinterpret_cast<float4*>(args.normed_out + out)[i] = y;
    }
  }
  device::threads_barrier(1, kPackedMultiplying);
}

// The warps that multiply: take the rows, then stage by stage.
template <int kTiles8>
WEIR_DEVICE void multiply(const GpuPackedLinearArgs& args, const Pipe& pipe, Rows rows, const Columns& columns,
                          float* squares) {
  columns.zero_row(static_cast<int>(threadIdx.x), kPackedMultiplying);
  device::wait_for_previous();
  device::start_next();
  take_rows(args, rows, columns, squares);
  uint32_t mine[kTiles8];
#pragma unroll
  for (int c = 0; c < kTiles8; ++c) mine[c] = columns.address(8 * c + device::lane() % 8);
  RingPlace at;
  RingPlace to;
  for_each_stage(args, [&](const Stage& s) {
    const GpuPacked& w = args.outputs[s.output].weight;
    const int all = (w.tiles + 1) / 2;
    const int tile_bytes = packed_tile_bytes(w.format);
    const uint8_t* slot = pipe.slot(at);
    const float* slot_scales = pipe.scale_slot(at);
    const int first_scale = ScaleRange(all, s.strip, s.count, s.block, s.blocks).first;
    const auto strip_of = [&](int u) { return s.count == 1 ? 0 : u / s.blocks; };
    const auto part = [&](int u, const uint8_t** weights, uint32_t (&addresses)[kTiles8], const float** scales) {
      const int strip = strip_of(u);
      const int block = s.block + u - strip * s.blocks;
      *weights = slot + (strip * w.tiles + (block - s.block) * 2) * tile_bytes;
      *scales = w.scales == nullptr ? nullptr : slot_scales + ((s.strip + strip) * all + block) * 2 - first_scale;
#pragma unroll
      for (int c = 0; c < kTiles8; ++c) addresses[c] = mine[c] + static_cast<uint32_t>(block * kBlockK * 2);
    };
    const auto tiles_of = [&](int u) { return min(2, w.tiles - 2 * (s.block + u - strip_of(u) * s.blocks)); };
    with_packed_format(w.format, [&]<int kFormat>() {
      multiply_stage<kFormat, kTiles8>(pipe, at, to, s.count * s.blocks, rows.count, part, tiles_of);
    });
    at.advance(pipe.slots);
    to.advance(pipe.sum_slots);
  });
}

// `up` is the finished sum eight rows further down the strip.
WEIR_DEVICE void finish(const GpuPackedOutput& out, int strip, int row, int r, float sum, float up, float before) {
  if (out.kind == kPackedSwiglu) {
    const int n = strip * (kStripRows / 2) + row;
    if (row >= kStripRows / 2 || n >= out.weight.n / 2) return;
    static_cast<uint16_t*>(out.y)[r * out.y_stride + n] = device::to_bf16(device::silu(sum) * up);
    return;
  }
  const int n = strip * kStripRows + row;
  if (n >= out.weight.n) return;
  static_cast<float*>(out.y)[r * out.y_stride + n] = out.kind == kPackedAdd ? before + sum : sum;
}

// The warps that join: thread i holds row i % 16 of the strip of input rows i / 16, i / 16 + 4, ...
template <int kTiles8>
WEIR_DEVICE void join(const GpuPackedLinearArgs& args, const Pipe& pipe, Rows rows) {
  constexpr int kApart = kPackedJoiners / kStripRows;
  constexpr int kEach = 8 * kTiles8 / kApart;
  device::wait_for_previous();
  const int thread = static_cast<int>(threadIdx.x) - (kPackedThreads - kPackedJoiners);
  const int row = thread % kStripRows;
  const int column = thread / kStripRows;
  float totals[kEach];
  float before[kEach];
  RingPlace to;
  for_each_stage(args, [&](const Stage& s) {
    const GpuPackedOutput& out = args.outputs[s.output];
    const GpuPacked& w = out.weight;
    const auto place = [&](int strip, int r) {
      return static_cast<float*>(out.y) + (rows.first + r) * out.y_stride + (s.strip + strip) * kStripRows + row;
    };
    if (s.block == 0) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int r = column + i * kApart;
        totals[i] = 0;
        before[i] = 0;
        if (out.kind == kPackedAdd && r < rows.count && s.strip * kStripRows + row < w.n) before[i] = *place(0, r);
      }
    }
    pipe.joined.wait_filled(to);
    const float* sums = pipe.sum_slot(to) + row;
    const float* scales = pipe.sum_scales(to) + row / 8;
    for (int strip = 0; strip < s.count; ++strip) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        if (thread / device::kWarp * 2 + i * kApart >= rows.count) continue;  // the same for a whole warp
        const int r = column + i * kApart;
        const int unit = strip * s.blocks;
        float total = join_blocks(s.block == 0 ? 0.0F : totals[i],
                                  sums + (unit * rows.count + min(r, rows.count - 1)) * kStripRows,
                                  rows.count * kStripRows, scales + 2 * unit, s.blocks);
        totals[i] = total;
        if (!s.last) continue;
        if (w.row_scales != nullptr) total *= w.row_scales[(s.strip + strip) * kStripRows + row];
        const float up = __shfl_down_sync(device::kAllLanes, total, kStripRows / 2);
        if (r >= rows.count) continue;
        const bool here = (s.strip + strip) * kStripRows + row < w.n;
        if (strip > 0 && out.kind == kPackedAdd && here) before[i] = *place(strip, r);
        finish(out, s.strip + strip, row, rows.first + r, total, up, before[i]);
      }
    }
    RingBarriers::arrive(&pipe.joined.free[to.slot]);
    to.advance(pipe.sum_slots);
  });
}

template <int kTiles8>
WEIR_DEVICE void linear_packed(const GpuPackedLinearArgs& args) {
  extern __shared__ __align__(128) uint8_t shared[];
  constexpr int kRows = 8 * kTiles8;
  Rows rows;
  rows.first = static_cast<int>(blockIdx.x) % args.groups * kRows;
  rows.count = min(kRows, args.rows - rows.first);
  Pipe pipe;
  Columns columns;
  columns.row_bytes = packed_row_bytes(args.k);
  columns.rows = rows.count;
  columns.data = shared;
  uint8_t* behind = columns.data + static_cast<int64_t>(rows.count + 1) * columns.row_bytes;
  float* squares = reinterpret_cast<float*>(
      pipe.lay_out(behind, args.slots, args.slot_bytes, args.units, rows.count, args.sum_slots));
  pipe.init();
  if (device::warp() < kPackedWarps) return multiply<kTiles8>(args, pipe, rows, columns, squares);
  if (device::warp() == kPackedBringer) return bring_weights(args, pipe);
  join<kTiles8>(args, pipe, rows);
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_linear_packed_8, GpuPackedLinearArgs, kPackedThreads, 2) {
  linear_packed<1>(args);
}
WEIR_KERNEL_BOUNDED(weir_linear_packed_16, GpuPackedLinearArgs, kPackedThreads, 2) {
  linear_packed<2>(args);
}

}  // namespace weir
