// The sparse experts over two to eight rows, in one kernel: bound by reading the weights of the rows' experts. Every
// block works out the routing for itself. The experts that a row or several have chosen are numbered in ascending
// order, and each one is read and multiplied once: column r of a product is row r, and columns of rows that have not
// chosen it are left out. few_units.h says how weights are worked off.
//
// A block multiplies a share of gate and up, and then strips of down, whose weights come meanwhile: memory does not
// rest in between. Most experts' hidden values are known to all blocks before the share's end, so that the block goes
// on at once with these; only then it waits for those of the last experts. No two blocks have to run at the same time:
// shares are taken in turn, and a block that is done with one takes the next that is left, if one is. So all that it
// waits for is done by blocks that run.
#include "ops/moe/few_experts.h"

namespace weir {
namespace {

// What a block knows of the routing.
template <int kEach>
struct FewRouting {
  FewRoutes routes;
  uint32_t bits[kEach];                   // which experts a row has chosen
  uint8_t number[kEach * device::kWarp];  // of such an expert
  int pairs;                              // the share's dots
  int share;                              // the block's first one
  int next;                               // and then the next

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
    for (int w = device::warp(); w <= kEach; w += static_cast<int>(blockDim.x) / device::kWarp) {
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
  WEIR_DEVICE Entry enter(const GpuFewExpertsArgs& args, int row, int chosen) {
    const int lane = device::lane();
    const bool routed = lane < args.top_k;
    const float* logits = args.router + row * (args.experts + args.shared);
    const bool there = lane < args.top_k + args.shared;
    const float logit = there ? __ldcg(logits + (routed ? chosen : args.experts)) : 0.0F;
    const int slot = few_slot(args, chosen);
    Entry out = {routes.count, args.rows * args.top_k + row};
    if (routed) out = {number[chosen], row * args.top_k + slot};
    if (there) {
      routes.columns[out.number][row] = static_cast<uint8_t>(out.entry);
      routes.numbers[out.entry] = static_cast<uint8_t>(out.number);
    }
    const float weight = few_weight(route_key(logit), args.top_k);
    if (there) routes.weights[out.entry] = routed ? weight : device::sigmoid(logit);
    return out;
  }
};

template <int kFormat>
WEIR_DEVICE bool experts_post() {
  return device::warp() == few_warps(kFormat) + 1;
}

// A column's sums of a unit into those of what it stands for, `size` apart; nowhere if that is `none`.
WEIR_DEVICE void keep_column(float* sums, int of, int none, int size, float low, float high) {
  if (of == none) return;
  sums += of * size;
  sums[0] = low;
  sums[8] = high;
}

// The block's shared memory behind ring and barriers: what the first half has, and in its place what the second one
// has.
template <bool kScales>
struct FewShared {
  uint8_t* rows;  // [count][row_bytes]
  float* sums;    // [dots][sum_floats], of which [blocks][16] are used
  float* scales;  // [items][scale_floats], of which [blocks][2] are used
  void* behind;
  int row_bytes;
  int sum_floats;
  int scale_floats;

  WEIR_DEVICE FewShared(uint8_t* memory, int count, int width, int dots, int items, int pad) {
    const int blocks = width / kBlockK;
    row_bytes = 2 * width + kFewRowPad;
    sum_floats = blocks * kStripRows + pad;
    scale_floats = kScales ? 2 * blocks + kFewScalesPad : 0;
    rows = memory;
    sums = reinterpret_cast<float*>(rows + count * row_bytes);
    scales = sums + dots * sum_floats;
    behind = scales + items * scale_floats;
  }
};

// What the shares are of: the strips of the chosen experts, strip by strip of expert by expert. Every gridDim-th one is
// the share's, its item: of an expert it has no more than `strips / gridDim`, rounded up, so whatever the rows choose
// there is room for their sums.
struct FewItems {
  unsigned grid = gridDim.x;
  unsigned share = 0;
  unsigned inverse = 0xffffffffU / gridDim.x + 1;  // divides by the grid what is far below 2^32 / grid
  int strip_bits;

