// Mixture of experts over the rows of a prompt: bound by the matrix units, for few rows by reading the chosen experts.
// Assignments are counted by chunks of 64 rows and placed by expert in the order of rows (an expert's rows of a chunk
// are the bits of a mask); both products work through units of up to 128 rows of one expert (tiles, threads and
// synchronisation: ops/linear/prompt_tile.h), the first on rows gathered by the list; a last kernel joins each row's
// products.
#include "ops/linear/prompt_tile.h"
#include "ops/moe/moe_prompt_args.h"

namespace weir {
namespace {

// For each expert, which rows of this block's chunk chose it, a bit a row; in shared memory.
struct Chunk {
  uint32_t (*masks)[2];
  int count;
  int first;  // assignment
  WEIR_DEVICE Chunk(const GpuMoePromptArgs& args, uint32_t (*shared)[2]) : masks(shared) {
    first = static_cast<int>(blockIdx.x) * kMoePromptChunk * args.slots;
    count = min(kMoePromptChunk * args.slots, args.rows * args.slots - first);
    const int thread = static_cast<int>(threadIdx.x);
    masks[thread][0] = masks[thread][1] = 0;
    __syncthreads();
    for (int i = thread; i < count; i += static_cast<int>(blockDim.x)) {
      const int row = i / args.slots;
      atomicOr(&masks[args.experts[first + i]][row / 32], 1U << row % 32);
    }
    __syncthreads();
  }
  WEIR_DEVICE int rows_of(int expert) const { return __popc(masks[expert][0]) + __popc(masks[expert][1]); }
  // Rows of the chunk before `row` that chose the expert.
  WEIR_DEVICE int rows_before(int expert, int row) const {
    const uint32_t below = (1U << row % 32) - 1;
    return row < 32 ? __popc(masks[expert][0] & below) : __popc(masks[expert][0]) + __popc(masks[expert][1] & below);
  }
};

// Sum of the values of the threads before this one, of a block of whole warps.
WEIR_DEVICE int sum_before(int value, int* scratch) {
  int sum = value;
  for (int distance = 1; distance < device::kWarp; distance *= 2) {
    const int other = __shfl_up_sync(device::kAllLanes, sum, static_cast<unsigned>(distance));
    if (device::lane() >= distance) sum += other;
  }
  __syncthreads();
  if (device::lane() == device::kWarp - 1) scratch[device::warp()] = sum;
  __syncthreads();
  for (int i = 0; i < device::warp(); ++i) sum += scratch[i];
  return sum - value;
}

// The rows of an expert as units: whole ones, then one for the rest.
WEIR_DEVICE void write_tiles(const GpuMoePromptArgs& args, int expert, int first, int rows, int tile) {
  for (int row = 0; row < rows; row += kPromptTokens) {
    args.tiles[tile++] = {expert, first + row, min(kPromptTokens, rows - row), 0};
  }
  if (expert == args.experts_total - 1) *args.tile_count = tile;
}

inline constexpr int kStagingBarrier = 1;  // and 2: of a warpgroup

// Where column c of 64 stands among the products at this position of the list: the lanes of a warp, which hold rows of
// different columns, write to different banks.
WEIR_DEVICE int moe_prompt_place(int c, int position) {
  return c ^ (position / 2 % 4 * 8);
}

// What both products share; kDown: the second. kQuantised: rows and hidden values are.
template <bool kDown, bool kQuantised>
struct ExpertWork {
  static constexpr bool kE4m3 = kQuantised;
  static constexpr bool kKnownBefore = false;
  static constexpr bool kCounted = true;
  static constexpr int kBeside = kDown ? kMoePromptStaging : 0;
  const GpuMoePromptArgs& args;

  WEIR_DEVICE int* counter() const { return args.counters + (kDown ? 1 : 0); }
  WEIR_DEVICE int count() const { return *args.tile_count * args.row_tiles; }
  WEIR_DEVICE PromptUnit unit(int i) const {
    const GpuMoeTile tile = args.tiles[i / args.row_tiles];
    PromptUnit unit;
    unit.index = tile.expert;
    const GpuPackedMlp& mlp = args.table[tile.expert];
    unit.take(kDown ? mlp.down : mlp.gate_up, i % args.row_tiles * kPromptStrips, kPromptStrips);
    if constexpr (kE4m3) {
      unit.x = reinterpret_cast<const uint16_t*>(kDown ? args.hidden_e4m3 : args.x_e4m3);
    } else {
      const bool f16 = operand_type(unit.format) == kOperandF16;
      unit.x = kDown ? args.hidden : (f16 ? args.x_f16 : args.x_bf16);
    }
    unit.first = tile.first;
    unit.rows = tile.rows;
    unit.columns = prompt_columns(tile.rows);
    unit.split = 0;
    return unit;
  }
  WEIR_DEVICE int64_t x_stride() const {
    const int64_t stride = kDown ? args.width : args.x_stride;
    return kE4m3 ? stride / 2 : stride;
  }
  WEIR_DEVICE const float* x_scales() const { return kDown ? args.hidden_scales : args.x_scales; }
  WEIR_DEVICE int64_t scale_stride() const { return kDown ? int64_t{args.rows} * args.slots : args.scale_stride; }
};

template <bool kQuantised>
struct HiddenWork : ExpertWork<false, kQuantised> {
  using ExpertWork<false, kQuantised>::args;
  WEIR_DEVICE int row(const PromptUnit& unit, int r) const { return args.list[unit.first + r]; }

