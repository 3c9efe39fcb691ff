// Bound by the read of the logits from the second-level cache, and by latency: each pass over a row ends with a
// barrier. A row without top_k, top_p and min_p is cut among all blocks of its grid row; each finds its best id (by
// logit, or by logit plus noise), and the last to arrive gives the row's token: a maximum, so no order shows. A row
// with filters is kept in the shared memory of one cluster of eight blocks, an eighth each. What top_k and top_p keep
// is a prefix of the ids in descending order of logits, ties by id; its end is found by histograms of ever finer bins,
// counts or 40-bit probabilities, summed over the cluster by reading each other's shared memory: integers, so no order
// shows. A cluster barrier stands between a histogram's sums and its reading; two histograms take turns. Every float
// operation that the CPU's sampler has is here too, never fused with another.
#include "device/async.h"
#include "device/kernel.h"
#include "ops/sample/noise.h"
#include "ops/sample/sample_shape.h"

namespace weir {
namespace {

using Ranked = unsigned long long;  // order_key of a logit or score, then ~id: the larger is the better, 0 is none

constexpr float kInfinity = __builtin_huge_valf();
constexpr int kAhead = 4;  // groups of ids that a thread has under way

WEIR_DEVICE int thread() {
  return static_cast<int>(threadIdx.x);
}
WEIR_DEVICE void cluster_sync() {
  __syncwarp();
  device::cluster_barrier();
}

// Integers in the order of floats; the two zeros are equal.
WEIR_DEVICE uint32_t order_key(float x) {
  const uint32_t bits = x == 0.0F ? 0U : __float_as_uint(x);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}
WEIR_DEVICE float key_value(uint32_t key) {
  return __uint_as_float((key & 0x80000000U) != 0 ? key & 0x7fffffffU : ~key);
}
WEIR_DEVICE Ranked ranked(float x, int id) {
  return static_cast<Ranked>(order_key(x)) << 32 | static_cast<uint32_t>(~id);
}
WEIR_DEVICE int id_of(Ranked r) {
  return static_cast<int>(~static_cast<uint32_t>(r));
}
WEIR_DEVICE float value_of(Ranked r) {
  return r == 0 ? -kInfinity : key_value(static_cast<uint32_t>(r >> 32));
}
WEIR_DEVICE Ranked larger(Ranked a, Ranked b) {
  return a > b ? a : b;
}

WEIR_DEVICE bool not_finite(float x) {
  return (__float_as_uint(x) & 0x7f800000U) == 0x7f800000U;
}
WEIR_DEVICE bool not_finite(float4 x) {
  return not_finite(x.x) || not_finite(x.y) || not_finite(x.z) || not_finite(x.w);
}

// The block's share of a row: groups [begin, end), ids [low, high).
struct Part {
  int begin;
  int end;
  int low;
  int high;
};

WEIR_DEVICE Part part_of(int width, int block, int blocks) {
  const int groups = (width + 3) / 4;
  const int each = sample_groups(width, blocks);
  Part part;
  part.begin = min(block * each, groups);
  part.end = min(part.begin + each, groups);
  part.low = min(4 * part.begin, width);
  part.high = min(4 * part.end, width);
  return part;
}

// Logits 4 group .. 4 group + 3; zeros behind the row.
WEIR_DEVICE float4 load_group(const GpuSampleArgs& args, int group) {
  const float* logits = args.logits + static_cast<int64_t>(blockIdx.y) * args.logits_stride + 4 * group;
  const int left = args.width - 4 * group;
  if (args.aligned != 0 && left >= 4) return __ldcg(reinterpret_cast<const float4*>(logits));
  float4 out = {0.0F, 0.0F, 0.0F, 0.0F};
  if (left > 0) out.x = __ldcg(logits);
  if (left > 1) out.y = __ldcg(logits + 1);
  if (left > 2) out.z = __ldcg(logits + 2);
  if (left > 3) out.w = __ldcg(logits + 3);
  return out;
}

// The largest of the block's values, in every thread.
WEIR_DEVICE Ranked block_max(SampleShared& shared, Ranked value) {
  for (int distance = device::kWarp / 2; distance > 0; distance /= 2) {
    value = larger(value, __shfl_xor_sync(device::kAllLanes, value, distance));
  }
  __syncthreads();
  if (device::lane() == 0) shared.warp_value[device::warp()] = value;
  __syncthreads();
  Ranked out = 0;
  for (int i = 0; i < kSampleWarps; ++i) out = larger(out, shared.warp_value[i]);
  return out;
}

WEIR_DEVICE void finish(const GpuSampleArgs& args, const GpuSampleRow& row, Ranked best, bool broken) {
  // Nothing is left where every id is masked: the first is as good as any.
  const int token = best == 0 ? 0 : id_of(best);
  args.tokens[blockIdx.y] = broken ? -1 : token;
  args.next_tokens[row.row] = token;
}

// The best score so far; `bound` is that of the whole warp, or less.
struct Best {
  Ranked own = 0;
  float bound = -kInfinity;
};

// Scores an id by logit plus noise, if it can still be the best. The noise is at most -log(w), w = bits / 2^32, because
// its exponential variate is at least w: the logarithms are only computed where w is small enough. The slack is far
// beyond every rounding on the way. All lanes of a warp call it together.
WEIR_DEVICE void score(float x, uint32_t bits, int id, bool valid, Best* best) {
  const float slack = 1e-3F + 1e-6F * (fabsf(x) + fabsf(best->bound));
  const float reach = __expf(x - best->bound + slack);
  const float w = static_cast<float>(bits) * (1.0F / 4294967296.0F);
  if (valid && x > -kInfinity && !(w > reach)) {
    best->own = larger(best->own, ranked(__fadd_rn(x, gumbel_of_bits(bits)), id));
  }
  const uint32_t key = __reduce_max_sync(device::kAllLanes, static_cast<uint32_t>(best->own >> 32));
  if (key != 0) best->bound = key_value(key);
}

WEIR_DEVICE void take_group(const GpuSampleArgs& args, const GpuSampleRow& row, int group, bool valid, float4 x,
                            Best* best) {
  const int id = 4 * group;
  const int left = valid ? args.vocabulary - id : 0;
  if (row.scale <= 0.0F) {
    if (left > 0) best->own = larger(best->own, ranked(x.x, id));
    if (left > 1) best->own = larger(best->own, ranked(x.y, id + 1));
    if (left > 2) best->own = larger(best->own, ranked(x.z, id + 2));
    if (left > 3) best->own = larger(best->own, ranked(x.w, id + 3));
    return;
  }
  uint32_t words[4];
  noise_words(row.seed, row.position, static_cast<uint32_t>(group), words);
  score(__fmul_rn(x.x, row.scale), words[0], id, left > 0, best);
  score(__fmul_rn(x.y, row.scale), words[1], id + 1, left > 1, best);
  score(__fmul_rn(x.z, row.scale), words[2], id + 2, left > 2, best);
  score(__fmul_rn(x.w, row.scale), words[3], id + 3, left > 3, best);
}

// The best id of a part whose logits come from `load`.
template <class Load>
WEIR_DEVICE Ranked scan_part(const GpuSampleArgs& args, const GpuSampleRow& row, const Part& part, Load load) {
  Best best;
  for (int base = part.begin; base < part.end; base += kAhead * kSampleThreads) {
    float4 x[kAhead];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int group = base + a * kSampleThreads + thread();
      x[a] = group < part.end ? load(group) : float4{0.0F, 0.0F, 0.0F, 0.0F};
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int first = base + a * kSampleThreads;
      if (first < part.end) take_group(args, row, first + thread(), first + thread() < part.end, x[a], &best);
    }
  }
  return best.own;
}

// Brings the part's logits to shared memory with the row's lists applied, in the CPU's order. Returns whether a logit
// that this thread read is not finite.
WEIR_DEVICE bool stage(const GpuSampleArgs& args, const GpuSampleRow& row, const Part& part, SampleShared& shared,
                       float* values) {
  bool broken = false;
  const int biases = min(row.bias_count, kGpuBiasMax);
  const int banned = min(row.banned_count, kGpuBannedMax);
  for (int group = part.begin + thread(); group < part.end; group += kSampleThreads) {
    const float4 x = load_group(args, group);
    broken |= not_finite(x);
    reinterpret_cast<float4*>(values)[group - part.begin] = x;
  }
  for (int i = thread(); i < biases; i += kSampleThreads) {
    shared.bias_token[i] = row.bias[i].token;
    shared.bias_value[i] = row.bias[i].bias;
  }
  for (int i = thread(); i < banned; i += kSampleThreads) shared.banned[i] = row.banned[i];
  __syncthreads();
  const int high = min(part.high, args.vocabulary);
  for (int i = thread(); i < biases; i += kSampleThreads) {
    const int token = shared.bias_token[i];
    if (token < part.low || token >= high) continue;
    // An id may be named more than once: who names it first adds all of them in order.
    bool first = true;
    for (int j = 0; j < i; ++j) first &= shared.bias_token[j] != token;
    if (!first) continue;
    float x = values[token - part.low];
    for (int j = i; j < biases; ++j) {
      if (shared.bias_token[j] == token) x = __fadd_rn(x, shared.bias_value[j]);
    }
    values[token - part.low] = x;
  }
  __syncthreads();
  for (int i = thread(); i < banned; i += kSampleThreads) {
    const int token = shared.banned[i];
    if (token >= part.low && token < high) values[token - part.low] = -kInfinity;
  }
  if (row.mask != nullptr) {
    for (int id = part.low + thread(); id < high; id += kSampleThreads) {
      if ((row.mask[id / 32] >> (id % 32) & 1U) == 0) values[id - part.low] = -kInfinity;
    }
  }
  __syncthreads();
  return broken;
}

// A row whose every id may be taken: all blocks of the grid row.
WEIR_DEVICE void sample_plain(const GpuSampleArgs& args, const GpuSampleRow& row, SampleShared& shared, float* values) {
  const Part part = part_of(args.width, static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x));
  bool broken = false;
  Ranked best = 0;
  if (row.bias_count > 0 || row.banned_count > 0 || row.mask != nullptr) {
    broken = stage(args, row, part, shared, values);
    const auto* staged = reinterpret_cast<const float4*>(values);
    best = scan_part(args, row, part, [&](int group) { return staged[group - part.begin]; });
  } else {
    best = scan_part(args, row, part, [&](int group) {
      const float4 x = load_group(args, group);
      broken |= not_finite(x);
      return x;
    });
  }
  broken = __syncthreads_or(broken ? 1 : 0) != 0;
  best = block_max(shared, best);
  if (thread() != 0) return;
  GpuSampleScratch& scratch = args.scratch[blockIdx.y];
  atomicMax(&scratch.best, best);
  if (broken) atomicOr(&scratch.broken, 1U);
  __threadfence();
  if (atomicAdd(&scratch.blocks, 1U) + 1 < gridDim.x) return;
  __threadfence();
  best = atomicExch(&scratch.best, 0ULL);
  broken = atomicExch(&scratch.broken, 0U) != 0;
  atomicExch(&scratch.blocks, 0U);
  finish(args, row, best, broken);
}