  WEIR_DEVICE explicit FewItems(int strips) : strip_bits(log_of(strips)) {
    asm volatile("" : "+r"(inverse));  // else the compiler would work it out where it is needed, late
  }
  // The share's first item at or behind strip `index` of all.
  WEIR_DEVICE int from(int index) const {
    return static_cast<int>(__umulhi(static_cast<unsigned>(index) + grid - 1 - share, inverse));
  }
  WEIR_DEVICE int index(int item) const { return static_cast<int>(share + static_cast<unsigned>(item) * grid); }
  WEIR_DEVICE int number(int item) const { return index(item) >> strip_bits; }
  WEIR_DEVICE int strip(int item) const { return index(item) & ((1 << strip_bits) - 1); }
};

// An item's dots with the rows that have chosen its expert.
struct FewDots {
  static constexpr int kNone = 0xffff;
  uint16_t* of_item;  // [items][8], by row
  int* of;            // by dot: its item, times 256, and its entry

  WEIR_DEVICE FewDots(void* memory, int items)
      : of_item(static_cast<uint16_t*>(memory)), of(reinterpret_cast<int*>(of_item + items * kFewMoeRows)) {}

  // By the first `threads` threads.
  WEIR_DEVICE void clear(int items, int threads) const {
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < items * kFewMoeRows / 2; i += threads) {
      reinterpret_cast<uint32_t*>(of_item)[i] = 0xffffffffU;
    }
  }
  // Those of an entry, the number of whose expert is known; in whatever order, as no dot has to do with another one.
  WEIR_DEVICE void enter(const FewItems& items, int row, int entry, int number, int* count) const {
#pragma unroll 1
    for (int item = items.from(number << items.strip_bits); items.number(item) == number; ++item) {
      const int dot = atomicAdd(count, 1);
      of_item[item * kFewMoeRows + row] = static_cast<uint16_t>(dot);
      of[dot] = item << 8 | entry;
    }
  }
};

// What join_units() makes of a dot of gate and of the one of up, eight rows behind it.
template <bool kScales>
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
      scale[i] = kScales ? reinterpret_cast<const float2*>(scales)[block] : float2{1, 1};
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

// The hidden values of those of the share's `count` dots whose item is one from `first` to `end`.
template <int kFormat>
WEIR_DEVICE void write_hidden(const GpuFewExpertsArgs& args, const FewShared<few_has_scales(kFormat)>& m,
                              const FewItems& items, const FewDots& dots, int count, int first, int end, int blocks) {
  constexpr int kRows = kStripRows / 2;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < count * kRows; i += few_multiply(kFormat)) {
    const int row = i % kRows;
    const int dot = i / kRows;
    const int item = dots.of[dot] >> 8;
    if (item < first || item >= end) continue;
    const int64_t entry = dots.of[dot] & 0xff;
    const float2 sum = join_pairs<few_has_scales(kFormat)>(m.sums + dot * m.sum_floats + row,
                                                           m.scales + item * m.scale_floats, blocks);
    args.hidden[entry * args.f + items.strip(item) * kRows + row] = few_operand<kFormat>(device::silu(sum.x) * sum.y);
  }
}

// Which shares of the first half are taken and done, in device memory; by one thread each.
struct Turns {
  GpuFewTurns* turns;

  // The next share; none is left if it is gridDim.x or more. A block asks until none is left: all of them twice as
  // often as there are shares, and then the count begins again.
  WEIR_DEVICE int take() const { return static_cast<int>(atomicInc(&turns->taken, 2 * gridDim.x - 1)); }
  // The hidden values of a share's part are written, by threads that this one has waited for.
  WEIR_DEVICE void done(int part) const { device::add_release(&turns->done[part], 1); }
  // Waits until those of all shares' are.
  WEIR_DEVICE void wait(int part) const {
    while (device::load_acquire(&turns->done[part]) != gridDim.x) {
    }
  }
  // Afterwards this block waits no more; the last one begins these counts again.
  WEIR_DEVICE void leave() const {
    if (atomicInc(&turns->left, gridDim.x - 1) < gridDim.x - 1) return;
    for (uint32_t& done : turns->done) done = 0;
  }
};

// A block of the kernel. By the warps that multiply: multiply(); by a thread of the next one: bring(), of the next:
// post(); by the last: fetch().
template <int kFormat, int kEach>
struct FewBlock {
  static constexpr bool kScales = few_has_scales(kFormat);
  using Shared = FewShared<kScales>;

  const GpuFewExpertsArgs& args;
  FewRouting<kEach>& routing;
  FewRing ring;
  device::Barrier* next_there;  // routing.next is the share after this one
  device::Barrier* next_known;  // to all that need to know it
  device::Barrier* written;     // by part: the share's hidden values
  device::Barrier* up_over;     // the second half may have its memory
  device::Barrier* fetched;     // by part: all shares' hidden values
  uint8_t* memory;
  FewItems all;
  Turns turns;

