#include "tensor/dtype.h"

#include "base/check.h"

namespace weir {
namespace {

struct DTypeRow {
  DType dtype;
  int64_t bytes;
  std::string_view name;
};

constexpr std::array<DTypeRow, 9> kDTypes = {{{DType::kF32, 4, "F32"},
                                              {DType::kBf16, 2, "BF16"},
                                              {DType::kF16, 2, "F16"},
                                              {DType::kF8E4M3, 1, "F8_E4M3"},
                                              {DType::kU8, 1, "U8"},
                                              {DType::kI8, 1, "I8"},
                                              {DType::kI32, 4, "I32"},
                                              {DType::kI64, 8, "I64"},
                                              {DType::kBool, 1, "BOOL"}}};

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

int64_t dtype_bytes(DType dtype) {
  return kDTypes.at(static_cast<size_t>(dtype)).bytes;
}

std::string_view dtype_name(DType dtype) {
  return kDTypes.at(static_cast<size_t>(dtype)).name;
}

std::optional<DType> dtype_from_name(std::string_view name) {
  for (const DTypeRow& row : kDTypes) {
    if (row.name == name) return row.dtype;
  }
  return std::nullopt;
}

std::string_view weight_format_name(WeightFormat format) {
  constexpr std::array<std::string_view, 5> kNames = {"F32", "BF16", "FP8 128x128", "FP8 row", "MXFP4"};
  return kNames.at(static_cast<size_t>(format));
}

int64_t WeightMatrix::bytes() const {
  const int64_t scale_bytes = dtype_bytes(scale_dtype);
  switch (format) {
    case WeightFormat::kF32:
    case WeightFormat::kBf16:
      return n * row_bytes;
    case WeightFormat::kFp8Block:
      return n * row_bytes + ceil_div(n, kFp8Block) * ceil_div(k, kFp8Block) * scale_bytes;
    case WeightFormat::kFp8Row:
      return n * row_bytes + (scale_stride == 0 ? 1 : n) * scale_bytes;
    case WeightFormat::kMxfp4:
      return n * row_bytes + n * (k / kMxfp4Group) * scale_bytes;
  }
  return 0;
}

WeightMatrix WeightMatrix::rows(int64_t first, int64_t count) const {
  WEIR_CHECK(first >= 0 && count >= 0 && first + count <= n, "rows [{}, +{}) of {}", first, count, n);
  WEIR_CHECK(format != WeightFormat::kFp8Block || first % kFp8Block == 0, "row {} is inside a scale block", first);
  WeightMatrix part = *this;
  part.n = count;
  part.data = data + first * row_bytes;
  if (scales != nullptr) {
    const int64_t scale_row = format == WeightFormat::kFp8Block ? first / kFp8Block : first;
    part.scales = scales + scale_row * scale_stride * dtype_bytes(scale_dtype);
  }
  return part;
}

}  // namespace weir
