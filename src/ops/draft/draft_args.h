// What the kernels around the draft head's passes are launched with (runner/packed_drafter.h); shared by host code and
// kernels.
#pragma once

#include <cstdint>

#include "ops/attention/gpu_args.h"
#include "ops/sample/sample_args.h"

namespace weir {

// A sequence of a step whose drafts are made. The step computed its tokens [position, position + rows); those behind
// `known` are drafts, and where the device sampled, tokens[sampled + i] is what it sampled behind token known - 1 + i.
struct GpuDraftSequence {
  float* ring = nullptr;  // [slots][D]: the hidden row of token i stands at i % slots
  int32_t position = 0;
  int32_t row_begin = 0;  // of the step
  int32_t rows = 0;
  int32_t known = 0;
  int32_t sampled = -1;  // -1: the device samples nothing of it, or the host has seen it
  int32_t last = -1;     // position of the token sampled last, where the host has seen it
  int32_t pass_row = 0;  // the draft head's row of token `first`
  int32_t first = 0;
  int32_t covered = 0;     // tokens that its draft pages hold
  int32_t banned_end = 0;  // ids that must not come early may come from this position on
};

struct GpuDraftArgs {
  const GpuDraftSequence* sequences = nullptr;  // [S]
  const int32_t* ids = nullptr;                 // [T] of the step
  const int32_t* tokens = nullptr;              // [R] that the device sampled in the step; -1: not finite
  const float* normed = nullptr;                // [T, D]: the step's rows behind the final norm
  const GpuRow* pass_rows = nullptr;            // [P] of the draft head's first pass
  const GpuSampleRow* sample = nullptr;         // [S], positions left open
  // Out.
  int32_t* clean = nullptr;             // [R]: the tokens of their places, 0 where they are not finite
  int32_t* chosen = nullptr;            // [S]: the pass's row of the token sampled last
  GpuRow* chain_rows = nullptr;         // [passes][S]; negative positions: no row
  GpuSampleRow* pass_sample = nullptr;  // [passes][S]
  int32_t* drafts = nullptr;            // [passes][S]: -1 where none will be drawn
  float* hidden = nullptr;              // [P, D]: the hidden row before each of the pass's tokens
  int64_t pinned = -1;                  // threshold of ops/sample/pinned_acceptance.h; -1: acceptance is real
  int32_t count = 0;                    // S
  int32_t sampled = 0;                  // R
  int32_t passes = 0;
  int32_t width = 0;  // D, a multiple of 4
  int32_t slots = 0;  // of a ring
};

}  // namespace weir