  WEIR_DEVICE FewBlock(const GpuFewExpertsArgs& args, uint8_t* shared, FewRouting<kEach>& routing)
      : args(args), routing(routing), all(args.f / (kStripRows / 2)), turns{args.turns} {
    auto* barriers = reinterpret_cast<device::Barrier*>(shared + args.ring_bytes);
    ring = few_experts_ring<kFormat>(args, shared, barriers);
    next_there = barriers + kFewBarriers;
    next_known = next_there + 1;
    written = next_known + 1;
    up_over = written + kFewParts;
    fetched = up_over + 1;
    memory = reinterpret_cast<uint8_t*>(barriers + kFewExpertsBarriers);
  }

  WEIR_DEVICE Shared up_memory() const {
    return {memory, args.rows, args.d, args.pairs_max, args.items_max, kFewGatePad};
  }
  // Of the entries behind the last one is zeros.
  WEIR_DEVICE Shared down_memory() const {
    return {memory, entries() + 1, args.f, entries(), routed() + args.shared, kFewDownPad};
  }
  WEIR_DEVICE int routed() const { return args.rows * args.top_k; }
  WEIR_DEVICE int entries() const { return args.rows * (args.top_k + args.shared); }
  // Experts of the first parts, up to and with `part`; those of the last one with the shared expert in the second half.
  WEIR_DEVICE int experts_until(int part) const {
    const int count = routing.routes.count;
    return part == 0 ? count - count / 4 : count;
  }
  // Items of the share, likewise.
  WEIR_DEVICE int items_until(int part) const { return all.from(experts_until(part) << all.strip_bits); }
  WEIR_DEVICE int downs_until(int part) const {
    return part == kFewParts - 1 ? routing.routes.count + args.shared : experts_until(part);
  }
  // Of them, those of the experts' format.
  WEIR_DEVICE int like_until(int part) const {
    return part == kFewParts - 1 && few_apart<kFormat>(args) ? routing.routes.count : downs_until(part);
  }
  WEIR_DEVICE bool is_share(int share) const { return share < static_cast<int>(gridDim.x); }

  // Items `first` to `end`, each of `blocks` units.
  template <int kOf, class Strip, class Offset>
  WEIR_DEVICE void bring(FewRing::Bringing& at, const uint8_t* weights, int first, int end, int blocks,
                         const Strip& strip_of, const Offset& offset_of) const {
    const int block_bits = log_of(blocks);
    const int count = (end - first) << block_bits;
    const auto fill = [&](int chunk, uint8_t* slot, device::Barrier* barrier) {
      bring_chunk<kOf>(
          weights, chunk, count, blocks, block_bits, slot, barrier, [&](int item) { return strip_of(first + item); },
          [&](int item) { return offset_of(first + item); });
    };
    ring.bring(at, few_chunks<kOf>(count), args.under_way, fill);
  }

  WEIR_DEVICE void bring() {
    FewRing::Bringing at;
    uint32_t phase = 1;
#pragma unroll 1
    for (int share = routing.share; is_share(share); phase ^= 1U) {
      all.share = static_cast<unsigned>(share);
#pragma unroll 1
      for (int part = 0, first = 0; part < kFewParts; ++part) {
        const int end = items_until(part);
        bring<kFormat>(
            at, args.gate_up, first, end, args.d / kBlockK, [&](int item) { return all.strip(item); },
            [&](int item) { return routing.routes.experts[all.number(item)] * args.stride; });
        first = end;
      }
      share = turns.take();
      device::barrier_wait(next_known, phase);  // the first time at once
      routing.next = share;
      device::barrier_arrive(next_there);
    }
#pragma unroll 1
    for (int strip = static_cast<int>(blockIdx.x); strip * kStripRows < args.d; strip += static_cast<int>(gridDim.x)) {
#pragma unroll 1
      for (int part = 0, first = 0; part < kFewParts; ++part) {
        const int end = like_until(part);
        bring<kFormat>(
            at, args.down, first, end, args.f / kBlockK, [&](int) { return strip; },
            [&](int item) { return routing.routes.experts[item] * args.stride; });
        first = end;
      }
      if (few_apart<kFormat>(args)) {
        bring<kFewApartFormat>(
            at, args.shared_down, 0, 1, args.f / kBlockK, [&](int) { return strip; }, [](int) { return 0; });
      }
    }
  }

