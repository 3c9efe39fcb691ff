// The sparse experts over more rows than moe_few.cu's, at most eight: bound by reading the weights of the rows'
// experts. Every block of the first kernel works out the routing for itself. The experts that a row or several have
// chosen are numbered in ascending order, and each one is read and multiplied once: column r of a product is row r, and
// columns of rows that have not chosen it are left out. few_units.h says how weights are worked off.
#include "ops/moe/few_experts.h"

namespace weir {
namespace {

// What a block of the first kernel knows of the routing beside what it works by.
template <int kEach>
struct OnceRouting {
  OnceRoutes routes;
  uint32_t bits[kEach];                   // which experts a row has chosen
  uint8_t number[kEach * device::kWarp];  // of such an expert
  int pairs;                              // the block's dots

  // By all threads, before the kernel waits; afterwards it is complete for all.
  WEIR_DEVICE void clear(const GpuFewExpertsArgs& args) {
    const int thread = static_cast<int>(threadIdx.x);
    const uint32_t none = static_cast<uint32_t>(args.rows * (args.top_k + args.shared)) * 0x01010101U;
    if (thread < args.rows * args.top_k + args.shared) {
      *reinterpret_cast<uint2*>(routes.columns[thread]) = uint2{none, none};
    }
    if (thread < kEach) bits[thread] = 0;
    if (thread == 0) pairs = 0;
    __syncthreads();
  }

  // A row by a warp: its expert of each slot, by lane, in no order.
  WEIR_DEVICE int choose(const GpuFewExpertsArgs& args, int row) {
    const float* logits = args.router + row * (args.experts + args.shared);
    const int chosen = best_of_row<kEach>(logits, args.experts, args.top_k, false).expert;
    if (device::lane() < args.top_k) atomicOr(&bits[chosen / device::kWarp], 1U << (chosen % device::kWarp));
    return chosen;
  }

  // By all threads, after choose(): afterwards there are routes.experts and routes.count.
  WEIR_DEVICE void number_experts(const GpuFewExpertsArgs& args) {
    __syncthreads();
    const int lane = device::lane();
    const uint32_t word = lane < kEach ? bits[lane] : 0;
    const int ones = __popc(word);
    // A warp a word, and one for the end.
#pragma unroll 1
    for (int w = device::warp(); w <= kEach; w += kFewThreads / device::kWarp) {
      const int below =
          static_cast<int>(__reduce_add_sync(device::kAllLanes, static_cast<unsigned>(lane < w ? ones : 0)));
      const uint32_t own = __shfl_sync(device::kAllLanes, word, w);
      if ((own >> lane & 1U) != 0) {
        const int at = below + __popc(own & ((1U << lane) - 1));
        const int expert = w * device::kWarp + lane;
        routes.experts[at] = expert;
        number[expert] = static_cast<uint8_t>(at);
      }
      if (w == kEach && lane == 0) {
        routes.count = below;
        if (args.shared != 0) routes.experts[below] = args.experts;
      }
    }
    __syncthreads();
  }

