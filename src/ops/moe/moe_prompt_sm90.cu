// Mixture of experts over the rows of a prompt: bound by the matrix units. Assignments are counted by chunks of rows
// and placed by expert (a thread per expert looks through its chunk, so the order is that of rows and needs no
// atomics); both products work through units of up to 128 rows of one expert (tiles, threads and synchronisation:
// ops/linear/prompt_tile.h), the first on rows gathered by the list; a last kernel joins each row's products.
#include "ops/linear/prompt_tile.h"
#include "ops/moe/moe_prompt_args.h"

namespace weir {
namespace {

// The assignments of this block's chunk of rows, in shared memory.
struct Chunk {
  int32_t* experts;
  int count;
  int first;  // assignment
  WEIR_DEVICE Chunk(const GpuMoePromptArgs& args, int32_t* shared) : experts(shared) {
    first = static_cast<int>(blockIdx.x) * kMoePromptChunk * args.slots;
    count = min(kMoePromptChunk * args.slots, args.rows * args.slots - first);
    for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
      experts[i] = args.experts[first + i];
    }
    __syncthreads();
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

// What both products share.
struct ExpertWork {
  static constexpr bool kKnownBefore = false;
  const GpuMoePromptArgs& args;

  WEIR_DEVICE int count() const { return *args.tile_count * args.row_tiles; }
  WEIR_DEVICE PromptUnit unit(int i) const {
    const GpuMoeTile tile = args.tiles[i / args.row_tiles];
    PromptUnit unit;
    unit.index = tile.expert;
    unit.strip = i % args.row_tiles * kPromptStrips;
    unit.first = tile.first;
    unit.rows = tile.rows;
    unit.size = prompt_unit_size(tile.rows);
    return unit;
  }
};

struct HiddenWork : ExpertWork {
  WEIR_DEVICE PromptUnit unit(int i) const {
    PromptUnit unit = ExpertWork::unit(i);
    unit.weight = args.table[unit.index].gate_up;
    return unit;
  }
  WEIR_DEVICE int64_t row(const PromptUnit& unit, int r) const { return args.list[unit.first + r]; }
  WEIR_DEVICE int64_t x_stride() const { return args.x_stride; }

  // A lane has a hidden value of two tokens; lanes of rows g and g ^ 1 exchange, and each writes two values of one.
  template <int kSize>
  WEIR_DEVICE void finish(const PromptUnit& unit, const float (&total)[kSize / 2]) const {
    const int strip = unit.strip + device::warp();
    const int g = device::lane() / 4;
    const int odd = g % 2;
    const float* scales = unit.weight.row_scales;
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
      const uint32_t pair = odd != 0 ? device::bf16x2(other, value[1]) : device::bf16x2(value[0], other);
      if (8 * j + token < unit.rows && column < unit.weight.n / 2) {
        *reinterpret_cast<uint32_t*>(hidden + static_cast<int64_t>(8 * j) * args.width) = pair;
      }
    }
  }
};

struct ProductWork : ExpertWork {
  WEIR_DEVICE PromptUnit unit(int i) const {
    PromptUnit unit = ExpertWork::unit(i);
    unit.weight = args.table[unit.index].down;
    return unit;
  }
  WEIR_DEVICE int64_t row(const PromptUnit& unit, int r) const { return unit.first + r; }
  WEIR_DEVICE int64_t x_stride() const { return args.width; }

  template <int kSize>
  WEIR_DEVICE void finish(const PromptUnit& unit, const float (&total)[kSize / 2]) const {
    const int n = (unit.strip + device::warp()) * kStripRows + device::lane() / 4;
    const int t = device::lane() % 4;
    const float* scales = unit.weight.row_scales;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (n + 8 * h >= unit.weight.n) return;
      const float scale = scales != nullptr ? scales[n + 8 * h] : 1.0F;
      float* y = args.products + static_cast<int64_t>(unit.first + 2 * t) * args.columns + n + 8 * h;
#pragma unroll
      for (int j = 0; j < kSize / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          if (unit.rows == kSize || 8 * j + 2 * t + e < unit.rows) {
            y[int64_t{8 * j + e} * args.columns] = total[4 * j + 2 * h + e] * scale;
          }
        }
      }
    }
  }
};

}  // namespace

WEIR_KERNEL(weir_moe_prompt_count, GpuMoePromptArgs) {
  __shared__ int32_t experts[kMoePromptChunk * kMoePromptSlotsMax];
  device::wait_for_previous();
  device::start_next();
  const Chunk chunk(args, experts);
  const int expert = static_cast<int>(threadIdx.x);
  int count = 0;
  for (int i = 0; i < chunk.count; ++i) count += chunk.experts[i] == expert ? 1 : 0;
  if (expert < args.experts_total) args.counts[static_cast<int>(blockIdx.x) * args.experts_total + expert] = count;
}

WEIR_KERNEL(weir_moe_prompt_place, GpuMoePromptArgs) {
  __shared__ int32_t experts[kMoePromptChunk * kMoePromptSlotsMax];
  __shared__ int scratch[kMoePromptTableMax / device::kWarp];
  device::wait_for_previous();
  device::start_next();
  const Chunk chunk(args, experts);
  const int expert = static_cast<int>(threadIdx.x);
  const int own = static_cast<int>(blockIdx.x);
  const bool there = expert < args.experts_total;
  int all = 0;
  int before = 0;
  if (there) {
#pragma unroll 8
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
  }
  if (!there) return;
  int position = first + before;
  for (int i = 0; i < chunk.count; ++i) {
    if (chunk.experts[i] != expert) continue;
    args.list[position] = (chunk.first + i) / args.slots;
    args.positions[chunk.first + i] = position;
    ++position;
  }
}

WEIR_KERNEL_BOUNDED(weir_moe_prompt_hidden, GpuMoePromptArgs, kPromptThreads, 1) {
  prompt_products(HiddenWork{{args}}, args.x, args.slots_of_ring, args.weight_bytes);
}

WEIR_KERNEL_BOUNDED(weir_moe_prompt_products, GpuMoePromptArgs, kPromptThreads, 1) {
  prompt_products(ProductWork{{args}}, args.hidden, args.slots_of_ring, args.weight_bytes);
}

// A block a row, four columns a thread and turn.
WEIR_KERNEL(weir_moe_prompt_join, GpuMoePromptArgs) {
  __shared__ int64_t starts[kMoePromptSlotsMax];
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
    starts[place] = static_cast<int64_t>(args.positions[row * args.slots + thread]) * args.columns;
    weights[place] = args.weights[row * args.slots + thread];
  }
  __syncthreads();
  for (int column = 4 * thread; column < args.columns; column += 4 * static_cast<int>(blockDim.x)) {
    float4 total = {0, 0, 0, 0};
#pragma unroll 4
    for (int i = 0; i < args.slots; ++i) {
      const float4 product = __ldcs(reinterpret_cast<const float4*>(args.products + starts[i] + column));
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