  // By all lanes of a warp, beside ring.prepare().
  WEIR_DEVICE void prepare() const {
    constexpr int kMultiplying = few_warps(kFormat) * device::kWarpArrivals;
    const int lane = device::lane();
    if (lane == 0) {
      device::barrier_init(next_there, 1);
      device::barrier_init(next_known, 2);
      device::barrier_init(up_over, kMultiplying);
    }
    if (lane < kFewParts) {
      device::barrier_init(&written[lane], kMultiplying);
      device::barrier_init(&fetched[lane], 1 + device::kWarpArrivals);
    }
    device::barrier_init_done();
  }

  // Tells the other blocks of hidden values, so that no warp that multiplies waits for memory.
  WEIR_DEVICE void post() const {
    int shares = 0;
#pragma unroll 1
    for (int share = routing.share; is_share(share); ++shares) {
      const uint32_t phase = static_cast<uint32_t>(shares) & 1U;
#pragma unroll 1
      for (int part = 0; part < kFewParts; ++part) {
        device::barrier_wait(&written[part], phase);
        turns.done(part);
      }
      device::barrier_wait(next_there, phase);
      share = routing.next;
      device::barrier_arrive(next_known);
    }
  }

  // Brings the hidden values of all rows, part by part, and zeros behind them.
  WEIR_DEVICE void fetch() const {
    const int lane = device::lane();
    if (static_cast<int>(blockIdx.x) * kStripRows < args.d) {
      const Shared m = down_memory();
      const int row_bytes = 2 * args.f;
      const auto* from = reinterpret_cast<const uint8_t*>(args.hidden);
#pragma unroll 1
      for (int part = 0, first = 0; part < kFewParts; ++part) {
        const int end = downs_until(part);
        if (lane == 0) turns.wait(part);
        __syncwarp();
        if (part == 0) {
          device::barrier_wait(up_over, 0);
#pragma unroll 1
          for (int i = lane; i < m.row_bytes / 16; i += device::kWarp) {
            reinterpret_cast<uint4*>(m.rows + entries() * m.row_bytes)[i] = uint4{0, 0, 0, 0};
          }
        }
        // What other blocks wrote, and this one where the rows will be, is before these copies.
        device::fence_async_all();
        const auto is_here = [&](int entry) {
          const int number = entry < entries() ? routing.routes.numbers[entry] : end;
          return number >= first && number < end;
        };
        int here = 0;
#pragma unroll 1
        for (int begin = 0; begin < entries(); begin += device::kWarp) {
          here += __popc(__ballot_sync(device::kAllLanes, is_here(begin + lane)));
        }
        if (lane == 0) device::barrier_expect(&fetched[part], here * row_bytes);
        device::warp_arrive(&fetched[part]);
#pragma unroll 1
        for (int entry = lane; entry < entries(); entry += device::kWarp) {
          if (!is_here(entry)) continue;
          device::bulk_copy(m.rows + entry * m.row_bytes, from + static_cast<int64_t>(entry) * row_bytes, row_bytes,
                            &fetched[part]);
        }
        first = end;
      }
    }
    __syncwarp();
    if (lane != 0) return;
    ring.note_rows();
    turns.leave();
  }

  // `chosen`: of the warp's row, what routing.choose() gave.
  WEIR_DEVICE void multiply(int chosen) {
    RingPlace at;
    multiply_up(at, chosen);
    multiply_down(at);
  }

 private:
  // The scales of `count` units, as bring() has these, by the warps that multiply: one group of copies.
  template <class Strip, class Offset>
  WEIR_DEVICE static void bring_scales(const Shared& m, const float* scales, int count, int blocks,
                                       const Strip& strip_of, const Offset& offset_of) {
    if constexpr (!kScales) return;
    const int block_bits = log_of(blocks);
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < count; i += few_multiply(kFormat)) {
      const int item = i >> block_bits;
      const int block = i & (blocks - 1);
      const auto* from = reinterpret_cast<const float*>(reinterpret_cast<const uint8_t*>(scales) + offset_of(item));
      device::copy8(m.scales + item * m.scale_floats + 2 * block, from + 2 * (strip_of(item) << block_bits | block));
    }
    device::copies_commit();
  }