  // The entries of a row by its warp, after number_experts(). The lanes below top_k have one of the experts that
  // choose() gave, the next one the shared expert.
  struct Entry {
    int number;
    int entry;
  };
  WEIR_DEVICE Entry enter(const GpuFewExpertsArgs& args, int row, int chosen, bool weigh) {
    const int lane = device::lane();
    const bool routed = lane < args.top_k;
    const float* logits = args.router + row * (args.experts + args.shared);
    const bool there = lane < args.top_k + args.shared;
    const float logit = weigh && there ? __ldcg(logits + (routed ? chosen : args.experts)) : 0.0F;
    const int slot = few_slot(args, chosen);
    Entry out = {routes.count, args.rows * args.top_k + row};
    if (routed) out = {number[chosen], row * args.top_k + slot};
    if (there) {
      routes.columns[out.number][row] = static_cast<uint8_t>(out.entry);
      routes.numbers[out.entry] = static_cast<uint8_t>(out.number);
    }
    if (!weigh) return out;
    const float weight = few_weight(route_key(logit), args.top_k);
    if (there) routes.weights[out.entry] = routed ? weight : device::sigmoid(logit);
    return out;
  }
};

// A column's sums of a unit into those of what it stands for, `size` apart; nowhere if that is `none`.
WEIR_DEVICE void keep_column(float* sums, int of, int none, int size, float low, float high) {
  if (of == none) return;
  sums += of * size;
  sums[0] = low;
  sums[8] = high;
}

// The block's shared memory: ring, rows, sums, barriers, scales.
struct OnceShared {
  FewRing ring;
  uint8_t* rows;  // [count][row_bytes]
  float* sums;    // [dots][sum_floats], of which [blocks][16] are used
  float* scales;  // [items][scale_floats], of which [blocks][2] are used
  void* behind;
  int row_bytes;
  int sum_floats;
  int scale_floats;

  WEIR_DEVICE OnceShared(const GpuFewExpertsArgs& args, uint8_t* shared, int count, int width, int dots, int items,
                         int pad) {
    const int blocks = width / kBlockK;
    row_bytes = 2 * width + kOnceRowPad;
    sum_floats = blocks * kStripRows + pad;
    scale_floats = 2 * blocks + kOnceScalesPad;
    rows = shared + args.ring_bytes;
    sums = reinterpret_cast<float*>(rows + count * row_bytes);
    auto* barriers = reinterpret_cast<device::Barrier*>(sums + dots * sum_floats);
    scales = reinterpret_cast<float*>(barriers + kFewBarriers);
    behind = scales + items * scale_floats;
    ring = few_experts_ring(args, shared, barriers);
  }
};

// By the warp that brings: all `count` units, as bring_chunk() has them.
template <class Strip, class Offset>
WEIR_DEVICE void bring_items(const GpuFewExpertsArgs& args, const FewRing& ring, const uint8_t* weights, int count,
                             int blocks, const Strip& strip_of, const Offset& offset_of) {
  const int block_bits = log_of(blocks);
  const int together = min(kFewWarps, blocks);
  const auto fill = [&](int chunk, uint8_t* slot, device::Barrier* barrier) {
    bring_chunk(weights, chunk, count, together, blocks, block_bits, slot, barrier, strip_of, offset_of);
  };
  ring.bring((count + kFewWarps - 1) / kFewWarps, args.under_way, fill);
}

// What the first kernel's blocks share: the strips of the chosen experts, strip by strip of expert by expert. Every
// gridDim-th one is the block's, its item: of an expert it has no more than `strips / gridDim`, rounded up, so whatever
// the rows choose there is room for their sums.
struct OnceItems {
  unsigned grid = gridDim.x;
  unsigned block = blockIdx.x;
  unsigned inverse = 0xffffffffU / gridDim.x + 1;  // divides by the grid what is far below 2^32 / grid
  int strip_bits;

  WEIR_DEVICE explicit OnceItems(int strips) : strip_bits(log_of(strips)) {
    asm volatile("" : "+r"(inverse));  // else the compiler would work it out where it is needed, late
  }
  // The block's first item at or behind strip `index` of all.
  WEIR_DEVICE int from(int index) const {
    return static_cast<int>(__umulhi(static_cast<unsigned>(index) + grid - 1 - block, inverse));
  }
  WEIR_DEVICE int index(int item) const { return static_cast<int>(block + static_cast<unsigned>(item) * grid); }
  WEIR_DEVICE int number(int item) const { return index(item) >> strip_bits; }
  WEIR_DEVICE int strip(int item) const { return index(item) & ((1 << strip_bits) - 1); }
};

// An item's dots with the rows that have chosen its expert.
struct OnceDots {
  static constexpr int kNone = 0xffff;
  uint16_t* of_item;  // [items][8], by row
  int* of;            // by dot: its item, times 256, and its entry