// A cluster's filtering of a row. Kept are the ids whose key is above `key`, and those with this key up to `last_id`.
struct Filter {
  const GpuSampleRow& row;
  SampleShared& shared;
  const float* values;  // logits times scale, -infinity: not to be sampled
  Part part;
  int width;
  float top = 0.0F;
  uint32_t key = 0;
  int last_id = 0x7fffffff;
  int pass = 0;

  WEIR_DEVICE bool keeps(float x, int id) const {
    const uint32_t k = order_key(x);
    return x > -kInfinity && (k > key || (k == key && id <= last_id));
  }
};

WEIR_DEVICE uint32_t read_other(int rank, const void* p) {
  return __float_as_uint(device::read_shared_of(static_cast<uint32_t>(rank), static_cast<const float*>(p)));
}
WEIR_DEVICE Ranked read_other_pair(int rank, const Ranked* p) {
  const auto* words = reinterpret_cast<const uint32_t*>(p);
  return static_cast<Ranked>(read_other(rank, words + 1)) << 32 | read_other(rank, words);
}

// Sums the kept ids of the whole row into bins that `digit` names (-1: none): how many they are, or their
// probabilities. Returns the bin of this thread's number.
template <bool kWeighted, class Digit>
WEIR_DEVICE Ranked sum_bins(Filter* f, Digit digit) {
  SampleHistogram& histogram = f->shared.histogram[f->pass++ & 1];
  for (int p = 0; p < (kWeighted ? kSamplePieces : 1); ++p) histogram.words[p][thread()] = 0;
  __syncthreads();
  const int count = f->part.high - f->part.low;
  for (int i = thread(); i < count; i += kSampleThreads) {
    const float x = f->values[i];
    const int id = f->part.low + i;
    if (!f->keeps(x, id)) continue;
    const int bin = digit(x, id);
    if (bin < 0) continue;
    if (kWeighted) {
      const auto weight = static_cast<Ranked>(fixed_probability(x, f->top));
      if (weight == 0) continue;
      for (int p = 0; p < kSamplePieces; ++p) {
        const auto piece = static_cast<uint32_t>(weight >> (14 * p)) & 0x3fffU;
        if (piece != 0) atomicAdd(&histogram.words[p][bin], piece);
      }
    } else {
      atomicAdd(&histogram.words[0][bin], 1U);
    }
  }
  cluster_sync();
  Ranked sum = 0;
  for (int rank = 0; rank < kSampleCluster; ++rank) {
    for (int p = 0; p < (kWeighted ? kSamplePieces : 1); ++p) {
      sum += static_cast<Ranked>(read_other(rank, &histogram.words[p][thread()])) << (14 * p);
    }
  }
  return sum;
}

