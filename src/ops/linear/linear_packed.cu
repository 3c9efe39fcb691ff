// Few rows times packed weights: bound by reading the weights once. A block takes a contiguous share of all strips, by
// bytes; who brings, multiplies and joins: packed_ring.h. The ring is filled from before the rows are known.
#include "ops/linear/linear_packed_args.h"
#include "ops/linear/packed_ring.h"

namespace weir {
namespace {

// The stages of a block: of every output its share of strips, each cut into stages; short strips lie together in one.
struct LinearWalk {
  const GpuPackedLinearArgs& args;
  unsigned low;
  unsigned high;
  unsigned base = 0;  // cost of the outputs before
  int output = 0;
  int strip = 0;
  int end = 0;
  int stage = 0;   // of the strip
  int blocks = 0;  // of K of a strip
  int limit = 0;   // units of a stage at most
  int together = 1;
  int count = 1;  // strips of this stage

  WEIR_DEVICE explicit LinearWalk(const GpuPackedLinearArgs& a) : args(a) {
    const unsigned share = gridDim.x / static_cast<unsigned>(args.groups);
    const unsigned index = blockIdx.x / static_cast<unsigned>(args.groups);
    low = args.total_cost * index / share;
    high = args.total_cost * (index + 1) / share;
    find();
  }
  WEIR_DEVICE const GpuPackedOutput& out() const { return args.outputs[output]; }
  WEIR_DEVICE const GpuPacked& weight() const { return args.outputs[output].weight; }
  // The first output from this on that this block has strips of.
  WEIR_DEVICE void find() {
    for (; output < args.count; ++output) {
      const GpuPacked& w = weight();
      const unsigned cost = packed_strip_cost(w);
      const auto first_behind = [&](unsigned at) {
        const unsigned s = at <= base ? 0 : (at - base + cost - 1) / cost;
        return static_cast<int>(min(s, static_cast<unsigned>(w.strips)));
      };
      strip = first_behind(low);
      end = first_behind(high);
      if (strip < end) {
        blocks = (w.tiles + 1) / 2;
        limit = packed_stage_units(w.format, args.ring.units);
        together = w.tiles % 2 == 0 && 2 * blocks <= limit ? limit / blocks : 1;
        count = min(together, end - strip);
        return;
      }
      base += cost * static_cast<unsigned>(w.strips);
    }
  }
  WEIR_DEVICE bool more() const { return output < args.count; }
  WEIR_DEVICE void next_output() {
    base += packed_strip_cost(weight()) * static_cast<unsigned>(weight().strips);
    ++output;
    find();
  }
  WEIR_DEVICE void next() {
    if (!last()) {
      ++stage;
      return;
    }
    stage = 0;
    strip += count;
    count = min(together, end - strip);
    if (count <= 0) next_output();
  }
  WEIR_DEVICE bool last() const { return (stage + 1) * limit >= blocks; }
  WEIR_DEVICE int blocks_of_strip() const { return min(limit, blocks - stage * limit); }
  WEIR_DEVICE int units() const { return count * blocks_of_strip(); }
  WEIR_DEVICE uint32_t bytes() const {
    const int tiles = together > 1 ? count * weight().tiles : min(2 * limit, weight().tiles - 2 * stage * limit);
    return static_cast<uint32_t>(tiles * packed_tile_bytes(weight().format));
  }
  WEIR_DEVICE const uint8_t* source() const {
    const int64_t tile = static_cast<int64_t>(strip) * weight().tiles + 2 * stage * limit;
    return weight().data + tile * packed_tile_bytes(weight().format);
  }
  WEIR_DEVICE const float* scale(int i) const {
    const float* scales = weight().scales;
    return scales == nullptr ? nullptr : scales + (static_cast<int64_t>(strip) * blocks + stage * limit) * 2 + i;
  }
  // From the first stage of an output: all of them.
  WEIR_DEVICE PackedRun run() const {
    const int strips = end - strip;
    if (together > 1) {
      const int stages = (strips + together - 1) / together;
      return {stages, stages, together * blocks, (strips - (stages - 1) * together) * blocks};
    }
    const int a_strip = (blocks + limit - 1) / limit;
    return {strips * a_strip, a_strip, limit, blocks - (a_strip - 1) * limit};
  }
};

WEIR_DEVICE void bring_weights(LinearWalk walk, const Pipe& pipe) {
  if (device::lane() != 0) return;
  RingPlace at;
  for (; walk.more(); walk.next()) {
    pipe.weights.wait_free(at);
    device::barrier_expect(&pipe.weights.filled[at.slot], walk.bytes());
    device::bulk_copy_once(pipe.slot(at), walk.source(), walk.bytes(), &pipe.weights.filled[at.slot]);
    at.advance(pipe.size.slots);
  }
}

// The rows of a block, in shared memory in the types that the outputs take.
struct Rows {
  int first;
  int count;
  int row_bytes;
  uint8_t* of[2];  // by operand type; those of a type that nobody takes are not there