  WEIR_DEVICE OnceDots(void* memory, int items)
      : of_item(static_cast<uint16_t*>(memory)), of(reinterpret_cast<int*>(of_item + items * kFewMoeRows)) {}

  // By all threads.
  WEIR_DEVICE void clear(int items) const {
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < items * kFewMoeRows / 2; i += kFewThreads) {
      reinterpret_cast<uint32_t*>(of_item)[i] = 0xffffffffU;
    }
  }
  // Those of an entry, the number of whose expert is known; in whatever order, as no dot has to do with another one.
  WEIR_DEVICE void enter(const OnceItems& items, int row, int entry, int number, int* count) const {
#pragma unroll 1
    for (int item = items.from(number << items.strip_bits); items.number(item) == number; ++item) {
      const int dot = atomicAdd(count, 1);
      of_item[item * kFewMoeRows + row] = static_cast<uint16_t>(dot);
      of[dot] = item << 8 | entry;
    }
  }
};

// What join_units() makes of a dot of gate and of the one of up, eight rows behind it.
WEIR_DEVICE float2 join_pairs(const float* sums, const float* scales, int blocks) {
  constexpr int kTogether = 4;
  float gate = 0;
  float up = 0;
#pragma unroll 1
  for (int first = 0; first < blocks; first += kTogether) {
    float2 part[kTogether];
    float2 scale[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int block = min(first + i, blocks - 1);
      part[i] = {sums[block * kStripRows], sums[block * kStripRows + kStripRows / 2]};
      scale[i] = reinterpret_cast<const float2*>(scales)[block];
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const float next_gate = fmaf(part[i].x, scale[i].x, gate);
      const float next_up = fmaf(part[i].y, scale[i].y, up);
      gate = first + i < blocks ? next_gate : gate;
      up = first + i < blocks ? next_up : up;
    }
  }
  return {gate, up};
}

// The hidden values of the block's `count` dots.
WEIR_DEVICE void write_hidden(const GpuFewExpertsArgs& args, const OnceShared& m, const OnceItems& items,
                              const OnceDots& dots, int count, int blocks) {
  constexpr int kRows = kStripRows / 2;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < count * kRows; i += kFewThreads) {
    const int row = i % kRows;
    const int dot = i / kRows;
    const int item = dots.of[dot] >> 8;
    const int64_t entry = dots.of[dot] & 0xff;
    const float2 sum = join_pairs(m.sums + dot * m.sum_floats + row, m.scales + item * m.scale_floats, blocks);
    args.hidden[entry * args.f + items.strip(item) * kRows + row] =
        static_cast<uint16_t>(device::f16x2(device::silu(sum.x) * sum.y, 0.0F));
  }
}

