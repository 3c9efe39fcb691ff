// The common part of the sparse and the dense block: rows gathered per expert, two parallel regions.
#pragma once

#include <cstdint>

#include "ops/linear/linear_kernels.h"
#include "ops/moe/moe.h"

namespace weir {

// Rows of a call are computed in slices of this many: bounds the scratch, and still gives each of 256 experts 16 rows
// of a slice at top-8.
inline constexpr int64_t kFeedForwardRows = 512;

// The rows that one expert computes: assignments [first, first + count) of the slice, count <= kLinearTaskRows.
struct ExpertJob {
  const PackedMlp* expert = nullptr;
  int64_t first = 0;
  int64_t count = 0;
  int64_t first_task = 0;  // of the first region
};

struct FeedForwardSlice {
  FeedForwardArgs args;                 // of the slice
  int64_t width = 0;                    // floats between hidden rows: the largest F, rounded up to 16
  int64_t slots = 0;                    // parts of a row, shared expert included
  int64_t assignments = 0;              // rows * slots
  const float** inputs = nullptr;       // [assignments]: the row of x
  const int32_t* places = nullptr;      // [rows][slots]: the assignment of each part, in order of combination
  const float* part_weights = nullptr;  // [rows][slots]
  ExpertJob* jobs = nullptr;
  int64_t job_count = 0;
};

void feed_forward(Cpu& cpu, const FeedForwardSlice& slice);
int64_t feed_forward_scratch_bytes(int64_t width, int64_t assignments, int64_t slots, int threads);

}  // namespace weir
