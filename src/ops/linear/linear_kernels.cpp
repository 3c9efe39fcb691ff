// Bound by memory and decoding for few rows, by multiply-adds for many. Few rows: four tiles at a time, every weight is
// decoded once into a register and used for all rows. Many rows: a block of 128 x 64 weights is decoded once into
// scratch (32 KiB) and a 6 x 4 register tile runs over it; sums wait in scratch between blocks. Both follow the same
// chain per output, so the choice is invisible.
#include "ops/linear/linear_kernels.h"

#include "ops/cpu/chain.h"
#include "ops/cpu/kernel_table.h"

namespace weir::WEIR_ISA {
namespace {

// A format says how to decode kStep consecutive k of a tile, how many k a cache line holds (kLine), and how a finished
// block joins the sum.
struct F32Tile {
  static constexpr int64_t kLine = 1;
  static constexpr int64_t kBlock = kLinearBlock;
  static constexpr int kStep = 1;
  WEIR_VEC void decode(const std::byte* tile, int64_t k, Vec* w) {
    w[0] = load(reinterpret_cast<const float*>(tile) + k * kLanes);
  }
  WEIR_VEC Vec join(Vec sum, Vec block, const std::byte*, int64_t) { return add(sum, block); }
};

struct Bf16Tile {
  static constexpr int64_t kLine = 2;
  static constexpr int64_t kBlock = kLinearBlock;
  static constexpr int kStep = 1;
  WEIR_VEC void decode(const std::byte* tile, int64_t k, Vec* w) { w[0] = decode_bf16(tile + k * 2 * kLanes); }
  WEIR_VEC Vec join(Vec sum, Vec block, const std::byte*, int64_t) { return add(sum, block); }
};

struct Fp8BlockTile {
  static constexpr int64_t kLine = 4;
  static constexpr int64_t kBlock = kLinearBlock;
  static constexpr int kStep = 4;
  WEIR_VEC void decode(const std::byte* tile, int64_t k, Vec* w) { decode_fp8(tile + k * kLanes, w); }
  WEIR_VEC Vec join(Vec sum, Vec block, const std::byte* scales, int64_t b) {
    return fma(block, splat(reinterpret_cast<const float*>(scales)[b]), sum);
  }
};

struct Fp8RowTile {
  static constexpr int64_t kLine = 4;
  static constexpr int64_t kBlock = kLinearBlock;
  static constexpr int kStep = 4;
  WEIR_VEC void decode(const std::byte* tile, int64_t k, Vec* w) { decode_fp8(tile + k * kLanes, w); }
  WEIR_VEC Vec join(Vec sum, Vec block, const std::byte* scales, int64_t) {
    return fma(block, load(reinterpret_cast<const float*>(scales)), sum);
  }
};

struct Mxfp4Tile {
  static constexpr int64_t kLine = 8;
  static constexpr int64_t kBlock = kMxfp4Group;
  static constexpr int kStep = 2;
  WEIR_VEC void decode(const std::byte* tile, int64_t k, Vec* w) { decode_mxfp4(tile + k / 2 * kLanes, &w[0], &w[1]); }
  WEIR_VEC Vec join(Vec sum, Vec block, const std::byte* scales, int64_t b) {
    return fma(block, decode_e8m0(scales + b * kLanes), sum);
  }
};

// Up to this many rows are computed straight from the stored weights, in one or two passes; decoding twice still costs
// less than the way through scratch.
constexpr int64_t kDirectRowsMax = 2 * kTileRowsMax;

WEIR_VEC void finish(const LinearTask& task, int64_t row, int64_t tile, Vec sum) {
  float* y = task.y + row * task.y_stride + (tile - task.tile_begin) * kLanes;
  const int64_t columns = task.weight.n - tile * kLanes;
  if (columns >= kLanes) {
    store(y, task.add ? weir::WEIR_ISA::add(load(y), sum) : sum);
  } else {
    store_n(y, task.add ? weir::WEIR_ISA::add(load_n(y, columns), sum) : sum, columns);
  }
}

template <class Format, int kRows, int kTiles>
WEIR_VEC void direct_tiles(const LinearTask& task, int64_t tile) {
  const WeightTiles& w = task.weight;
  const std::byte* data[kTiles];
  const std::byte* scales[kTiles];
  for (int t = 0; t < kTiles; ++t) {
    data[t] = w.data + (tile + t) * w.tile_bytes;
    scales[t] = w.scales + (tile + t) * w.tile_scale_bytes;
  }
  // Short tiles end before the hardware has seen a stream: fetch what the next group of tiles will read. Long tiles are
  // streams that the hardware follows; there a fetch 16 lines ahead only fills its gaps.
  constexpr int64_t kShortTile = 16 * 1024;
  const int64_t ahead = w.tile_bytes <= kShortTile ? kTiles * w.tile_bytes : 1024;
  const float* x[kRows];
  for (int r = 0; r < kRows; ++r) x[r] = task.x[r];
  Vec sum[kRows][kTiles];
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kTiles; ++t) sum[r][t] = zero();
  }
  int64_t b = 0;
  for (int64_t begin = 0; begin < w.k; begin += Format::kBlock, ++b) {
    const int64_t end = begin + Format::kBlock < w.k ? begin + Format::kBlock : w.k;
    Vec block[kRows][kTiles];
    for (int r = 0; r < kRows; ++r) {
      for (int t = 0; t < kTiles; ++t) block[r][t] = zero();
    }
    const auto advance = [&](int64_t k, int t, int64_t steps) __attribute__((always_inline)) {
      Vec values[Format::kStep];
      Format::decode(data[t], k, values);
      for (int s = 0; s < steps; ++s) {
        for (int r = 0; r < kRows; ++r) block[r][t] = fma(splat(x[r][k + s]), values[s], block[r][t]);
      }
    };
    int64_t k = begin;
    for (; k + Format::kLine <= end; k += Format::kLine) {
      for (int t = 0; t < kTiles; ++t) {
        __builtin_prefetch(data[t] + k * (64 / Format::kLine) + ahead);
        for (int64_t step = 0; step < Format::kLine; step += Format::kStep) advance(k + step, t, Format::kStep);
      }
    }
    for (; k < end; k += Format::kStep) {
      for (int t = 0; t < kTiles; ++t) advance(k, t, end - k < Format::kStep ? end - k : Format::kStep);
    }
    for (int r = 0; r < kRows; ++r) {
      for (int t = 0; t < kTiles; ++t) sum[r][t] = Format::join(sum[r][t], block[r][t], scales[t], b);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kTiles; ++t) finish(task, r, tile + t, sum[r][t]);
  }
}

