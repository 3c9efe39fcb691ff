#include "ops/embed/embed.h"

#include <cstring>

#include "base/check.h"
#include "tensor/bf16.h"
#include "tensor/fp8.h"
#include "tensor/mxfp4.h"
#include "tensor/weight_rows.h"

namespace weir {
namespace {

template <class T>
T read(const std::byte* p, int64_t index) {
  T value{};
  std::memcpy(&value, p + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

// Element k of column `lane` of a packed tile.
float packed_value(const PackedMatrix& w, int64_t tile, int64_t lane, int64_t k) {
  const std::byte* data = w.tile_data(tile);
  const std::byte* scales = w.tile_scales(tile);
  const int64_t at = k * kTileColumns + lane;
  constexpr float kFp8Undo = 0x1p-8F;  // packed FP8 scales carry 2^8 for the kernels
  switch (w.format()) {
    case WeightFormat::kF32:
      return read<float>(data, at);
    case WeightFormat::kBf16:
      return bf16_to_float(read<uint16_t>(data, at));
    case WeightFormat::kFp8Block:
      return fp8_e4m3_to_float(read<uint8_t>(data, fp8_offset(k, lane))) *
             (read<float>(scales, k / kFp8Block) * kFp8Undo);
    case WeightFormat::kFp8Row:
      return fp8_e4m3_to_float(read<uint8_t>(data, fp8_offset(k, lane))) * (read<float>(scales, lane) * kFp8Undo);
    case WeightFormat::kMxfp4: {
      const auto pair = read<uint8_t>(data, k / 2 * kTileColumns + lane);
      const auto code = static_cast<uint8_t>(k % 2 == 0 ? pair & 15 : pair >> 4);
      return e2m1_to_float(code) * e8m0_to_float(read<uint8_t>(scales, k / kMxfp4Group * kTileColumns + lane));
    }
  }
  return 0;
}

// A row takes a fraction of a microsecond: threads are woken only for many.
constexpr int64_t kRowsPerTask = 64;

template <class RowFunction>
void for_rows(Cpu& cpu, std::span<const int32_t> ids, int64_t table_rows, const RowFunction& function) {
  const auto rows = static_cast<int64_t>(ids.size());
  cpu.pool().parallel_for((rows + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task, int) {
    for (int64_t t = task * kRowsPerTask; t < std::min(rows, (task + 1) * kRowsPerTask); ++t) {
      const int64_t id = ids[static_cast<size_t>(t)];
      WEIR_CHECK(id >= 0 && id < table_rows, "id {} in a table of {} rows", id, table_rows);
      function(t, id);
    }
  });
}

}  // namespace

void embed(Cpu& cpu, const PackedMatrix& table, std::span<const int32_t> ids, float* y, int64_t y_stride) {
  for_rows(cpu, ids, table.n(), [&](int64_t t, int64_t id) {
    for (int64_t k = 0; k < table.k(); ++k) {
      y[t * y_stride + k] = packed_value(table, id / kTileColumns, id % kTileColumns, k);
    }
  });
}

void embed(Cpu& cpu, const WeightMatrix& table, std::span<const int32_t> ids, float* y, int64_t y_stride) {
  for_rows(cpu, ids, table.n, [&](int64_t t, int64_t id) { read_row(table, id, y + t * y_stride); });
}

}  // namespace weir
