// A tensor and its scales as a matrix view, the format decided by what is stored rather than by what a config says.
#pragma once

#include "base/result.h"
#include "models/binding.h"
#include "models/weights.h"
#include "weights/checkpoint.h"

namespace weir {

// One matrix, or the matrices of a fused expert tensor stacked along rows: `matrix.n` counts the rows of all.
struct StoredMatrix {
  WeightMatrix matrix;
  const TensorInfo* scales = nullptr;  // nullptr when unquantised
  // Rows of `matrix.scales` that belong to each stacked matrix (block format: ceil(N / 128)).
  int64_t scale_rows_each = 0;
};

// Reads `info` as the matrix of `binding`:
//   BF16, F32               as they are, shape [.., N, K]
//   F8_E4M3 + _scale_inv    block FP8, scales BF16 or F32 [.., ceil(N/128), ceil(K/128)]
//   F8_E4M3 + _scale        per row ([N] or [N, 1]), per tensor ([] or [1]) or per block, by its shape
//   U8 [.., N, K/2] + _scale U8 [.., N, K/32]   MXFP4
// Data or scales that are not aligned to their element are copied into `store`.
// Errors (kCorrupt, kUnsupported) name the tensor, what was expected and what was found.
Result<StoredMatrix> read_stored_matrix(const Binding& binding, const TensorInfo& info, const Checkpoint& checkpoint,
                                        WeightStore* store);

// Rows [first, first + count) of the stacked matrix number `index`, each of `rows_each` rows.
Result<WeightMatrix> slice_stacked(const StoredMatrix& stored, const Binding& binding, int64_t index, int64_t rows_each,
                                   int64_t first, int64_t count);

struct RowRange {
  int64_t first = 0;
  int64_t count = 0;
};

// A copy of the given rows, in order. For block FP8 every range must consist of whole blocks (kUnsupported otherwise).
Result<WeightMatrix> gather_rows(const WeightMatrix& matrix, std::span<const RowRange> ranges, const Binding& binding,
                                 WeightStore* store);

}  // namespace weir