// Bins in order: this thread's, all up to and with it, all.
struct Running {
  Ranked value;
  Ranked sum;
  Ranked total;
};

WEIR_DEVICE Running run_up(SampleShared& shared, Ranked value) {
  Running out{value, value, 0};
  for (int distance = 1; distance < device::kWarp; distance *= 2) {
    const Ranked before = __shfl_up_sync(device::kAllLanes, out.sum, distance);
    if (device::lane() >= distance) out.sum += before;
  }
  __syncthreads();
  if (device::lane() == device::kWarp - 1) shared.warp_value[device::warp()] = out.sum;
  __syncthreads();
  for (int i = 0; i < kSampleWarps; ++i) {
    if (i < device::warp()) out.sum += shared.warp_value[i];
    out.total += shared.warp_value[i];
  }
  return out;
}

// When a prefix is long enough: this many ids, or this much probability, in the CPU's arithmetic.
struct Goal {
  bool weighted;
  Ranked count;
  double wanted;
  WEIR_DEVICE bool reached(Ranked sum) const {
    return weighted ? !(static_cast<double>(static_cast<long long>(sum)) < wanted) : sum >= count;
  }
};

// The bin in which the goal is reached, what the bins before it hold and what it holds itself.
struct Crossing {
  int bin;
  Ranked above;
  Ranked inside;
};

