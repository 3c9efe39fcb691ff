// The mixer of ops/gdn/gdn.h for heads of 128 keys and 128 values, on slots whose parts have the sizes of slot.h and
// their own order inside: state [nv][4][128 keys][32 values], keys [nk][64][128], update [nv][4][64][32], log decay
// [nv][64], inputs [16][C]. Only gdn_rows, gdn_rows_few and gdn_chunks read and write such slots.
#pragma once

#include <cstdint>

#include "ops/gdn/gpu_args.h"

namespace weir {

inline constexpr int kGdnHeadDim = 128;
inline constexpr int kGdnTileColumns = 32;  // of the state's tiles in a slot

// What the first kernel of gdn_chunks leaves for the second, a 64-row chunk at a time. Half precision, but for the
// vectors.
//   of a key head: k, then q (without its 1 / sqrt(128)), [2][64][64] each, of norm 1, the 16-byte parts of a row
//     exchanged as device/wgmma.h says;
//   of a value head: -beta_i e^(G_i - G_j) k_i . k_j for j < i, then e^(G_i - G_j) q_i . k_j for j <= i, as squares of
//   16
//     x 16 in the order of the matrix units' right operands, [lane][4 pairs], from the diagonal downwards: (0, 0), (1,
//     0), (1, 1), (2, 0) ...; e^G_i, beta_i e^G_i, e^(G_63 - G_i) and G_i, 64 float32 each;
//   of a value head: beta v, [8 groups of 16 columns][8 groups of 8 rows][lane][4], as the matrix units hold a result.
inline constexpr int kGdnKeyHalfBytes = 64 * 64 * 2;
inline constexpr int kGdnKeyTileBytes = 2 * kGdnKeyHalfBytes;
inline constexpr int kGdnSquareBytes = 16 * 16 * 2;
inline constexpr int kGdnSquares = 10;
inline constexpr int kGdnHeadTileBytes = 2 * kGdnSquares * kGdnSquareBytes + 4 * 64 * 4;
inline constexpr int kGdnValueGroupBytes = 8 * 32 * 4 * 2;
inline constexpr int kGdnValueTileBytes = 8 * kGdnValueGroupBytes;

// Of a block of gdn_rows, which has a value head: bytes of shared memory: the ring's keys and updates; the warps'
// parts; the row's k and q; what stands for each row of the ring; norms; a barrier.
inline constexpr int kGdnRowsThreads = 256;
inline constexpr int64_t kGdnRowsSharedBytes =
    ((2 * 64 * kGdnHeadDim + (2 * kGdnRowsThreads / 32 + 2) * kGdnHeadDim + kGdnRowsThreads / 32 + 3 * 64 + 4) * 4 + 8 +
     127) /
    128 * 128;

// Of a block of gdn_rows_few with `tiles` of 32 columns: rows of the ring that it keeps the keys of, at most; threads;
// bytes of shared memory: state, ring and keys; the warps' parts; the row's k and q; what stands for each row of the
// ring; norms and gates; barriers.
inline constexpr int kGdnRowsOwn = 16;
constexpr int gdn_rows_few_threads(int tiles) {
  return 256 + 32 * (tiles + 1);
}
constexpr int64_t gdn_rows_few_shared_bytes(int64_t tiles) {
  const int64_t floats = tiles * (kGdnHeadDim + 64) * kGdnTileColumns + kGdnRowsOwn * kGdnHeadDim +
                         2 * tiles * 8 * kGdnTileColumns + 2 * kGdnHeadDim + 8 + 7 * 64 + 2 * 16 + 4;
  return (floats * 4 + 5 * 8 + 127) / 128 * 128;
}

struct GpuGdnPackedArgs {
  const GpuGdnSequence* sequences = nullptr;
  const float* u = nullptr;
  const float* z = nullptr;
  const float* b = nullptr;
  const float* a = nullptr;
  uint16_t* y = nullptr;           // of y_type
  const float* conv = nullptr;     // [4][C]
  const float* decay = nullptr;    // [nv]
  const float* dt_bias = nullptr;  // [nv]
  const float* norm = nullptr;     // [128]
  uint8_t* scratch = nullptr;      // of gdn_chunks
  int64_t u_stride = 0;
  int64_t z_stride = 0;
  int64_t b_stride = 0;
  int64_t a_stride = 0;
  int64_t y_stride = 0;
  int64_t slot_offset = 0;
  int64_t state_offset = 0;
  int64_t keys_offset = 0;
  int64_t update_offset = 0;
  int64_t log_decay_offset = 0;
  int64_t inputs_offset = 0;
  int32_t sequence_count = 0;
  int32_t key_heads = 0;
  int32_t ratio = 0;  // value heads of a key head
  int32_t channels = 0;
  int32_t cluster = 0;  // of gdn_rows_few
  int32_t y_type = 0;   // 0: bf16, 1: f16 (kOperandBf16, kOperandF16 of ops/linear/packed.h)
  float eps = 1e-6F;
  // Of gdn_chunks: the chunks of all sequences, one after the other, that this launch computes.
  int32_t chunk_begin = 0;
  int32_t chunk_end = 0;
};

// Chunks that rows [position, position + count) of a slot at `base` go through: the one that holds what came before is
// among them even where all its rows are there already, because its end moves the state.
constexpr int32_t gdn_chunk_count(int32_t position, int32_t count, int32_t base) {
  return count == 0 ? 0 : (position + count - 1) / 64 - base / 64 + 1;
}

}  // namespace weir
