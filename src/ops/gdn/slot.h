// How a GDN slot is laid out: bytes from the beginning of a layer's part.
#pragma once

#include <cstdint>

#include "ops/cpu/aligned.h"
#include "ops/gdn/gdn.h"

namespace weir {

struct GdnSlotParts {
  int64_t state = 0;      // [nv][dk][value stride]; before it: the base, as int64
  int64_t keys = 0;       // [nk][dk][64]
  int64_t update = 0;     // [nv][64][value stride]
  int64_t log_decay = 0;  // [nv][64]
  int64_t inputs = 0;     // [16][C]
  int64_t end = 0;
};

// value_dim rounded up to 16: rows of the state and of the ring.
inline int64_t gdn_value_stride(const GdnShape& shape) {
  return round_up(shape.value_dim, 16);
}

inline GdnSlotParts gdn_slot_parts(const GdnShape& shape) {
  constexpr int64_t kFloat = sizeof(float);
  const int64_t stride = gdn_value_stride(shape);
  GdnSlotParts parts;
  parts.state = kCacheLine;
  parts.keys = parts.state + shape.value_heads * shape.key_dim * stride * kFloat;
  parts.update = parts.keys + shape.key_heads * shape.key_dim * kGdnChunk * kFloat;
  parts.log_decay = parts.update + shape.value_heads * kGdnChunk * stride * kFloat;
  parts.inputs = parts.log_decay + shape.value_heads * kGdnChunk * kFloat;
  parts.end = round_up(parts.inputs + kGdnInputRing * shape.channels() * kFloat, kCacheLine);
  return parts;
}

// Where a slot stands once the rows before `position` are computed: the last multiple of 64 that a row has been
// computed at or behind.
inline int64_t gdn_base_before(int64_t position) {
  return (position - 1) / kGdnChunk * kGdnChunk;
}

}  // namespace weir