  WEIR_DEVICE Rows(const GpuPackedLinearArgs& args, uint8_t* shared, int most) {
    first = static_cast<int>(blockIdx.x) % args.groups * most;
    count = min(most, args.rows - first);
    row_bytes = packed_row_bytes(args.k);
    of[kOperandBf16] = shared;
    of[kOperandF16] = shared + ((args.types & 1 << kOperandBf16) != 0 ? count * row_bytes : 0);
  }
  WEIR_DEVICE uint8_t* behind(const GpuPackedLinearArgs& args) const {
    return ((args.types & 1 << kOperandF16) != 0 ? of[kOperandF16] : of[kOperandBf16]) + count * row_bytes;
  }
  WEIR_DEVICE static int64_t source(const GpuPackedLinearArgs& args, int row) {
    return (args.x_rows == nullptr ? row : args.x_rows[row]) * args.x_stride;
  }
};

// Rows as they are, by the warps that multiply.
WEIR_DEVICE void copy_rows(const GpuPackedLinearArgs& args, const Rows& rows) {
  const int chunks = args.k / 8;
#pragma unroll
  for (int type = 0; type < 2; ++type) {
    if ((args.types >> type & 1) == 0) continue;
    const uint16_t* x = type == kOperandF16 ? args.x_f16 : args.x_bf16;
    for (int r = 0; r < rows.count; ++r) {
      const uint16_t* from = x + Rows::source(args, rows.first + r);
      uint8_t* to = rows.of[type] + r * rows.row_bytes;
      for (int i = static_cast<int>(threadIdx.x); i < chunks; i += kPackedMultiplying) {
        device::copy16(to + 16 * i, from + 8 * i);
      }
    }
  }
  device::copies_commit();
  device::copies_wait<0>();
}

// Rows that are normed: warp w sums the squares of the w-th eighth of each row, the eighths are added in ascending
// order. Each warp reads its eighth of the weight before the rows are there.
struct NormedRows {
  static constexpr int kKept = 2;  // groups of four floats of a lane
  float4 norm[kKept];
  int begin;
  int end;

