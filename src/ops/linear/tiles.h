// From a PackedMatrix to what the kernels take.
#pragma once

#include "ops/linear/linear.h"
#include "ops/linear/linear_kernels.h"

namespace weir {

inline WeightTiles weight_tiles(const PackedMatrix& matrix) {
  return {matrix.format(),          matrix.n(),          matrix.k(),
          matrix.tile_data(0),      matrix.tile_bytes(), matrix.tile_scales(0),
          matrix.tile_scale_bytes()};
}

}  // namespace weir