template <class Format, int kRows>
void direct(const LinearTask& task) {
  // One row alone needs eight chains in flight.
  constexpr int kTiles = kRows == 1 ? chain_vectors(1) : tile_vectors(kRows);
  constexpr int kHalf = kTiles / 2;
  int64_t tile = task.tile_begin;
  for (; tile + kTiles <= task.tile_end; tile += kTiles) direct_tiles<Format, kRows, kTiles>(task, tile);
  if constexpr (kHalf > 1) {
    for (; tile + kHalf <= task.tile_end; tile += kHalf) direct_tiles<Format, kRows, kHalf>(task, tile);
  }
  if constexpr (kTiles > 1) {
    for (; tile < task.tile_end; ++tile) direct_tiles<Format, kRows, 1>(task, tile);
  }
}

// One block of a panel for kRows rows: sums[kRows][64] = join(sums, x W^T).
template <class Format, int kRows>
void panel_rows(const float* const* x, int64_t k_begin, int64_t k_count, const float* panel, float* sums,
                const std::byte* const* scales, int64_t b) {
  constexpr int kTiles = tile_vectors(kRows);
  const float* a[kRows];
  for (int r = 0; r < kRows; ++r) a[r] = x[r] + k_begin;
  for (int64_t first = 0; first < kPanelTiles; first += kTiles) {
    Vec block[kRows][kTiles];
    for (int r = 0; r < kRows; ++r) {
      for (int t = 0; t < kTiles; ++t) block[r][t] = zero();
    }
    const float* p = panel + first * kLanes;
    for (int64_t k = 0; k < k_count; ++k, p += kPanelColumns) {
      Vec w[kTiles];
      for (int t = 0; t < kTiles; ++t) w[t] = load(p + t * kLanes);
      for (int r = 0; r < kRows; ++r) {
        const Vec v = splat(a[r][k]);
        for (int t = 0; t < kTiles; ++t) block[r][t] = fma(v, w[t], block[r][t]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int t = 0; t < kTiles; ++t) {
        float* sum = sums + r * kPanelColumns + (first + t) * kLanes;
        store(sum, Format::join(b == 0 ? zero() : load(sum), block[r][t], scales[first + t], b));
      }
    }
  }
}

template <class Format>
void panel_block(const LinearTask& task, int64_t k_begin, int64_t k_count, const float* panel, float* sums,
                 const std::byte* const* scales, int64_t b) {
  for (int64_t row = 0; row < task.rows;) {
    const int rows = next_rows(task.rows - row);
    const float* const* x = task.x + row;
    float* out = sums + row * kPanelColumns;
    with_rows(rows, [&]<int kRows>() { panel_rows<Format, kRows>(x, k_begin, k_count, panel, out, scales, b); });
    row += rows;
  }
}

// Up to kPanelTiles tiles for many rows. Missing tiles of the last panel repeat its last one; their sums are dropped.
template <class Format>
void panel(const LinearTask& task, int64_t tile) {
  const WeightTiles& w = task.weight;
  float* decoded = task.scratch;
  float* sums = task.scratch + kLinearBlock * kPanelColumns;
  const int64_t tiles = task.tile_end - tile < kPanelTiles ? task.tile_end - tile : kPanelTiles;
  const std::byte* data[kPanelTiles];
  const std::byte* scales[kPanelTiles];
  for (int64_t t = 0; t < kPanelTiles; ++t) {
    const int64_t source = tile + (t < tiles ? t : tiles - 1);
    data[t] = w.data + source * w.tile_bytes;
    scales[t] = w.scales + source * w.tile_scale_bytes;
  }
  int64_t b = 0;
  for (int64_t begin = 0; begin < w.k; begin += Format::kBlock, ++b) {
    const int64_t count = begin + Format::kBlock < w.k ? Format::kBlock : w.k - begin;
    for (int64_t k = 0; k < count; k += Format::kStep) {
      for (int64_t t = 0; t < kPanelTiles; ++t) {
        Vec values[Format::kStep];
        Format::decode(data[t], begin + k, values);
        // The last group may pass the end of K: the scratch has room, and nothing reads it.
        for (int s = 0; s < Format::kStep; ++s) store(decoded + (k + s) * kPanelColumns + t * kLanes, values[s]);
      }
    }
    panel_block<Format>(task, begin, count, decoded, sums, scales, b);
  }
  for (int64_t row = 0; row < task.rows; ++row) {
    for (int64_t t = 0; t < tiles; ++t) finish(task, row, tile + t, load(sums + row * kPanelColumns + t * kLanes));
  }
}

template <class Format>
void run(const LinearTask& task) {
  if (task.rows > kDirectRowsMax) {
    for (int64_t tile = task.tile_begin; tile < task.tile_end; tile += kPanelTiles) panel<Format>(task, tile);
    return;
  }
  LinearTask part = task;
  for (int64_t row = 0; row < task.rows; row += part.rows) {
    part.x = task.x + row;
    part.y = task.y + row * task.y_stride;
    part.rows = next_rows(task.rows - row);
    with_rows(static_cast<int>(part.rows), [&]<int kRows>() { direct<Format, kRows>(part); });
  }
}

}  // namespace

void linear_task(const LinearTask& task) {
  switch (task.weight.format) {
    case WeightFormat::kF32:
      return run<F32Tile>(task);
    case WeightFormat::kBf16:
      return run<Bf16Tile>(task);
    case WeightFormat::kFp8Block:
      return run<Fp8BlockTile>(task);
    case WeightFormat::kFp8Row:
      return run<Fp8RowTile>(task);
    case WeightFormat::kMxfp4:
      return run<Mxfp4Tile>(task);
  }
}

}  // namespace weir::WEIR_ISA
