// Arguments of the products of few rows with packed weights, and of packing itself.
#pragma once

#include <cstdint>

#include "ops/linear/packed_sizes.h"

namespace weir {

// What becomes of a finished sum.
enum : int32_t {
  kPackedStore,   // y = sum, float32
  kPackedAdd,     // y += sum, float32
  kPackedSwiglu,  // y = SiLU(gate) * up of a matrix with gate and up interleaved: N / 2 values a row, of y_type
};

struct GpuPackedOutput {
  GpuPacked weight;
  void* y = nullptr;
  int64_t y_stride = 0;  // elements
  int32_t kind = kPackedStore;
  int32_t y_type = kOperandBf16;  // of kPackedSwiglu
};

// What shares out strips among blocks: their bytes in units of which 132 times a matrix of 4 GiB can be counted.
constexpr uint32_t packed_strip_cost(const GpuPacked& w) {
  return static_cast<uint32_t>(w.tiles) * static_cast<uint32_t>(packed_tile_bytes(w.format)) / 256U;
}

// Up to four matrices of one K over the same rows. Rows are float32 rows that are normed first, y = (1 + w) * (x /
// sqrt(mean(x^2) + eps)), where `norm` is given, else rows in the operand types of the outputs' formats.
struct GpuPackedLinearArgs {
  GpuPackedOutput outputs[kGpuLinearGroupMax];
  const float* x = nullptr;          // with `norm`
  const uint16_t* x_bf16 = nullptr;  // without: those that the outputs' formats need
  const uint16_t* x_f16 = nullptr;
  const int32_t* x_rows = nullptr;  // row r reads row x_rows[r]; null: row r
  const float* norm = nullptr;      // [K]
  uint16_t* x_out_bf16 = nullptr;   // the normed rows, [rows][K]; may be null
  uint16_t* x_out_f16 = nullptr;    // the same
  float* normed_out = nullptr;      // the same in float32, for who reads them later; may be null
  int64_t x_stride = 0;
  uint32_t total_cost = 0;  // of all outputs' strips; filled in by linear_packed(), as all but eps that follow k
  int32_t rows = 0;
  int32_t count = 0;
  int32_t k = 0;
  float eps = 1e-6F;
  int32_t types = 0;   // bit per operand type that the outputs take
  int32_t groups = 0;  // of rows
  PackedRing ring;
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
