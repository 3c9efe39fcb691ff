// Arguments of the products of few rows with packed weights, and of packing itself.
#pragma once

#include <cstdint>

#include "ops/linear/packed.h"

namespace weir {

// What becomes of a finished sum.
enum : int32_t {
  kPackedStore,   // y = sum, float32
  kPackedAdd,     // y += sum, float32
  kPackedSwiglu,  // y = bf16(SiLU(gate) * up) of a matrix with gate and up interleaved: N / 2 values a row
};

struct GpuPackedOutput {
  GpuPacked weight;
  void* y = nullptr;
  int64_t y_stride = 0;  // elements
  int32_t kind = kPackedStore;
  int32_t reserved = 0;
};

// What shares out strips among blocks: their bytes in units of which 132 times a matrix of 4 GiB can be counted.
constexpr uint32_t packed_strip_cost(const GpuPacked& w) {
  return static_cast<uint32_t>(w.tiles) * static_cast<uint32_t>(packed_tile_bytes(w.format)) / 256U;
}

// Up to four matrices of one K over the same rows. Rows are float32 rows that are normed first, y = (1 + w) * (x /
// sqrt(mean(x^2) + eps)), where `norm` is given, else bf16 rows as they are.
struct GpuPackedLinearArgs {
  GpuPackedOutput outputs[kGpuLinearGroupMax];
  const float* x = nullptr;          // with `norm`
  const uint16_t* x_bf16 = nullptr;  // without
  const int32_t* x_rows = nullptr;   // row r reads row x_rows[r]; null: row r
  const float* norm = nullptr;       // [K]
  uint16_t* x_out = nullptr;         // the rows as the products take them, [rows][K]; may be null
  float* normed_out = nullptr;       // the same in float32, for who reads them later; may be null
  int64_t x_stride = 0;
  uint32_t total_cost = 0;  // of all outputs' strips; filled in by linear_packed()
  int32_t rows = 0;
  int32_t count = 0;
  int32_t k = 0;
  int32_t slot_bytes = 0;  // of a stage; filled in, as the next four
  int32_t slots = 0;
  int32_t units = 0;      // blocks of K of a stage, at most
  int32_t sum_slots = 0;  // stages whose sums may wait to be joined
  int32_t groups = 0;     // of rows
  float eps = 1e-6F;
};

// Row-major weights in their stored format to the packed form. With `second`, its rows are interleaved as packed.h says
// of gate_up.
struct GpuPackArgs {
  GpuMatrix source;
  GpuMatrix second;
  GpuPacked target;  // its pointers are written through
  int32_t interleaved = 0;
};

}  // namespace weir
