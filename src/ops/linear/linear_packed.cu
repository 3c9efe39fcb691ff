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
  const int64_t share = gridDim.x / args.groups;
  const int64_t index = blockIdx.x / args.groups;
  const int64_t low = args.total_bytes * index / share;
  const int64_t high = args.total_bytes * (index + 1) / share;
  int64_t base = 0;
  for (int o = 0; o < args.count; ++o) {
    const GpuPacked& w = args.outputs[o].weight;
    const int tile_bytes = packed_tile_bytes(w.format);
    const int64_t strip_bytes = int64_t{w.tiles} * tile_bytes;
    const auto first_behind = [&](int64_t byte) {
      const int64_t strip = (byte - base + strip_bytes - 1) / strip_bytes;
      return static_cast<int>(byte <= base ? 0 : (strip < w.strips ? strip : w.strips));
    };
    const int end = first_behind(high);
    const int all = (w.tiles + 1) / 2;
    const int fit = args.slot_bytes / (2 * tile_bytes);
    const int per = fit < kPackedWarps ? fit : kPackedWarps;
    const int together = all <= per ? per / all : 1;
    for (int strip = first_behind(low); strip < end; strip += together) {
      const int count = end - strip < together ? end - strip : together;
      for (int block = 0; block < all; block += per) {
        const int blocks = all - block < per ? all - block : per;
        f(Stage{o, strip, count, block, blocks, block + blocks == all});
      }
    }
    base += strip_bytes * w.strips;
  }
}

