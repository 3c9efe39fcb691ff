// The Gated DeltaNet mixer on a GPU for heads of 128 keys and 128 values with 1, 2 or 4 value heads a key head, output
// in bf16. Two numeric families on the same slots (gdn_packed_args.h says how they are laid out; all zeros is token 0):
// gdn_rows for generated rows, float32 throughout; gdn_chunks for prompts, products of half precision (11 bits of
// mantissa; values beyond 65504 become that) with float32 sums. In both a row's bits depend on its sequence's tokens
// and its position alone.
#pragma once

#include <cstdint>
#include <string_view>

#include "ops/gdn/gdn.h"
#include "ops/gdn/gdn_packed_args.h"
#include "ops/gpu/gpu.h"

namespace weir {

// Whether these kernels take the shape.
bool gdn_packed_takes(const GdnShape& shape);

// Fills in the sizes and the offsets of the slot's parts. Programmer error: a shape that is not taken.
void set_shape(const GdnShape& shape, GpuGdnPackedArgs* args);

// args.sequence_count sequences, their rows one after the other: a handful each. Reads tables and slots while the
// kernel before it runs, so that one must not write them. Reads the state once, 64 KiB a value head, and the ring's
// rows since the base.
void gdn_rows(Gpu& gpu, const GpuGdnPackedArgs& args);

// What gdn_rows launches: the kernel for few heads, or the one that has a whole value head a block. The bits, and what
// they leave in the slots, are the same. `value_heads`: of a sequence.
enum class GdnRowsKernel { kFew, kMany };
GdnRowsKernel gdn_rows_kernel(int64_t sequences, int64_t value_heads);
std::string_view gdn_rows_name(GdnRowsKernel kernel, int64_t ratio);
void gdn_rows_by(Gpu& gpu, const GpuGdnPackedArgs& args, GdnRowsKernel kernel);

// Bytes of args.scratch for any `sequences` sequences of `rows` rows in all; stops growing at twice
// kGdnLaunchChunks chunks.
int64_t gdn_chunks_scratch_bytes(const GdnShape& shape, int64_t rows, int64_t sequences);
inline constexpr int32_t kGdnLaunchChunks = 32;

// Any number of rows a sequence. `chunks`: the sum of gdn_chunk_count over the sequences. Two kernels for each
// kGdnLaunchChunks of them, the first of which runs beside the second of those before. Reads the sequences' table while
// the kernel before it runs.
void gdn_chunks(Gpu& gpu, const GpuGdnPackedArgs& args, int64_t chunks);

}  // namespace weir