  // A lane has a hidden value of two tokens; lanes of rows g and g ^ 1 exchange, and each writes two values of one.
  template <int kSize>
  WEIR_DEVICE void finish(const PromptUnit& unit, const PromptPart& part, const float (&total)[kSize / 2],
                          uint8_t*) const {
    const int strip = part.strip;
    if (strip * kStripRows >= unit.n) return;
    const bool f16 = operand_type(unit.format) == kOperandF16;
    const int g = device::lane() / 4;
    const int odd = g % 2;
    const float* scales = unit.row_scales;
    const float gate_scale = scales != nullptr ? scales[strip * kStripRows + g] : 1.0F;
    const float up_scale = scales != nullptr ? scales[strip * kStripRows + g + 8] : 1.0F;
    const int column = strip * (kStripRows / 2) + g - odd;
    const int token = 2 * (device::lane() % 4) + odd;
    uint16_t* hidden = args.hidden + static_cast<int64_t>(unit.first + token) * args.width + column;
#pragma unroll
    for (int j = 0; j < kSize / 8; ++j) {
      float value[2];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        value[e] = device::silu(total[4 * j + e] * gate_scale) * (total[4 * j + 2 + e] * up_scale);
      }
      const float other = __shfl_xor_sync(device::kAllLanes, odd != 0 ? value[0] : value[1], 4);
      const float low = odd != 0 ? other : value[0];
      const float high = odd != 0 ? value[1] : other;
      const uint32_t pair = f16 ? device::f16x2(low, high) : device::bf16x2(low, high);
      if (8 * j + token < unit.rows && column < unit.n / 2) {
        *reinterpret_cast<uint32_t*>(hidden + static_cast<int64_t>(8 * j) * args.width) = pair;
      }
    }
  }
};

template <bool kQuantised>
struct ProductWork : ExpertWork<true, kQuantised> {
  using ExpertWork<true, kQuantised>::args;
  WEIR_DEVICE int row(const PromptUnit& unit, int r) const { return unit.first + r; }

  // 64 rows of D of 32 tokens at a time go by way of shared memory, from where the copy engine takes them: a half of
  // the warpgroup's part is written while the other is read.
  template <int kSize>
  WEIR_DEVICE void finish(const PromptUnit& unit, const PromptPart& part, const float (&total)[kSize / 2],
                          uint8_t* beside) const {
    constexpr int kTokens = kSize < kMoePromptTogether ? kSize : kMoePromptTogether;
    const int warpgroup = device::warp() / kPromptWarpgroup;
    const bool issues = threadIdx.x % (kPromptWarpgroup * device::kWarp) == 0;
    const int g = device::lane() / 4;
    const int t = device::lane() % 4;
    const int column = device::warp() % kPromptWarpgroup * kStripRows + g;  // of 64
    const int n = part.strip * kStripRows + g;
    const int tile = part.strip / kPromptWarpgroup;
    float scale[2] = {1.0F, 1.0F};
    if (unit.row_scales != nullptr) {
      scale[0] = unit.row_scales[min(n, unit.n - 1)];
      scale[1] = unit.row_scales[min(n + 8, unit.n - 1)];
    }
    float* to = args.products + (static_cast<int64_t>(tile) * args.rows * args.slots + unit.first) * kMoePromptColumns;
#pragma unroll
    for (int first = 0; first < kSize; first += kTokens) {
      auto* half = reinterpret_cast<float*>(beside) +
                   (2 * warpgroup + first / kTokens % 2) * kMoePromptTogether * kMoePromptColumns;
      if (issues && first == 0) device::bulk_stores_read<0>();
      if (issues && first > 0) device::bulk_stores_read<1>();
      device::threads_barrier(kStagingBarrier + warpgroup, kPromptWarpgroup * device::kWarp);
#pragma unroll
      for (int i = 0; i < kTokens / 4; ++i) {
        const int token = 8 * (i / 2) + 2 * t + i % 2;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          half[token * kMoePromptColumns + moe_prompt_place(column + 8 * h, unit.first + token)] =
              total[4 * ((first / 8) + i / 2) + 2 * h + i % 2] * scale[h];
        }
      }
      device::fence_async();
      device::threads_barrier(kStagingBarrier + warpgroup, kPromptWarpgroup * device::kWarp);
      const int tokens = min(kTokens, unit.rows - first);
      if (issues && tokens > 0 && tile * kMoePromptColumns < args.columns) {
        device::bulk_store(to + static_cast<int64_t>(first) * kMoePromptColumns, half,
                           static_cast<uint32_t>(tokens * kMoePromptColumns * sizeof(float)));
      }
      if (issues) device::bulk_stores_commit();
    }
  }
};

}  // namespace