WEIR_DEVICE void bring_weights(const GpuPackedLinearArgs& args, const Ring& ring) {
  if (device::lane() != 0) return;
  RingPlace at;
  for_each_stage(args, [&](const Stage& s) {
    const GpuPacked& w = args.outputs[s.output].weight;
    const int tile_bytes = packed_tile_bytes(w.format);
    const int tiles = s.count > 1 ? s.count * w.tiles : min(2 * s.blocks, w.tiles - 2 * s.block);
    const auto bytes = static_cast<uint32_t>(tiles * tile_bytes);
    ring.wait_free(at);
    const ScaleRange range(w, s.strip, s.count, s.block, s.blocks);
    device::barrier_expect(&ring.filled[at.slot], bytes + (w.scales != nullptr ? range.bytes() : 0));
    device::bulk_copy(ring.slot(at), w.data + (static_cast<int64_t>(s.strip) * w.tiles + 2 * s.block) * tile_bytes,
                      bytes, &ring.filled[at.slot]);
    if (w.scales != nullptr) {
      device::bulk_copy(ring.scale_slot(at), w.scales + range.first, range.bytes(), &ring.filled[at.slot]);
    }
    at.advance(ring.slots);
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
    for (int i = thread; i < rows.count * chunks; i += kPackedComputing) {
      const int r = i / chunks;
      const int c = i % chunks;
      reinterpret_cast<uint4*>(columns.data + static_cast<int64_t>(r) * columns.row_bytes)[c] =
          reinterpret_cast<const uint4*>(args.x_bf16 + source(r))[c];
    }
    device::threads_barrier(1, kPackedComputing);
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
  device::threads_barrier(1, kPackedComputing);
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
  device::threads_barrier(1, kPackedComputing);
}

// `up` is the finished sum eight rows further down the strip.
WEIR_DEVICE void finish(const GpuPackedOutput& out, int strip, int row, int r, float sum, float up) {
  if (out.kind == kPackedSwiglu) {
    const int n = strip * (kStripRows / 2) + row;
    if (row >= kStripRows / 2 || n >= out.weight.n / 2) return;
    static_cast<uint16_t*>(out.y)[r * out.y_stride + n] = device::to_bf16(device::silu(sum) * up);
    return;
  }
  const int n = strip * kStripRows + row;
  if (n >= out.weight.n) return;
  float* y = static_cast<float*>(out.y) + r * out.y_stride + n;
  *y = out.kind == kPackedAdd ? *y + sum : sum;
}

template <int kTiles8>
WEIR_DEVICE void linear_packed(const GpuPackedLinearArgs& args) {
  extern __shared__ __align__(128) uint8_t shared[];
  constexpr int kRows = 8 * kTiles8;
  Rows rows;
  rows.first = static_cast<int>(blockIdx.x) % args.groups * kRows;
  rows.count = min(kRows, args.rows - rows.first);
  Ring ring;
  ring.slots = args.slots;
  ring.slot_bytes = args.slot_bytes;
  ring.data = shared;
  ring.scales = ring.data + static_cast<int64_t>(args.slots) * args.slot_bytes;
  Columns columns;
  columns.data = ring.scales + args.slots * kScaleSlotBytes;
  columns.row_bytes = packed_row_bytes(args.k);
  columns.rows = rows.count;
  float* partials = reinterpret_cast<float*>(columns.data + static_cast<int64_t>(rows.count + 1) * columns.row_bytes);
  const int partial_floats = kPackedWarps * rows.count * kStripRows;
  float* squares = partials + 2 * partial_floats;
  ring.filled = reinterpret_cast<device::Barrier*>(squares + kRows * kPackedWarps);
  ring.free = ring.filled + args.slots;
  ring.init();
  if (device::warp() == kPackedWarps) return bring_weights(args, ring);

  const int thread = static_cast<int>(threadIdx.x);
  columns.zero_row(thread, kPackedComputing);
  device::wait_for_previous();
  device::start_next();
  take_rows(args, rows, columns, squares);
  uint32_t addresses[kTiles8];
#pragma unroll
  for (int c = 0; c < kTiles8; ++c) addresses[c] = columns.address(8 * c + device::lane() % 8);

  RingPlace at;
  float carried = 0;
  int buffer = 0;
  for_each_stage(args, [&](const Stage& s) {
    const GpuPackedOutput& out = args.outputs[s.output];
    const GpuPacked& w = out.weight;
    const int all = (w.tiles + 1) / 2;
    float* mine = partials + buffer * partial_floats;
    buffer ^= 1;
    ring.wait_filled(at);
    if (device::warp() < s.count * s.blocks) {
      const int strip = device::warp() / s.blocks;
      const int block = device::warp() % s.blocks;
      const int unit = 2 * packed_tile_bytes(w.format);
      const uint8_t* weights = ring.slot(at) + strip * w.tiles * (unit / 2) + block * unit;
      const int tiles = min(2, w.tiles - 2 * (s.block + block));
      uint32_t here[kTiles8];
#pragma unroll
      for (int c = 0; c < kTiles8; ++c) here[c] = addresses[c] + static_cast<uint32_t>((s.block + block) * kBlockK * 2);
      float d[kTiles8][4];
      with_packed_format(w.format, [&]<int kFormat>() { block_product<kFormat, kTiles8>(weights, tiles, here, d); });
      keep_partials<kTiles8>(mine, rows.count, d);
    }
    device::threads_barrier(1, kPackedComputing);
    const ScaleRange range(w, s.strip, s.count, s.block, s.blocks);
    const float* scales = ring.scale_slot(at);
    const int values = s.count * rows.count * kStripRows;
    for (int first = device::warp() * device::kWarp; first < values; first += kPackedComputing) {
      const int i = min(first + device::lane(), values - 1);
      const int row = i % kStripRows;
      const int r = i / kStripRows % rows.count;
      const int strip = i / kStripRows / rows.count;
      float sum = s.block == 0 ? 0.0F : carried;
      const int64_t scale_at = ((static_cast<int64_t>(s.strip) + strip) * all + s.block) * 2 + row / 8 - range.first;
      for (int b = 0; b < s.blocks; ++b) {
        const float part = mine[((strip * s.blocks + b) * rows.count + r) * kStripRows + row];
        sum = w.scales != nullptr ? fmaf(part, scales[scale_at + 2 * b], sum) : sum + part;
      }
      carried = sum;
      if (s.last && w.row_scales != nullptr) sum *= w.row_scales[(s.strip + strip) * kStripRows + row];
      const float up = __shfl_down_sync(device::kAllLanes, sum, kStripRows / 2);
      if (s.last && first + device::lane() < values) finish(out, s.strip + strip, row, rows.first + r, sum, up);
    }
    ring.release(at);
    at.advance(ring.slots);
  });
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_linear_packed_8, GpuPackedLinearArgs, kPackedThreads, 2) {
  linear_packed<1>(args);
}
WEIR_KERNEL_BOUNDED(weir_linear_packed_16, GpuPackedLinearArgs, kPackedThreads, 2) {
  linear_packed<2>(args);
}

}  // namespace weir