WEIR_DEVICE Crossing cross(SampleShared& shared, const Running& bins, Ranked base, const Goal& goal) {
  if (goal.reached(base + bins.sum) && !goal.reached(base + bins.sum - bins.value)) {
    shared.bin = thread();
    shared.above = bins.sum - bins.value;
    shared.inside = bins.value;
  }
  __syncthreads();
  return {shared.bin, shared.above, shared.inside};
}

// Bits to drop from numbers up to `largest` so that as many bins as there are hold them.
WEIR_DEVICE int bin_shift(uint32_t largest) {
  static_assert(kSampleBins == 1024);
  return max(0, 22 - __clz(static_cast<int>(largest)));
}

// Distance from the likeliest in sixteenths, the rest in the last bin: spreads the ids better than their bits would.
WEIR_DEVICE int near_bin(float top, float x) {
  const float distance = __fsub_rn(top, x);
  if (x == top) return 0;
  return distance < 63.9375F ? static_cast<int>(__fmul_rn(distance, 16.0F)) : kSampleBins - 1;
}
// Keys between which all ids of a near_bin lie; the factors are beyond the rounding of its difference.
WEIR_DEVICE uint32_t near_bin_high(float top, int bin) {
  return bin == 0 ? order_key(top) : order_key(__double2float_ru(static_cast<double>(top) - bin / 16.0 * (1.0 - 1e-6)));
}
WEIR_DEVICE uint32_t near_bin_low(float top, int bin) {
  if (bin == kSampleBins - 1) return order_key(-3.402823466e+38F);
  return order_key(__double2float_rd(static_cast<double>(top) - (bin + 1) / 16.0 * (1.0 + 1e-6)));
}

