#include "ops/gdn/gdn_chunks_gpu.h"

#include <algorithm>
#include <string>

#include "base/check.h"
#include "ops/gdn/slot.h"
#include "ops/linear/few_share.h"

namespace weir {
namespace {

constexpr int64_t kFewHeads = 128;  // value heads of all sequences, up to which the kernel for few takes them
constexpr int64_t kFloat = sizeof(float);
constexpr int64_t kTiles = kGdnHeadDim / kGdnTileColumns;  // of a head's state
constexpr int kProductsThreads = 256;
constexpr int kChunksThreads = 384;
constexpr int64_t kChunksColumns = 64;  // of a block

// Of what the kernels keep in shared memory, rounded up.
int64_t products_shared_bytes() {
  return 2 * kGdnKeyTileBytes + 3 * 4 * 64 * kFloat;
}

int64_t chunks_shared_bytes() {
  constexpr int64_t kStages = 3;
  constexpr int64_t kHalves = kGdnHeadDim / kChunksColumns;
  constexpr int64_t kStage = 2 * kGdnKeyTileBytes + kGdnHeadTileBytes + kGdnValueTileBytes / kHalves;
  constexpr int64_t kHanded = 4 * (8 + 4) * 32 * 16;
  constexpr int64_t kFloats = 2 * 64 * (kChunksColumns + 4) + 4 * kHalves * 64;
  return round_up(kStages * kStage + kHanded + kFloats * kFloat + (2 * kStages + 4 * 4 + 2 + 2 + 4) * 8, 128);
}

int64_t chunk_bytes(int64_t key_heads, int64_t value_heads) {
  return key_heads * 2 * kGdnKeyTileBytes + value_heads * (kGdnHeadTileBytes + kGdnValueTileBytes);
}

// Of a block of the kernel for few heads: a cluster has eight blocks at most.
int few_tiles(int64_t ratio) {
  return ratio == 4 ? 2 : 1;
}

void check(const GpuGdnPackedArgs& args) {
  WEIR_CHECK(args.ratio == 1 || args.ratio == 2 || args.ratio == 4, "{} value heads of a key head", args.ratio);
  WEIR_CHECK(args.u_stride % 4 == 0 && args.z_stride % 4 == 0 && args.y_stride % 2 == 0 && args.slot_offset % 16 == 0,
             "strides {} of u, {} of z, {} of y, a slot's offset of {}", args.u_stride, args.z_stride, args.y_stride,
             args.slot_offset);
}

}  // namespace

bool gdn_packed_takes(const GdnShape& shape) {
  const int64_t ratio = shape.key_heads == 0 ? 0 : shape.value_heads / shape.key_heads;
  return shape.key_dim == kGdnHeadDim && shape.value_dim == kGdnHeadDim &&
         ratio * shape.key_heads == shape.value_heads && (ratio == 1 || ratio == 2 || ratio == 4);
}

void set_shape(const GdnShape& shape, GpuGdnPackedArgs* args) {
  WEIR_CHECK(gdn_packed_takes(shape), "{} key heads of {}, {} value heads of {}", shape.key_heads, shape.key_dim,
             shape.value_heads, shape.value_dim);
  const GdnSlotParts parts = gdn_slot_parts(shape);
  args->state_offset = parts.state;
  args->keys_offset = parts.keys;
  args->update_offset = parts.update;
  args->log_decay_offset = parts.log_decay;
  args->inputs_offset = parts.inputs;
  args->key_heads = static_cast<int32_t>(shape.key_heads);
  args->ratio = static_cast<int32_t>(shape.value_heads / shape.key_heads);
  args->channels = static_cast<int32_t>(shape.channels());
  args->eps = shape.norm_eps;
}

GdnRowsKernel gdn_rows_kernel(int64_t sequences, int64_t value_heads) {
  return sequences * value_heads <= kFewHeads ? GdnRowsKernel::kFew : GdnRowsKernel::kMany;
}

std::string_view gdn_rows_name(GdnRowsKernel kernel, int64_t ratio) {
  if (kernel == GdnRowsKernel::kMany) return "gdn_rows";
  return few_tiles(ratio) == 1 ? "gdn_rows_few" : "gdn_rows_few_wide";
}

void gdn_rows(Gpu& gpu, const GpuGdnPackedArgs& args) {
  gdn_rows_by(gpu, args, gdn_rows_kernel(args.sequence_count, int64_t{args.key_heads} * args.ratio));
}

void gdn_rows_by(Gpu& gpu, const GpuGdnPackedArgs& args, GdnRowsKernel kernel) {
  check(args);
  if (args.sequence_count == 0) return;
  const bool few = kernel == GdnRowsKernel::kFew;
  const int tiles = few ? few_tiles(args.ratio) : static_cast<int>(kTiles);  // a block
  GpuGdnPackedArgs launched = args;
  launched.cluster = args.ratio * static_cast<int32_t>(kTiles) / tiles;
  device::Grid grid;
  grid.cluster = launched.cluster;
  grid.x = int64_t{args.key_heads} * grid.cluster;
  grid.y = args.sequence_count;
  grid.threads = few ? gdn_rows_few_threads(tiles) : kGdnRowsThreads;
  grid.shared_bytes = few ? gdn_rows_few_shared_bytes(tiles) : kGdnRowsSharedBytes;
  grid.overlap = true;
  // As the kernels of few rows beside it; two blocks with a head each need most of it.
  grid.shared_split = kFewSplit;
  gpu.launch("weir_" + std::string(gdn_rows_name(kernel, args.ratio)), grid, launched);
}

int64_t gdn_chunks_scratch_bytes(const GdnShape& shape, int64_t rows, int64_t sequences) {
  // A sequence's first and last chunk need not be full, and the first may hold no new row.
  return std::min<int64_t>(2 * kGdnLaunchChunks, rows / kGdnChunk + 2 * sequences) *
         chunk_bytes(shape.key_heads, shape.value_heads);
}

void gdn_chunks(Gpu& gpu, const GpuGdnPackedArgs& args, int64_t chunks) {
  check(args);
  const int64_t one_chunk = chunk_bytes(args.key_heads, int64_t{args.key_heads} * args.ratio);
  for (int64_t begin = 0; begin < chunks; begin += kGdnLaunchChunks) {
    GpuGdnPackedArgs launched = args;
    launched.chunk_begin = static_cast<int32_t>(begin);
    // Two halves take turns: a launch's first kernel fills one while the second of the launch before reads the other.
    if (begin / kGdnLaunchChunks % 2 == 1) launched.scratch += kGdnLaunchChunks * one_chunk;
    launched.chunk_end = static_cast<int32_t>(std::min<int64_t>(chunks, begin + kGdnLaunchChunks));
    device::Grid grid;
    grid.x = launched.chunk_end - launched.chunk_begin;
    grid.y = args.key_heads;
    grid.threads = kProductsThreads;
    grid.shared_bytes = products_shared_bytes();
    grid.overlap = true;
    gpu.launch("weir_gdn_chunk_products", grid, launched);
    grid.cluster = static_cast<int>(kGdnHeadDim / kChunksColumns);
    grid.x = int64_t{args.key_heads} * args.ratio * grid.cluster;
    grid.y = args.sequence_count;
    grid.threads = kChunksThreads;
    grid.shared_bytes = chunks_shared_bytes();
    gpu.launch("weir_gdn_chunks", grid, launched);
  }
}

}  // namespace weir
