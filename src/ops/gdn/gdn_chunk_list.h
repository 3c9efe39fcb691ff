// For the kernels of gdn_chunks: which rows a chunk holds and where its part of the scratch stands.
#pragma once

#include "device/kernel.h"
#include "ops/gdn/gdn_packed_args.h"

namespace weir {

// Chunks that a sequence's rows go through, as gdn_chunk_count.
WEIR_DEVICE int gdn_chunks_of(const GpuGdnSequence& s) {
  return s.row_count == 0 ? 0 : (s.position + s.row_count - 1) / 64 - s.base / 64 + 1;
}

// Rows of one 64-row chunk of a sequence.
struct GdnChunkRows {
  int chunk;  // tokens [64 chunk, 64 chunk + 64)
  int known;  // rows that the ring holds
  int end;    // rows that are there after this step
};

WEIR_DEVICE GdnChunkRows gdn_chunk_rows(const GpuGdnSequence& s, int number) {
  GdnChunkRows rows;
  rows.chunk = s.base / 64 + number;
  rows.known = number == 0 ? s.position - s.base : 0;
  rows.end = min(64, s.position + s.row_count - 64 * rows.chunk);
  return rows;
}

// The parts of the scratch of the chunk at place `at` of the launch.
WEIR_DEVICE uint8_t* gdn_key_tile(const GpuGdnPackedArgs& args, int at, int key_head) {
  return args.scratch + (static_cast<int64_t>(at) * args.key_heads + key_head) * (2 * kGdnKeyTileBytes);
}
WEIR_DEVICE uint8_t* gdn_head_tile(const GpuGdnPackedArgs& args, int at, int value_head) {
  const int64_t chunks = args.chunk_end - args.chunk_begin;
  const int64_t heads = args.key_heads * args.ratio;
  return args.scratch + chunks * args.key_heads * (2 * kGdnKeyTileBytes) +
         (at * heads + value_head) * kGdnHeadTileBytes;
}
WEIR_DEVICE uint8_t* gdn_value_tile(const GpuGdnPackedArgs& args, int at, int value_head) {
  const int64_t chunks = args.chunk_end - args.chunk_begin;
  const int64_t heads = args.key_heads * args.ratio;
  return args.scratch + chunks * (args.key_heads * (2 * kGdnKeyTileBytes) + heads * kGdnHeadTileBytes) +
         (at * heads + value_head) * kGdnValueTileBytes;
}

// Where eight values of a row of k or q stand in its tile, `part` from 0 to 15.
WEIR_DEVICE int gdn_key_byte(int row, int part) {
  return part / 8 * kGdnKeyHalfBytes + row * 128 + ((part % 8) ^ (row % 8)) * 16;
}

struct GdnHeadTile {
  uint4 kk[kGdnSquares][device::kWarp];  // square (to, from) at to (to + 1) / 2 + from
  uint4 qk[kGdnSquares][device::kWarp];
  float fade[64];
  float beta_fade[64];
  float to_end[64];
  float log_decay[64];
};
static_assert(sizeof(GdnHeadTile) == kGdnHeadTileBytes);

}  // namespace weir
