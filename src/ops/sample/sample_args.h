// What the sampling kernel is launched with; shared by host code and the kernel.
#pragma once

#include <cstdint>

namespace weir {

inline constexpr int32_t kGpuBiasMax = 300;  // entries of a row's lists that fit the kernel's shared memory
inline constexpr int32_t kGpuBannedMax = 64;

struct GpuLogitBias {
  int32_t token = 0;
  float bias = 0.0F;
};

// How one row is sampled. Lists stand in device memory or in page-locked host memory.
struct GpuSampleRow {
  float scale = 0.0F;  // 1 / temperature; 0: the likeliest id
  float top_p = 1.0F;
  float min_p = 0.0F;
  int32_t top_k = 0;  // 0: off
  uint64_t seed = 0;
  int64_t position = 0;  // of the token being sampled
  int32_t row = -1;      // where next_tokens takes the token; -1: the row is not sampled
  int32_t bias_count = 0;
  int32_t banned_count = 0;
  int32_t reserved = 0;
  const GpuLogitBias* bias = nullptr;  // added in order
  const int32_t* banned = nullptr;     // ids never sampled
  const uint32_t* mask = nullptr;      // [ceil(vocabulary / 32)] a bit per id, 1: allowed; null: all
};

// Between the blocks of a row; zero before the first call, and after each.
struct GpuSampleScratch {
  unsigned long long best = 0;
  uint32_t blocks = 0;
  uint32_t reserved = 0;
};

struct GpuSampleArgs {
  const float* logits = nullptr;  // [R, width], not changed
  int64_t logits_stride = 0;
  const GpuSampleRow* rows = nullptr;   // [R], not written by the kernel just before
  GpuSampleScratch* scratch = nullptr;  // [R]
  int32_t* tokens = nullptr;            // [R] out: the token, or -1 where the row has a NaN or an infinity
  int32_t* next_tokens = nullptr;       // out: [GpuSampleRow::row]; 0 where tokens has -1
  int32_t width = 0;                    // V
  int32_t vocabulary = 0;               // ids at and above are padding: never sampled
  // Of logits that are of some ids alone: column i is id i, and ids[i] from `identity` on, a multiple of 4. Ids ascend;
  // `width` and `vocabulary` count columns. Null: all are ids.
  const int32_t* ids = nullptr;
  int32_t identity = 0;
  int32_t aligned = 0;  // logits can be read 16 bytes at a time (the front fills this in)
  int32_t reserved = 0;
};

}  // namespace weir