template <int kEach>
WEIR_DEVICE void gate_up(const GpuFewExpertsArgs& args, uint8_t* shared, OnceRouting<kEach>& routing) {
  const int thread = static_cast<int>(threadIdx.x);
  const int blocks = args.d / kBlockK;
  const int block_bits = log_of(blocks);
  const OnceShared m(args, shared, args.rows, args.d, args.pairs_max, args.items_max, kOnceGatePad);
  const OnceItems all(args.f / (kStripRows / 2));
  const OnceDots dots(m.behind, args.items_max);
  const auto offset_of = [&](int item) { return routing.routes.experts[all.number(item)] * args.stride; };
  if (few_brings()) m.ring.prepare();
  dots.clear(args.items_max);
  routing.clear(args);
  device::wait_for_previous();
  device::start_next();
  int chosen = 0;
  if (few_brings()) {
    if (device::lane() == 0) device::barrier_expect(m.ring.rows, args.rows * 2 * args.d);
    __syncwarp();
    if (device::lane() < args.rows) {
      device::bulk_copy(m.rows + device::lane() * m.row_bytes, args.x + device::lane() * args.d, 2 * args.d,
                        m.ring.rows);
    }
    __syncwarp();
  } else if (device::warp() < args.rows) {
    chosen = routing.choose(args, device::warp());
  }
  routing.number_experts(args);
  const int items = all.from(routing.routes.count << all.strip_bits);
  const int count = items << block_bits;
  if (few_brings()) {
    bring_items(args, m.ring, args.gate_up, count, blocks, [&](int item) { return all.strip(item); }, offset_of);
  } else {
    // While the first weights are on their way.
#pragma unroll 1
    for (int i = thread; i < count; i += kFewWarps * device::kWarp) {
      const int item = i >> block_bits;
      const int block = i & (blocks - 1);
      const auto* from =
          reinterpret_cast<const float*>(reinterpret_cast<const uint8_t*>(args.gate_up_scales) + offset_of(item));
      device::copy8(m.scales + item * m.scale_floats + 2 * block, from + 2 * (all.strip(item) << block_bits | block));
    }
    device::copies_commit();
    const bool hands_on = blockIdx.x == 0;
    if (device::warp() < args.rows) {
      const auto mine = routing.enter(args, device::warp(), chosen, hands_on);
      if (device::lane() < args.top_k) dots.enter(all, device::warp(), mine.entry, mine.number, &routing.pairs);
    }
    few_barrier();
    constexpr int kPieces = sizeof(OnceRoutes) / sizeof(uint4);
    if (hands_on && thread < kPieces) {
      reinterpret_cast<uint4*>(args.routes)[thread] = reinterpret_cast<const uint4*>(&routing.routes)[thread];
    }
    device::barrier_wait(m.ring.rows, 0);
    // Columns behind the last row are those of the last row again, and left out.
    const uint32_t base =
        device::shared_address(m.rows + min(device::lane() % 8, args.rows - 1) * m.row_bytes + device::lane() / 8 * 16);
    run_units(m.ring, count, [&](int unit, const uint8_t* place) {
      const int block = unit & (blocks - 1);
      float d[4];
      multiply_fp8(place, base + static_cast<uint32_t>(block * kBlockK * 2), d);
      const uint32_t two =
          reinterpret_cast<const uint32_t*>(dots.of_item + (unit >> block_bits) * kFewMoeRows)[device::lane() % 4];
      float* sums = m.sums + block * kStripRows + device::lane() / 4;
      keep_column(sums, static_cast<int>(two & 0xffffU), OnceDots::kNone, m.sum_floats, d[0], d[2]);
      keep_column(sums, static_cast<int>(two >> 16), OnceDots::kNone, m.sum_floats, d[1], d[3]);
    });
    device::copies_wait<0>();
  }
  __syncthreads();
  write_hidden(args, m, all, dots, routing.pairs, blocks);
}

