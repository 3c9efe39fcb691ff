// Sizes that the sampling kernel and its launch agree on.
#pragma once

#include <cstdint>

#include "ops/sample/sample_args.h"

namespace weir {

inline constexpr int kSampleThreads = 1024;
inline constexpr int kSampleCluster = 8;            // blocks that filter a row together
inline constexpr int kSampleBins = kSampleThreads;  // a thread sums a bin
inline constexpr int kSampleWarps = kSampleThreads / 32;
inline constexpr int kSampleListed = 1024;  // ids that a block lists apart once few can be kept
inline constexpr int kSamplePieces = 3;     // of 14 bits: a 40-bit probability, summed in 32 bits over a block's ids

struct SampleHistogram {
  uint32_t words[kSamplePieces][kSampleBins];
};

// Everything in a block's shared memory but the logits, which follow.
struct SampleShared {
  SampleHistogram histogram[2];  // other blocks may still read the one before
  unsigned long long warp_value[kSampleWarps];
  unsigned long long others[kSampleCluster];
  unsigned long long top;    // the block's likeliest id
  unsigned long long best;   // the block's best score
  unsigned long long total;  // the block's probability
  unsigned long long above;
  unsigned long long inside;
  int32_t bin;
  uint32_t broken;
  int32_t listed;
  int32_t bias_token[kGpuBiasMax];
  float bias_value[kGpuBiasMax];
  int32_t banned[kGpuBannedMax];
  float list_value[kSampleListed];
  int32_t list_id[kSampleListed];
};

// Ids are dealt to blocks in groups of four, the noise of which comes from one counter.
constexpr int32_t sample_groups(int32_t width, int32_t blocks) {
  const int32_t groups = (width + 3) / 4;
  return (groups + blocks - 1) / blocks;
}

inline constexpr int64_t kSampleSharedFixed = (sizeof(SampleShared) + 15) / 16 * 16;

// Of the eight blocks that keep a row.
constexpr int64_t sample_shared_bytes(int32_t width) {
  return kSampleSharedFixed + int64_t{16} * sample_groups(width, kSampleCluster);
}

}  // namespace weir