  WEIR_DEVICE void multiply_up(RingPlace& at, int chosen) {
    const int thread = static_cast<int>(threadIdx.x);
    const int blocks = args.d / kBlockK;
    const int block_bits = log_of(blocks);
    const Shared m = up_memory();
    const FewDots dots(m.behind, args.items_max);
    const bool has_row = device::warp() < args.rows;
    typename FewRouting<kEach>::Entry mine = {};
    // While the first weights are on their way.
    if (has_row) mine = routing.enter(args, device::warp(), chosen);
    device::barrier_wait(ring.rows, 0);
    // Columns behind the last row are those of the last row again, and left out.
    const uint32_t base =
        device::shared_address(m.rows + min(device::lane() % 8, args.rows - 1) * m.row_bytes + device::lane() / 8 * 16);
    int shares = 0;
#pragma unroll 1
    for (int share = routing.share; is_share(share); ++shares) {
      all.share = static_cast<unsigned>(share);
      const int count = items_until(kFewParts - 1) << block_bits;
      if (shares > 0) {
        device::barrier_wait(next_known, static_cast<uint32_t>(shares - 1) & 1U);  // post() is not two shares behind
        dots.clear(args.items_max, few_multiply(kFormat));
        if (thread == 0) routing.pairs = 0;
        experts_barrier<kFormat>();
      }
      bring_scales(
          m, args.gate_up_scales, count, blocks, [&](int item) { return all.strip(item); },
          [&](int item) { return routing.routes.experts[all.number(item)] * args.stride; });
      if (has_row && device::lane() < args.top_k) {
        dots.enter(all, device::warp(), mine.entry, mine.number, &routing.pairs);
      }
      experts_barrier<kFormat>();
#pragma unroll 1
      for (int part = 0, first = 0; part < kFewParts; ++part) {
        const int end = items_until(part);
        run_chunks<kFormat>(
            ring, at, (end - first) << block_bits,
            [&](int unit) { return base + static_cast<uint32_t>((unit & (blocks - 1)) * kBlockK * 2); },
            [&](int unit, const float (&d)[4]) {
              const int item = first + (unit >> block_bits);
              const uint32_t two =
                  reinterpret_cast<const uint32_t*>(dots.of_item + item * kFewMoeRows)[device::lane() % 4];
              float* sums = m.sums + (unit & (blocks - 1)) * kStripRows + device::lane() / 4;
              keep_column(sums, static_cast<int>(two & 0xffffU), FewDots::kNone, m.sum_floats, d[0], d[2]);
              keep_column(sums, static_cast<int>(two >> 16), FewDots::kNone, m.sum_floats, d[1], d[3]);
            });
        device::copies_wait<0>();
        experts_barrier<kFormat>();
        write_hidden<kFormat>(args, m, all, dots, routing.pairs, first, end, blocks);
        device::warp_arrive(&written[part]);
        first = end;
      }
      device::barrier_wait(next_there, static_cast<uint32_t>(shares) & 1U);
      share = routing.next;
      experts_barrier<kFormat>();
      if (thread == 0) device::barrier_arrive(next_known);
    }
    device::warp_arrive(up_over);
  }

  // A strip of the experts numbered `first` to `end`.
  template <int kOf>
  WEIR_DEVICE void run_downs(RingPlace& at, const Shared& m, int first, int end, int blocks) {
    const int block_bits = log_of(blocks);
    const uint32_t base = device::shared_address(m.rows + device::lane() / 8 * 16);
    const auto columns_of = [&](int unit) { return routing.routes.columns[first + (unit >> block_bits)]; };
    run_chunks<kOf>(
        ring, at, (end - first) << block_bits,
        [&](int unit) {
          return base + static_cast<uint32_t>(columns_of(unit)[device::lane() % 8] * m.row_bytes +
                                              (unit & (blocks - 1)) * kBlockK * 2);
        },
        [&](int unit, const float (&d)[4]) {
          const uint8_t* columns = columns_of(unit);
          const int column = 2 * (device::lane() % 4);
          float* sums = m.sums + (unit & (blocks - 1)) * kStripRows + device::lane() / 4;
          keep_column(sums, columns[column], entries(), m.sum_floats, d[0], d[2]);
          keep_column(sums, columns[column + 1], entries(), m.sum_floats, d[1], d[3]);
        });
  }