  WEIR_DEVICE explicit NormedRows(const GpuPackedLinearArgs& args) {
    const int eighth = args.k / kPackedWarps / 4;  // in groups of four floats
    begin = device::warp() * eighth + device::lane();
    end = (device::warp() + 1) * eighth;
#pragma unroll
    for (int i = 0; i < kKept; ++i) {
      const int at = begin + i * device::kWarp;
      norm[i] = at < end ? __ldg(reinterpret_cast<const float4*>(args.norm) + at) : float4{};
    }
  }
  WEIR_DEVICE void sum_squares(const GpuPackedLinearArgs& args, const Rows& rows, float* squares) const {
#pragma unroll 4
    for (int r = 0; r < rows.count; ++r) {
      const auto* x = reinterpret_cast<const float4*>(args.x + Rows::source(args, rows.first + r));
      float sum = 0;
#pragma unroll 2
      for (int i = begin; i < end; i += device::kWarp) {
        const float4 v = x[i];
        sum = fmaf(v.w, v.w, fmaf(v.z, v.z, fmaf(v.y, v.y, fmaf(v.x, v.x, sum))));
      }
      sum = device::warp_sum(sum);
      if (device::lane() == 0) squares[r * kPackedWarps + device::warp()] = sum;
    }
  }
  WEIR_DEVICE void keep(const GpuPackedLinearArgs& args, const Rows& rows, int r, int i, float4 n, float scale) const {
    const float4 v = reinterpret_cast<const float4*>(args.x + Rows::source(args, rows.first + r))[i];
    const float4 y = {(1.0F + n.x) * (v.x * scale), (1.0F + n.y) * (v.y * scale), (1.0F + n.z) * (v.z * scale),
                      (1.0F + n.w) * (v.w * scale)};
    const bool writes = blockIdx.x < static_cast<unsigned>(args.groups);
    const int64_t out = static_cast<int64_t>(rows.first + r) * args.k;
#pragma unroll
    for (int type = 0; type < 2; ++type) {
      const bool f16 = type == kOperandF16;
      const uint2 pair = {device::half_pair(f16, y.x, y.y), device::half_pair(f16, y.z, y.w)};
      uint16_t* x_out = f16 ? args.x_out_f16 : args.x_out_bf16;
      if ((args.types >> type & 1) != 0) reinterpret_cast<uint2*>(rows.of[type] + r * rows.row_bytes)[i] = pair;
      if (writes && x_out != nullptr) reinterpret_cast<uint2*>(x_out + out)[i] = pair;
    }
    if (writes && args.normed_out != nullptr) reinterpret_cast<float4*>(args.normed_out + out)[i] = y;
  }
  WEIR_DEVICE void take(const GpuPackedLinearArgs& args, const Rows& rows, float* squares) const {
    sum_squares(args, rows, squares);
    device::threads_barrier(1, kPackedMultiplying);
    float scale_of_lane = 0;  // of row `lane`
    if (device::lane() < rows.count) {
      float sum = 0;
#pragma unroll
      for (int i = 0; i < kPackedWarps; ++i) sum += squares[device::lane() * kPackedWarps + i];
      scale_of_lane = 1.0F / sqrtf(sum / static_cast<float>(args.k) + args.eps);
    }
#pragma unroll 2
    for (int r = 0; r < rows.count; ++r) {
      const float scale = __shfl_sync(device::kAllLanes, scale_of_lane, r);
#pragma unroll
      for (int i = 0; i < kKept; ++i) {
        if (begin + i * device::kWarp < end) keep(args, rows, r, begin + i * device::kWarp, norm[i], scale);
      }
      for (int i = begin + kKept * device::kWarp; i < end; i += device::kWarp) {
        keep(args, rows, r, i, __ldg(reinterpret_cast<const float4*>(args.norm) + i), scale);
      }
    }
  }
};

WEIR_DEVICE void take_rows(const GpuPackedLinearArgs& args, const Rows& rows, float* squares) {
  if (args.norm != nullptr) {
    const NormedRows normed(args);
    device::wait_for_previous();
    device::start_next();
    normed.take(args, rows, squares);
  } else {
    device::wait_for_previous();
    device::start_next();
    copy_rows(args, rows);
  }
  device::threads_barrier(1, kPackedMultiplying);
}

// The warps that multiply: output by output.
template <int kTiles8>
WEIR_DEVICE void multiply(LinearWalk walk, const Pipe& pipe, const Rows& rows) {
  RingPlace at;
  RingPlace to;
  for (; walk.more(); walk.next_output()) {
    const GpuPacked& w = walk.weight();
    const PackedRun run = walk.run();
    const uint8_t* x = rows.of[operand_type(w.format)];
    OwnUnit own[2];
    uint32_t columns[2][kTiles8];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int u = device::warp() + i * kPackedWarps;
      own[i] = {u * packed_unit_bytes(w.format), false, w.tiles % 2 != 0 && u == run.tail - 1};
      const int block = walk.together > 1 ? u % walk.blocks : u;
#pragma unroll
      for (int c = 0; c < kTiles8; ++c) {
        const int row = min(8 * c + device::lane() % 8, rows.count - 1);
        columns[i][c] = column_address(x, rows.row_bytes, row, block * kBlockK);
      }
    }
    const auto step = static_cast<uint32_t>(walk.together > 1 ? 0 : walk.limit * kBlockK * 2);
    with_packed_format(
        w.format, [&]<int kFormat>() { multiply_run<kFormat, kTiles8, false>(pipe, at, to, run, own, columns, step); });
  }
}

// `up` is the finished sum eight rows further down the strip.
WEIR_DEVICE void finish(const GpuPackedOutput& out, int strip, int row, int r, float sum, float up, float before) {
  if (out.kind == kPackedSwiglu) {
    const int n = strip * (kStripRows / 2) + row;
    if (row >= kStripRows / 2 || n >= out.weight.n / 2) return;
    static_cast<uint16_t*>(out.y)[r * out.y_stride + n] =
        static_cast<uint16_t>(device::half_pair(out.y_type == kOperandF16, device::silu(sum) * up, 0.0F));
    return;
  }
  const int n = strip * kStripRows + row;
  if (n >= out.weight.n) return;
  static_cast<float*>(out.y)[r * out.y_stride + n] = out.kind == kPackedAdd ? before + sum : sum;
}

// The warps that join: thread i holds row i % 16 of the strip of input rows i / 16, i / 16 + 4, ...
template <int kTiles8>
WEIR_DEVICE void join(LinearWalk walk, const Pipe& pipe, const Rows& rows) {
  constexpr int kApart = kPackedJoinWarps * device::kWarp / kStripRows;
  constexpr int kEach = 8 * kTiles8 / kApart;
  ScaleReader<LinearWalk> reader(pipe.scales, walk);
  device::wait_for_previous();
  const int thread = static_cast<int>(threadIdx.x) - kPackedJoining;
  const int row = thread % kStripRows;
  const int column = thread / kStripRows;
  float totals[kEach];
  float before[kEach];
  RingPlace to;
  for (; walk.more(); walk.next()) {
    const GpuPackedOutput& out = walk.out();
    const auto there = [&](int strip) { return (walk.strip + strip) * kStripRows + row < out.weight.n; };
    const auto place = [&](int strip, int r) {
      return static_cast<float*>(out.y) + (rows.first + r) * out.y_stride + (walk.strip + strip) * kStripRows + row;
    };
    if (walk.stage == 0) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int r = column + i * kApart;
        totals[i] = 0;
        before[i] = out.kind == kPackedAdd && r < rows.count && there(0) ? *place(0, r) : 0.0F;
      }
    }
    const float* scales = reader.next() + row / 8;
    pipe.joined.wait_filled(to);
    const int blocks = walk.blocks_of_strip();
    for (int strip = 0; strip < walk.count; ++strip) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        if (thread / device::kWarp * 2 + i * kApart >= rows.count) continue;  // the same for a whole warp
        const int r = column + i * kApart;
        const int unit = strip * blocks;
        float total = join_blocks<8>(walk.stage == 0 ? 0.0F : totals[i],
                                     pipe.unit(to, unit) + min(r, rows.count - 1) * kSumStride + row,
                                     pipe.unit_stride(), scales + 2 * unit, blocks);
        totals[i] = total;
        if (!walk.last()) continue;
        if (out.weight.row_scales != nullptr) total *= out.weight.row_scales[(walk.strip + strip) * kStripRows + row];
        const float up = __shfl_down_sync(device::kAllLanes, total, kStripRows / 2);
        if (r >= rows.count) continue;
        if (strip > 0 && out.kind == kPackedAdd && there(strip)) before[i] = *place(strip, r);
        finish(out, walk.strip + strip, row, rows.first + r, total, up, before[i]);
      }
    }
    device::warp_arrive(&pipe.joined.free[to.slot]);
    to.advance(pipe.size.sum_slots);
  }
}

template <int kTiles8>
WEIR_DEVICE void linear_packed(const GpuPackedLinearArgs& args) {
  extern __shared__ __align__(128) uint8_t shared[];
  const Rows rows(args, shared, 8 * kTiles8);
  const Pipe pipe(args.ring, rows.behind(args));
  const LinearWalk walk(args);
  if (brings()) return bring_weights(walk, pipe);
  if (!multiplies()) return join<kTiles8>(walk, pipe, rows);
  take_rows(args, rows, reinterpret_cast<float*>(pipe.behind()));
  multiply<kTiles8>(walk, pipe, rows);
}

}  // namespace

WEIR_KERNEL_BOUNDED(weir_linear_packed_8, GpuPackedLinearArgs, kPackedThreads, 2) {
  linear_packed<1>(args);
}
WEIR_KERNEL_BOUNDED(weir_linear_packed_16, GpuPackedLinearArgs, kPackedThreads, 1) {
  linear_packed<2>(args);
}

}  // namespace weir
