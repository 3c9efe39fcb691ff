// Bound by the read of the logits from the second-level cache, and by latency: each pass over a row ends with a
// barrier. A row without top_k, top_p and min_p is cut among all blocks of its grid row; each finds its best id (by
// logit, or by logit plus noise), and the last to arrive gives the row's token: a maximum, so no order shows. A row
// with filters is kept in the shared memory of one cluster of eight blocks, an eighth each. What top_k and top_p keep
// is a prefix of the ids in descending order of logits, ties by id; its end is found by histograms of ever finer bins,
// counts or 40-bit probabilities, summed over the cluster by reading each other's shared memory: integers, so no order
// shows. A cluster barrier stands between a histogram's sums and its reading; two histograms take turns. The threads'
// own maxima say early how far down a short prefix can reach: the ids above are listed, and later passes are over the
// lists alone. Every float operation of the CPU's sampler is here too, never fused with another.
#include "device/async.h"
#include "device/kernel.h"
#include "ops/sample/noise.h"
#include "ops/sample/sample_row.h"

namespace weir {
namespace {

WEIR_DEVICE void cluster_sync() {
  __syncwarp();
  device::cluster_barrier();
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
  if (args.ids != nullptr && id >= args.identity) {
    // Columns here are no ids of one group.
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < left) words[i] = noise_bits(row.seed, row.position, args.ids[id + i]);
    }
  }
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
  if (broken) best = kBroken;
  best = block_max(shared, best);
  if (thread() != 0) return;
  GpuSampleScratch& scratch = args.scratch[blockIdx.y];
  atomicMax(&scratch.best, best);
  __threadfence();
  if (atomicInc(&scratch.blocks, gridDim.x - 1) + 1 < gridDim.x) return;  // the last makes it 0 again
  __threadfence();
  finish(args, row, atomicExch(&scratch.best, 0ULL));
}

// A cluster's filtering of a row. Kept are the ids whose key is above `key`, and those with this key up to `last_id`;
// none of them is in a near_bin behind `last_bin`.
struct Filter {
  const GpuSampleRow& row;
  SampleShared& shared;
  const float* values;  // logits times scale, -infinity: not to be sampled
  Part part;
  int width;
  float top = 0.0F;
  uint32_t key = 0;
  int last_id = 0x7fffffff;
  int last_bin = kSampleBins - 1;
  int listed = -1;         // the block's ids up to last_bin are listed: so many; -1: they are not
  Ranked total = 0;        // probability of all ids
  bool has_total = false;  // else what is summed next is all there is
  int pass = 0;

  WEIR_DEVICE bool keeps(float x, int id) const {
    if (key == 0) return x > -kInfinity;
    const uint32_t k = order_key(x);
    return x > -kInfinity && (k > key || (k == key && id <= last_id));
  }
  // Calls body(value, id) for the block's ids, at least for those kept.
  template <class Body>
  WEIR_DEVICE void each(Body body) const {
    if (listed >= 0) {
      for (int i = thread(); i < listed; i += kSampleThreads) body(shared.list_value[i], shared.list_id[i]);
      return;
    }
    for (int i = thread(); i < part.high - part.low; i += kSampleThreads) body(values[i], part.low + i);
  }
};