WEIR_KERNEL(weir_moe_prompt_count, GpuMoePromptArgs) {
  __shared__ uint32_t masks[kMoePromptTableMax][2];
  device::wait_for_previous();
  device::start_next();
  const Chunk chunk(args, masks);
  const int expert = static_cast<int>(threadIdx.x);
  if (expert < args.experts_total) {
    args.counts[static_cast<int>(blockIdx.x) * args.experts_total + expert] = chunk.rows_of(expert);
  }
}

WEIR_KERNEL(weir_moe_prompt_place, GpuMoePromptArgs) {
  __shared__ uint32_t masks[kMoePromptTableMax][2];
  __shared__ int32_t starts[kMoePromptTableMax];  // of each expert's rows of this chunk in the list
  __shared__ int scratch[kMoePromptTableMax / device::kWarp];
  device::wait_for_previous();
  device::start_next();
  const Chunk chunk(args, masks);
  const int expert = static_cast<int>(threadIdx.x);
  const int own = static_cast<int>(blockIdx.x);
  const bool there = expert < args.experts_total;
  int all = there ? chunk.rows_of(expert) : 0;
  int before = 0;
  if (there && gridDim.x > 1) {
    all = 0;
#pragma unroll 16
    for (int c = 0; c < static_cast<int>(gridDim.x); ++c) {
      const int count = args.counts[c * args.experts_total + expert];
      all += count;
      before += c < own ? count : 0;
    }
  }
  const int first = sum_before(all, scratch);
  if (own == 0) {
    const int tile = sum_before((all + kPromptTokens - 1) / kPromptTokens, scratch);
    if (there) write_tiles(args, expert, first, all, tile);
    if (expert < 2) args.counters[expert] = 0;
  }
  starts[expert] = first + before;
  __syncthreads();
  for (int i = expert; i < chunk.count; i += static_cast<int>(blockDim.x)) {
    const int chosen = args.experts[chunk.first + i];
    const int position = starts[chosen] + chunk.rows_before(chosen, i / args.slots);
    args.list[position] = (chunk.first + i) / args.slots;
    args.positions[chunk.first + i] = position;
  }
}

WEIR_KERNEL_BOUNDED(weir_moe_prompt_hidden, GpuMoePromptArgs, kPromptThreads, 1) {
  prompt_products(HiddenWork<false>{{args}}, args.slots_of_ring, args.weight_bytes);
}
WEIR_KERNEL_BOUNDED(weir_moe_prompt_hidden_e4m3, GpuMoePromptArgs, kPromptThreads, 1) {
  prompt_products(HiddenWork<true>{{args}}, args.slots_of_ring, args.weight_bytes);
}

WEIR_KERNEL_BOUNDED(weir_moe_prompt_products, GpuMoePromptArgs, kPromptThreads, 1) {
  prompt_products(ProductWork<false>{{args}}, args.slots_of_ring, args.weight_bytes);
}
WEIR_KERNEL_BOUNDED(weir_moe_prompt_products_e4m3, GpuMoePromptArgs, kPromptThreads, 1) {
  prompt_products(ProductWork<true>{{args}}, args.slots_of_ring, args.weight_bytes);
}

// A block a row, four columns a thread and turn.
WEIR_KERNEL(weir_moe_prompt_join, GpuMoePromptArgs) {
  __shared__ int32_t starts[kMoePromptSlotsMax];
  __shared__ float weights[kMoePromptSlotsMax];
  device::wait_for_previous();
  device::start_next();
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t row = blockIdx.x;
  const int32_t* experts = args.experts + row * args.slots;
  if (thread < args.slots) {
    int place = 0;
    for (int i = 0; i < args.slots; ++i) {
      place += experts[i] < experts[thread] || (experts[i] == experts[thread] && i < thread) ? 1 : 0;
    }
    starts[place] = args.positions[row * args.slots + thread];
    weights[place] = args.weights[row * args.slots + thread];
  }
  __syncthreads();
  for (int column = 4 * thread; column < args.columns; column += 4 * static_cast<int>(blockDim.x)) {
    float4 total = {0, 0, 0, 0};
    const float* part =
        args.products + int64_t{column / kMoePromptColumns} * args.rows * args.slots * kMoePromptColumns;
#pragma unroll 4
    for (int i = 0; i < args.slots; ++i) {
      const float* at = part + int64_t{starts[i]} * kMoePromptColumns;
      const int place = moe_prompt_place(column % kMoePromptColumns, starts[i]);
      const float4 product = __ldcs(reinterpret_cast<const float4*>(at + place));
      total.x = fmaf(weights[i], product.x, total.x);
      total.y = fmaf(weights[i], product.y, total.y);
      total.z = fmaf(weights[i], product.z, total.z);
      total.w = fmaf(weights[i], product.w, total.w);
    }
    auto* y = reinterpret_cast<float4*>(args.y + row * args.y_stride + column);
    if (args.add != 0) {
      const float4 old = *y;
      total = {old.x + total.x, old.y + total.y, old.z + total.z, old.w + total.w};
    }
    *y = total;
  }
}

}  // namespace weir