  WEIR_DEVICE void multiply_down(RingPlace& at) {
    const int thread = static_cast<int>(threadIdx.x);
    const FewRoutes& routes = routing.routes;
    const int blocks = args.f / kBlockK;
    const Shared m = down_memory();
    const int count = downs_until(kFewParts - 1) * blocks;
    const int row = thread % kStripRows;
    const int r = thread / kStripRows;
    device::start_next();
#pragma unroll 1
    for (int strip = static_cast<int>(blockIdx.x); strip * kStripRows < args.d; strip += static_cast<int>(gridDim.x)) {
      const int n = strip * kStripRows + row;
      const bool writes = r < args.rows && n < args.d;
      float* y = args.y + r * args.y_stride + n;
      bring_scales(
          m, args.down_scales, count, blocks, [&](int) { return strip; },
          [&](int item) { return routes.experts[item] * args.stride; });
      const float before = args.add != 0 && writes ? __ldcg(y) : 0.0F;
#pragma unroll 1
      for (int part = 0, first = 0; part < kFewParts; ++part) {
        const int end = like_until(part);
        device::barrier_wait(&fetched[part], 0);
        run_downs<kFormat>(at, m, first, end, blocks);
        first = end;
      }
      if (few_apart<kFormat>(args)) run_downs<kFewApartFormat>(at, m, routes.count, routes.count + 1, blocks);
      device::copies_wait<0>();
      experts_barrier<kFormat>();
      // Every entry's dot by itself, where its first sum stood; then those of a row, weighed, in ascending order.
#pragma unroll 1
      for (int entry = r; entry < entries(); entry += few_multiply(kFormat) / kStripRows) {
        float* of = m.sums + entry * m.sum_floats + row;
        const float* scales = kScales ? m.scales + routes.numbers[entry] * m.scale_floats + row / 8 : nullptr;
        *of = join_units(of, kStripRows, scales, blocks);
      }
      experts_barrier<kFormat>();
      if (writes) {
        *y = before + few_row_sum(args, routes.weights, routed(), r,
                                  [&](int entry) { return m.sums + entry * m.sum_floats + row; });
      }
      experts_barrier<kFormat>();
    }
  }
};

template <int kFormat, int kEach>
WEIR_DEVICE void experts(const GpuFewExpertsArgs& args, uint8_t* shared, FewRouting<kEach>& routing) {
  FewBlock<kFormat, kEach> block(args, shared, routing);
  const auto m = block.up_memory();
  if (experts_bring<kFormat>()) block.ring.prepare(few_warps(kFormat));
  if (experts_post<kFormat>()) block.prepare();
  if (device::warp() < few_warps(kFormat))
    FewDots(m.behind, args.items_max).clear(args.items_max, few_multiply(kFormat));
  routing.clear(args);
  device::wait_for_previous();
  int chosen = 0;
  if (experts_bring<kFormat>()) {
    if (device::lane() == 0) {
      device::barrier_expect(block.ring.rows, args.rows * 2 * args.d);
      routing.share = block.turns.take();
    }
    __syncwarp();
    if (device::lane() < args.rows) {
      device::bulk_copy(m.rows + device::lane() * m.row_bytes, args.x + device::lane() * args.d, 2 * args.d,
                        block.ring.rows);
    }
    __syncwarp();
  } else if (device::warp() < args.rows) {
    chosen = routing.choose(args, device::warp());
  }
  routing.number_experts(args);
  if (device::warp() < few_warps(kFormat)) {
    block.multiply(chosen);
  } else if (experts_bring<kFormat>()) {
    if (device::lane() == 0) block.bring();
  } else if (experts_post<kFormat>()) {
    if (device::lane() == 0) block.post();
  } else {
    block.fetch();
  }
}

}  // namespace

// For at most 256 experts, and for 512.
WEIR_KERNEL_BOUNDED(weir_few_experts, GpuFewExpertsArgs, few_experts_threads(kGpuFp8Block), 1) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  __shared__ FewRouting<8> routing;
  experts<kGpuFp8Block, 8>(args, few_shared, routing);
}
WEIR_KERNEL_BOUNDED(weir_few_experts_many, GpuFewExpertsArgs, few_experts_threads(kGpuFp8Block), 1) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  __shared__ FewRouting<16> routing;
  experts<kGpuFp8Block, 16>(args, few_shared, routing);
}
WEIR_KERNEL_BOUNDED(weir_few_experts_mxfp4, GpuFewExpertsArgs, few_experts_threads(kGpuMxfp4), 1) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  __shared__ FewRouting<8> routing;
  experts<kGpuMxfp4, 8>(args, few_shared, routing);
}
WEIR_KERNEL_BOUNDED(weir_few_experts_mxfp4_many, GpuFewExpertsArgs, few_experts_threads(kGpuMxfp4), 1) {
  extern __shared__ __align__(128) uint8_t few_shared[];
  __shared__ FewRouting<16> routing;
  experts<kGpuMxfp4, 16>(args, few_shared, routing);
}

}  // namespace weir