// The id of the `count`-th of the kept ids with this key, in ascending order.
WEIR_DEVICE int id_in_order(Filter* f, uint32_t key, Ranked count) {
  const Goal goal{false, count, 0.0};
  const int shift = bin_shift(static_cast<uint32_t>(f->width - 1));
  Running bins =
      run_up(f->shared, sum_bins<false>(f, [&](float x, int id) { return order_key(x) == key ? id >> shift : -1; }));
  const Crossing coarse = cross(f->shared, bins, 0, goal);
  if (shift == 0) return coarse.bin;
  bins = run_up(f->shared, sum_bins<false>(f, [&](float x, int id) {
                  return order_key(x) == key && id >> shift == coarse.bin ? id & ((1 << shift) - 1) : -1;
                }));
  return (coarse.bin << shift) + cross(f->shared, bins, coarse.above, goal).bin;
}

// How many of `count` equal ids of this weight it takes to reach the goal.
WEIR_DEVICE Ranked ties_needed(const Goal& goal, Ranked base, Ranked weight, Ranked count) {
  Ranked low = 1;
  Ranked high = count;
  while (low < high) {
    const Ranked middle = (low + high) / 2;
    if (goal.reached(base + middle * weight)) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

// Shortens what is kept to its first top_k ids, or to the shortest prefix with top_p of its probability. False: nothing
// is kept.
template <bool kWeighted>
WEIR_DEVICE bool cut(Filter* f) {
  Running bins = run_up(f->shared, sum_bins<kWeighted>(f, [&](float x, int) { return near_bin(f->top, x); }));
  Goal goal{kWeighted, static_cast<Ranked>(f->row.top_k), 0.0};
  if (kWeighted) {
    if (bins.total == 0) return false;
    goal.wanted = static_cast<double>(f->row.top_p) * static_cast<double>(static_cast<long long>(bins.total));
  } else if (bins.total <= goal.count) {
    return true;
  }
  Crossing at = cross(f->shared, bins, 0, goal);
  Ranked base = at.above;
  const int near = at.bin;
  uint32_t high = near_bin_high(f->top, near);
  uint32_t low = near_bin_low(f->top, near);
  for (int shift = 1; shift != 0;) {
    shift = bin_shift(high - low);
    bins = run_up(f->shared, sum_bins<kWeighted>(f, [&](float x, int) {
                    const uint32_t key = order_key(x);
                    const bool inside = near_bin(f->top, x) == near && key >= low && key <= high;
                    return inside ? static_cast<int>((high - key) >> shift) : -1;
                  }));
    at = cross(f->shared, bins, base, goal);
    base += at.above;
    high -= static_cast<uint32_t>(at.bin) << shift;
    low = max(low, high - ((1U << shift) - 1U));
  }
  const Ranked weight = kWeighted ? static_cast<Ranked>(fixed_probability(key_value(high), f->top)) : 1;
  const Ranked count = at.inside / weight;
  const Ranked needed = ties_needed(goal, base, weight, count);
  const int last_id = needed < count ? id_in_order(f, high, needed) : 0x7fffffff;
  f->last_id = f->key == high ? min(f->last_id, last_id) : last_id;
  f->key = high;
  return true;
}

// The largest over the cluster's blocks of what each has in `own`.
WEIR_DEVICE Ranked cluster_max(SampleShared& shared, const Ranked* own) {
  if (thread() < kSampleCluster) shared.others[thread()] = read_other_pair(thread(), own);
  __syncthreads();
  Ranked out = 0;
  for (int rank = 0; rank < kSampleCluster; ++rank) out = larger(out, shared.others[rank]);
  return out;
}

// A row with filters: one cluster.
WEIR_DEVICE void sample_filtered(const GpuSampleArgs& args, const GpuSampleRow& row, SampleShared& shared,
                                 float* values) {
  const auto rank = static_cast<int>(device::cluster_rank());
  const Part part = part_of(args.width, rank, kSampleCluster);
  const bool broken = __syncthreads_or(stage(args, row, part, shared, values) ? 1 : 0) != 0;
  Ranked own = 0;
  for (int i = thread(); i < part.high - part.low; i += kSampleThreads) {
    const bool real = part.low + i < args.vocabulary;
    const float x = real ? __fmul_rn(values[i], row.scale) : -kInfinity;
    values[i] = x;
    if (real) own = larger(own, ranked(x, part.low + i));
  }
  own = block_max(shared, own);
  if (thread() == 0) {
    shared.top = own;
    shared.broken = broken ? 1U : 0U;
  }
  cluster_sync();
  const Ranked top = cluster_max(shared, &shared.top);

  Filter f{row, shared, values, part, args.width};
  f.top = value_of(top);
  bool some = f.top > -kInfinity;
  if (some && row.top_k > 0) some = cut<false>(&f);
  if (some && row.top_p < 1.0F) some = cut<true>(&f);
  own = 0;
  for (int i = thread(); some && i < part.high - part.low; i += kSampleThreads) {
    const float x = values[i];
    const int id = part.low + i;
    if (!f.keeps(x, id)) continue;
    if (row.min_p > 0.0F && portable_exp(__fsub_rn(x, f.top)) < row.min_p) continue;
    own = larger(own, ranked(__fadd_rn(x, gumbel_noise(row.seed, row.position, id)), id));
  }
  own = block_max(shared, own);
  if (thread() == 0) shared.best = own;
  cluster_sync();
  if (rank == 0) {
    const Ranked best = cluster_max(shared, &shared.best);
    if (thread() == 0) {
      uint32_t any_broken = 0;
      for (int other = 0; other < kSampleCluster; ++other) any_broken |= read_other(other, &shared.broken);
      finish(args, row, best == 0 ? top : best, any_broken != 0);
    }
  }
  cluster_sync();  // nobody leaves while its shared memory is read
}

}  // namespace

WEIR_KERNEL_BOUNDED(sample_kernel, GpuSampleArgs, kSampleThreads, 1) {
  extern __shared__ __align__(16) uint8_t memory[];
  auto& shared = *reinterpret_cast<SampleShared*>(memory);
  auto* values = reinterpret_cast<float*>(memory + kSampleSharedFixed);
  device::wait_for_previous();
  device::start_next();
  const GpuSampleRow row = args.rows[blockIdx.y];
  if (row.row < 0) return;
  const bool filtered = row.scale > 0.0F && (row.top_k > 0 || row.top_p < 1.0F || row.min_p > 0.0F);
  if (!filtered) {
    sample_plain(args, row, shared, values);
  } else if (blockIdx.x < kSampleCluster) {
    sample_filtered(args, row, shared, values);
  }
}

}  // namespace weir