WEIR_DEVICE void down(const GpuFewExpertsArgs& args, uint8_t* shared, OnceRoutes& routes) {
  const int thread = static_cast<int>(threadIdx.x);
  const int blocks = args.f / kBlockK;
  const int block_bits = log_of(blocks);
  const int routed = args.rows * args.top_k;
  const int entries = routed + args.rows * args.shared;
  const OnceShared m(args, shared, entries + 1, args.f, entries, routed + args.shared, kOnceDownPad);
  const int strip = static_cast<int>(blockIdx.x);
  constexpr int kRowBits = 8;  // of the bytes of a block of K
  static_assert(2 * kBlockK == 1 << kRowBits);
  const auto bring_rows = [&] {
    const auto* from = reinterpret_cast<const uint8_t*>(args.hidden);
#pragma unroll 4
    for (int i = 16 * thread; i < entries * 2 * args.f; i += 16 * kFewWarps * device::kWarp) {
      device::copy16(m.rows + i + (i >> (block_bits + kRowBits)) * kOnceRowPad, from + i);
    }
    device::copies_commit();
  };
  if (few_brings()) m.ring.prepare();
  clear_row(m.rows + entries * m.row_bytes, m.row_bytes);
  // This block does not stand beside the kernel before, whose end is near then.
  device::wait_for_previous();
  if (!few_brings()) bring_rows();
  constexpr int kPieces = sizeof(OnceRoutes) / sizeof(uint4);
  if (thread < kPieces) {
    reinterpret_cast<uint4*>(&routes)[thread] = __ldcg(reinterpret_cast<const uint4*>(args.routes) + thread);
  }
  __syncthreads();
  const int count = (routes.count + args.shared) << block_bits;
  const int row = thread % kStripRows;
  const int n = strip * kStripRows + row;
  const int r = thread / kStripRows;
  const bool writes = r < args.rows && n < args.d;
  float* y = args.y + r * args.y_stride + n;
  float before = 0;
  if (few_brings()) {
    bring_items(
        args, m.ring, args.down, count, blocks, [&](int) { return strip; },
        [&](int item) { return routes.experts[item] * args.stride; });
  } else {
#pragma unroll 1
    for (int i = thread; i < count; i += kFewWarps * device::kWarp) {
      const int number = i >> block_bits;
      const int block = i & (blocks - 1);
      const auto* from = reinterpret_cast<const float*>(reinterpret_cast<const uint8_t*>(args.down_scales) +
                                                        routes.experts[number] * args.stride);
      device::copy8(m.scales + number * m.scale_floats + 2 * block, from + 2 * (strip << block_bits | block));
    }
    device::copies_commit();
    device::start_next();
    before = args.add != 0 && writes ? __ldcg(y) : 0.0F;
    device::copies_wait<1>();  // all but the scales
    few_barrier();
    if (thread == 0) m.ring.note_rows();
    const uint32_t base = device::shared_address(m.rows + device::lane() / 8 * 16);
    run_units(m.ring, count, [&](int unit, const uint8_t* place) {
      const uint8_t* columns = routes.columns[unit >> block_bits];
      const int block = unit & (blocks - 1);
      float d[4];
      multiply_fp8(place, base + static_cast<uint32_t>(columns[device::lane() % 8] * m.row_bytes + block * kBlockK * 2),
                   d);
      const int column = 2 * (device::lane() % 4);
      float* sums = m.sums + block * kStripRows + device::lane() / 4;
      keep_column(sums, columns[column], entries, m.sum_floats, d[0], d[2]);
      keep_column(sums, columns[column + 1], entries, m.sum_floats, d[1], d[3]);
    });
  }
  device::copies_wait<0>();
  __syncthreads();
  // Every entry's dot by itself, where its first sum stood; then those of a row, weighed, in ascending order.
#pragma unroll 1
  for (int entry = r; entry < entries; entry += kFewThreads / kStripRows) {
    float* of = m.sums + entry * m.sum_floats + row;
    *of = join_units(of, kStripRows, m.scales + routes.numbers[entry] * m.scale_floats + row / 8, blocks);
  }
  __syncthreads();
  if (!writes) return;
  const auto dots = [&](int entry) { return m.sums + entry * m.sum_floats + row; };
  *y = before + few_row_sum(args, routes.weights, routed, r, dots);
}

}  // namespace

// One for at most 256 experts, one for 512.
WEIR_KERNEL_BOUNDED(weir_once_gate_up, GpuFewExpertsArgs, kFewThreads, 1) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  __shared__ OnceRouting<8> routing;
  gate_up<8>(args, few_shared, routing);
}
WEIR_KERNEL_BOUNDED(weir_once_gate_up_many, GpuFewExpertsArgs, kFewThreads, 1) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  __shared__ OnceRouting<16> routing;
  gate_up<16>(args, few_shared, routing);
}
WEIR_KERNEL_BOUNDED(weir_once_down, GpuFewExpertsArgs, kFewThreads, 1) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  __shared__ OnceRoutes routes;
  down(args, few_shared, routes);
}

}  // namespace weir
