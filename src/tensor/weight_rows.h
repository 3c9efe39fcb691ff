// Rows of a stored matrix as floats.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace weir {

// Row `row` of `w` as its K exact values.
void read_row(const WeightMatrix& w, int64_t row, float* values);

}  // namespace weir