WEIR_DEVICE uint32_t read_other(int rank, const void* p) {
  return __float_as_uint(device::read_shared_of(static_cast<uint32_t>(rank), static_cast<const float*>(p)));
}
WEIR_DEVICE Ranked read_other_pair(int rank, const Ranked* p) {
  const auto* words = reinterpret_cast<const uint32_t*>(p);
  return static_cast<Ranked>(read_other(rank, words + 1)) << 32 | read_other(rank, words);
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

// A histogram over the whole row: how many ids, or their probabilities. An empty one:
template <bool kWeighted>
WEIR_DEVICE SampleHistogram& begin_bins(Filter* f) {
  SampleHistogram& histogram = f->shared.histogram[f->pass++ & 1];
  for (int p = 0; p < (kWeighted ? kSamplePieces : 1); ++p) histogram.words[p][thread()] = 0;
  __syncthreads();
  return histogram;
}
template <bool kWeighted>
WEIR_DEVICE void add_to_bin(SampleHistogram* histogram, int bin, Ranked weight) {
  if constexpr (kWeighted) {
    for (int p = 0; p < kSamplePieces; ++p) {
      const auto piece = static_cast<uint32_t>(weight >> (14 * p)) & 0x3fffU;
      if (piece != 0) atomicAdd(&histogram->words[p][bin], piece);
    }
  } else {
    atomicAdd(&histogram->words[0][bin], 1U);
  }
}
// Of the bin of this thread's number.
template <bool kWeighted>
WEIR_DEVICE Running end_bins(Filter* f, const SampleHistogram& histogram) {
  cluster_sync();
  Ranked sum = 0;
  for (int rank = 0; rank < kSampleCluster; ++rank) {
    for (int p = 0; p < (kWeighted ? kSamplePieces : 1); ++p) {
      sum += static_cast<Ranked>(read_other(rank, &histogram.words[p][thread()])) << (14 * p);
    }
  }
  return run_up(f->shared, sum);
}

// The kept ids in bins that `digit` names (-1: none).
template <bool kWeighted, class Digit>
WEIR_DEVICE Running sum_bins(Filter* f, Digit digit) {
  SampleHistogram& histogram = begin_bins<kWeighted>(f);
  f->each([&](float x, int id) {
    if (!f->keeps(x, id)) return;
    const int bin = digit(x, id);
    if (bin < 0) return;
    const Ranked weight = kWeighted ? static_cast<Ranked>(fixed_probability(x, f->top)) : 1;
    if (weight != 0) add_to_bin<kWeighted>(&histogram, bin, weight);
  });
  return end_bins<kWeighted>(f, histogram);
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

// Lists the block's kept ids up to last_bin, if they fit.
WEIR_DEVICE void list_ids(Filter* f) {
  // near_bin(x) <= last_bin, without the conversion.
  const float reach = f->last_bin == kSampleBins - 1 ? kInfinity : static_cast<float>(f->last_bin + 1) / 16.0F;
  __syncthreads();
  if (thread() == 0) f->shared.listed = 0;
  __syncthreads();
  const int count = f->part.high - f->part.low;
  for (int base = 0; base < count; base += kSampleThreads) {
    const int i = base + thread();
    const float x = i < count ? f->values[i] : -kInfinity;
    const bool near = x == f->top || __fsub_rn(f->top, x) < reach;
    const bool takes = near && f->keeps(x, f->part.low + i);
    const unsigned takers = __ballot_sync(device::kAllLanes, takes);
    if (takers == 0) continue;
    int place = 0;
    if (device::lane() == 0) place = atomicAdd(&f->shared.listed, __popc(takers));
    place = __shfl_sync(device::kAllLanes, place, 0) + __popc(takers & ((1U << device::lane()) - 1U));
    if (takes && place < kSampleListed) {
      f->shared.list_value[place] = x;
      f->shared.list_id[place] = f->part.low + i;
    }
  }
  __syncthreads();
  f->listed = f->shared.listed <= kSampleListed ? f->shared.listed : -1;
}

// Finds a near_bin up to which there are at least `count` ids and lists them. `largest` is the largest value that this
// thread has seen: the count-th largest of these is not above the count-th largest of all.
WEIR_DEVICE void preselect(Filter* f, float largest, Ranked count) {
  SampleHistogram& histogram = begin_bins<false>(f);
  if (largest > -kInfinity) add_to_bin<false>(&histogram, near_bin(f->top, largest), 1);
  const Running bins = end_bins<false>(f, histogram);
  if (bins.total < count) return;
  f->last_bin = cross(f->shared, bins, 0, {false, count, 0.0}).bin;
  list_ids(f);
}

// The id of the `count`-th of the kept ids with this key, in ascending order.
WEIR_DEVICE int id_in_order(Filter* f, uint32_t key, Ranked count) {
  const Goal goal{false, count, 0.0};
  const int shift = bin_shift(static_cast<uint32_t>(f->width - 1));
  Running bins = sum_bins<false>(f, [&](float x, int id) { return order_key(x) == key ? id >> shift : -1; });
  const Crossing coarse = cross(f->shared, bins, 0, goal);
  if (shift == 0) return coarse.bin;
  bins = sum_bins<false>(f, [&](float x, int id) {
    return order_key(x) == key && id >> shift == coarse.bin ? id & ((1 << shift) - 1) : -1;
  });
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

template <bool kWeighted>
WEIR_DEVICE Running run_near(Filter* f) {
  return sum_bins<kWeighted>(f, [&](float x, int) {
    const int bin = near_bin(f->top, x);
    return bin <= f->last_bin ? bin : -1;
  });
}

// Shortens what is kept to its first top_k ids, or to the shortest prefix with top_p of its probability. False: nothing
// is kept.
template <bool kWeighted>
WEIR_DEVICE bool cut(Filter* f) {
  Running bins = run_near<kWeighted>(f);
  Goal goal{kWeighted, static_cast<Ranked>(f->row.top_k), 0.0};
  if (kWeighted) {
    const Ranked total = f->has_total ? f->total : bins.total;
    if (total == 0) return false;
    goal.wanted = static_cast<double>(f->row.top_p) * static_cast<double>(static_cast<long long>(total));
    if (!goal.reached(bins.total)) {
      f->listed = -1;
      f->last_bin = kSampleBins - 1;
      bins = run_near<kWeighted>(f);
    }
  } else if (f->last_bin == kSampleBins - 1 && bins.total <= goal.count) {
    return true;
  }
  Crossing at = cross(f->shared, bins, 0, goal);
  f->last_bin = at.bin;
  if (f->listed < 0) list_ids(f);
  Ranked base = at.above;
  const int near = at.bin;
  uint32_t high = near_bin_high(f->top, near);
  uint32_t low = near_bin_low(f->top, near);
  for (int shift = 1; shift != 0;) {
    shift = bin_shift(high - low);
    bins = sum_bins<kWeighted>(f, [&](float x, int) {
      const uint32_t key = order_key(x);
      const bool inside = near_bin(f->top, x) == near && key >= low && key <= high;
      return inside ? static_cast<int>((high - key) >> shift) : -1;
    });
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

// What each of the cluster's blocks has in `own`, after a cluster barrier, joined.
template <class Join>
WEIR_DEVICE Ranked over_cluster(SampleShared& shared, const Ranked* own, Join join) {
  if (thread() < kSampleCluster) shared.others[thread()] = read_other_pair(thread(), own);
  __syncthreads();
  Ranked out = shared.others[0];
  for (int rank = 1; rank < kSampleCluster; ++rank) out = join(out, shared.others[rank]);
  return out;
}

WEIR_DEVICE Ranked total_probability(const Filter& f) {
  Ranked sum = 0;
  f.each([&](float x, int) { sum += static_cast<Ranked>(fixed_probability(x, f.top)); });
  sum = run_up(f.shared, sum).total;
  if (thread() == 0) f.shared.total = sum;
  cluster_sync();
  return over_cluster(f.shared, &f.shared.total, [](Ranked a, Ranked b) { return a + b; });
}

// Applies top_k and top_p. `largest` is the largest value that this thread has seen. False: nothing is kept.
WEIR_DEVICE bool cut_row(Filter* f, float largest) {
  constexpr Ranked kPreselected = 1024;  // ids that hold most of the probability of a usual row
  const bool probability = f->row.top_p < 1.0F;
  if (f->row.top_k > 0) {
    if (f->row.top_k <= 4 * kSampleListed) preselect(f, largest, static_cast<Ranked>(f->row.top_k));
    if (!cut<false>(f)) return false;
  } else if (probability) {
    f->total = total_probability(*f);
    f->has_total = true;
    preselect(f, largest, kPreselected);
  }
  return !probability || cut<true>(f);
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
  const float largest = value_of(own);
  own = block_max(shared, own);
  if (thread() == 0) {
    shared.top = own;
    shared.broken = broken ? 1U : 0U;
  }
  cluster_sync();
  const Ranked top = over_cluster(shared, &shared.top, larger);

  Filter f{row, shared, values, part, args.width};
  f.top = value_of(top);
  own = 0;
  if (f.top > -kInfinity && cut_row(&f, largest)) {
    f.each([&](float x, int id) {
      if (!f.keeps(x, id)) return;
      if (row.min_p > 0.0F && portable_exp(__fsub_rn(x, f.top)) < row.min_p) return;
      own = larger(own, ranked(__fadd_rn(x, gumbel_noise(row.seed, row.position, id_of_column(args, id))), id));
    });
  }
  own = block_max(shared, own);
  if (thread() == 0) shared.best = own;
  cluster_sync();
  if (rank == 0) {
    const Ranked best = over_cluster(shared, &shared.best, larger);
    if (thread() == 0) {
      uint32_t any_broken = 0;
      for (int other = 0; other < kSampleCluster; ++other) any_broken |= read_other(other, &shared.broken);
      finish(args, row, any_broken != 0 ? kBroken : best == 0 ? top : best);
    }
  }
  cluster_sync();  // nobody leaves while its shared memory is read
}

}  // namespace

WEIR_KERNEL_BOUNDED(sample_kernel, GpuSampleArgs, kSampleThreads, 1) {
  extern __shared__ __align__(16) uint8_t memory[];
  auto& shared = *reinterpret_cast<SampleShared*>(memory);
  auto* values = reinterpret_cast<float*>(memory + kSampleSharedFixed);
  const GpuSampleRow row = args.rows[blockIdx.y];  // a table of the step
  device::wait_for_previous();
  device::start_next();
  if (row.row < 0) return;
  const bool filtered = row.scale > 0.0F && (row.top_k > 0 || row.top_p < 1.0F || row.min_p > 0.0F);
  if (!filtered) {
    sample_plain(args, row, shared, values);
  } else if (blockIdx.x < kSampleCluster) {
    sample_filtered(args, row, shared, values);
  }
}

}  // namespace weir
