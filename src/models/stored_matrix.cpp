#include "models/stored_matrix.h"

#include <cstring>
#include <optional>
#include <string>

namespace weir {
namespace {

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

Error mismatch(const Binding& binding, std::string_view expected, const TensorInfo& found) {
  return with_remedy(
      make_error(ErrorCode::kCorrupt, "tensor \"{}\" should be {}, is {} {}",
                 found.name.empty() ? binding.name : found.name, expected, dtype_name(found.dtype), found.shape.text()),
      "config.json and the weights do not belong together, or the file is damaged");
}

// The tensor's bytes at an address that its element may be read from.
const std::byte* aligned_data(const TensorInfo& info, WeightStore* store) {
  const auto address = reinterpret_cast<uintptr_t>(info.bytes.data());
  if (address % static_cast<uintptr_t>(dtype_bytes(info.dtype)) == 0 || info.bytes.empty()) return info.bytes.data();
  const std::span<std::byte> copy = store->allocate(static_cast<int64_t>(info.bytes.size()));
  std::memcpy(copy.data(), info.bytes.data(), info.bytes.size());
  return copy.data();
}

// The shape with its last two extents replaced.
Shape with_matrix(const Shape& shape, int64_t n, int64_t k) {
  Shape out;
  for (int axis = 0; axis + 2 < shape.rank(); ++axis) out.push_back(shape[axis]);
  out.push_back(n);
  out.push_back(k);
  return out;
}

struct ScaleKind {
  WeightFormat format;
  int64_t rows_each;
  int64_t stride;
};

// What the shape of FP8 scales means for matrices of [n, k].
std::optional<ScaleKind> fp8_scale_kind(const Shape& weight, const Shape& scale) {
  const int64_t n = weight[weight.rank() - 2];
  const int64_t k = weight[weight.rank() - 1];
  const ScaleKind block = {WeightFormat::kFp8Block, ceil_div(n, kFp8Block), ceil_div(k, kFp8Block)};
  if (scale == with_matrix(weight, block.rows_each, block.stride)) return block;
  const bool single = weight.rank() == 2;  // scales by row or tensor of fused experts exist in no known checkpoint
  if (single && (scale == Shape{n} || scale == Shape{n, 1})) return ScaleKind{WeightFormat::kFp8Row, n, 1};
  if (single && scale.elements() == 1 && scale.rank() <= 1) return ScaleKind{WeightFormat::kFp8Row, n, 0};
  return std::nullopt;
}

Result<StoredMatrix> read_fp8(const Binding& binding, const TensorInfo& info, const Checkpoint& checkpoint,
                              WeightStore* store, StoredMatrix stored) {
  const TensorInfo* scales = checkpoint.find(binding.name + "_scale_inv");
  if (scales == nullptr) scales = checkpoint.find(binding.name + "_scale");
  if (scales == nullptr) {
    return make_error(ErrorCode::kCorrupt, "tensor \"{}\" is FP8 and has neither \"{}_scale_inv\" nor \"{}_scale\"",
                      binding.name, binding.name, binding.name);
  }
  const std::optional<ScaleKind> kind = fp8_scale_kind(info.shape, scales->shape);
  if (!kind || (scales->dtype != DType::kBf16 && scales->dtype != DType::kF32)) {
    return mismatch(
        binding, fmt::format("BF16 or F32 scales by 128 x 128 block, row or tensor of {}", info.shape.text()), *scales);
  }
  stored.matrix.format = kind->format;
  stored.matrix.scales = aligned_data(*scales, store);
  stored.matrix.scale_dtype = scales->dtype;
  stored.matrix.scale_stride = kind->stride;
  stored.scale_rows_each = kind->rows_each;
  stored.scales = scales;
  return stored;
}

Result<StoredMatrix> read_mxfp4(const Binding& binding, const TensorInfo& info, const Checkpoint& checkpoint,
                                StoredMatrix stored) {
  const int64_t n = binding.shape[binding.shape.rank() - 2];
  const int64_t k = stored.matrix.k;
  if (k % kMxfp4Group != 0 || info.shape != with_matrix(binding.shape, n, k / 2)) {
    return mismatch(binding, fmt::format("of {} values, or MXFP4 codes with half its columns", binding.shape.text()),
                    info);
  }
  const TensorInfo* scales = checkpoint.find(binding.name + "_scale");
  if (scales == nullptr) {
    return make_error(ErrorCode::kCorrupt, "tensor \"{}\" is U8 and has no \"{}_scale\"", binding.name, binding.name);
  }
  const Shape expected = with_matrix(binding.shape, n, k / kMxfp4Group);
  if (scales->dtype != DType::kU8 || scales->shape != expected) {
    return mismatch(binding, fmt::format("U8 {}", expected.text()), *scales);
  }
  stored.matrix.format = WeightFormat::kMxfp4;
  stored.matrix.row_bytes = k / 2;
  stored.matrix.scales = scales->bytes.data();
  stored.matrix.scale_dtype = DType::kU8;
  stored.matrix.scale_stride = k / kMxfp4Group;
  stored.scale_rows_each = n;
  stored.scales = scales;
  return stored;
}

}  // namespace

Result<StoredMatrix> read_stored_matrix(const Binding& binding, const TensorInfo& info, const Checkpoint& checkpoint,
                                        WeightStore* store) {
  StoredMatrix stored;
  stored.matrix.k = binding.shape[binding.shape.rank() - 1];
  stored.matrix.n = binding.shape.elements() / stored.matrix.k;
  stored.matrix.row_bytes = stored.matrix.k * dtype_bytes(info.dtype);
  const bool plain = info.dtype == DType::kBf16 || info.dtype == DType::kF32;
  if (!plain && binding.rule == DTypeRule::kPlainMatrix) {
    return mismatch(binding, fmt::format("BF16 or F32 {}", binding.shape.text()), info);
  }
  stored.matrix.data = aligned_data(info, store);
  if (info.dtype == DType::kU8) return read_mxfp4(binding, info, checkpoint, stored);
  if (!plain && info.dtype != DType::kF8E4M3) {
    return mismatch(binding, fmt::format("BF16, F32, F8_E4M3 or MXFP4 {}", binding.shape.text()), info);
  }
  if (info.shape != binding.shape) return mismatch(binding, binding.shape.text(), info);
  if (!plain) return read_fp8(binding, info, checkpoint, store, stored);
  stored.matrix.format = info.dtype == DType::kBf16 ? WeightFormat::kBf16 : WeightFormat::kF32;
  return stored;
}

Result<WeightMatrix> slice_stacked(const StoredMatrix& stored, const Binding& binding, int64_t index, int64_t rows_each,
                                   int64_t first, int64_t count) {
  WeightMatrix part = stored.matrix;
  part.data += index * rows_each * part.row_bytes;
  if (part.scales != nullptr) {
    part.scales += index * stored.scale_rows_each * part.scale_stride * dtype_bytes(part.scale_dtype);
  }
  part.n = rows_each;
  if (part.format == WeightFormat::kFp8Block && first % kFp8Block != 0) {
    return make_error(ErrorCode::kUnsupported,
                      "tensor \"{}\": gate and up share a block of FP8 scales (expert width {} is no multiple of {})",
                      binding.name, count, kFp8Block);
  }
  return part.rows(first, count);
}

Result<WeightMatrix> gather_rows(const WeightMatrix& matrix, std::span<const RowRange> ranges, const Binding& binding,
                                 WeightStore* store) {
  const int64_t rows_a_scale = matrix.format == WeightFormat::kFp8Block ? kFp8Block : 1;
  int64_t rows = 0;
  for (const RowRange& range : ranges) {
    if (range.first % rows_a_scale != 0 || range.count % rows_a_scale != 0) {
      return make_error(ErrorCode::kUnsupported,
                        "tensor \"{}\": rows [{}, +{}) of a head do not consist of whole FP8 blocks of {}",
                        binding.name, range.first, range.count, rows_a_scale);
    }
    rows += range.count;
  }
  const bool scaled = matrix.scales != nullptr && matrix.scale_stride > 0;
  const int64_t scale_bytes = scaled ? matrix.scale_stride * dtype_bytes(matrix.scale_dtype) : 0;
  std::byte* data = store->allocate(rows * matrix.row_bytes).data();
  std::byte* scales = scaled ? store->allocate(rows / rows_a_scale * scale_bytes).data() : nullptr;
  WeightMatrix gathered = matrix;
  gathered.n = rows;
  gathered.data = data;
  if (scaled) gathered.scales = scales;
  for (const RowRange& range : ranges) {
    const auto bytes = static_cast<size_t>(range.count * matrix.row_bytes);
    std::memcpy(data, matrix.data + range.first * matrix.row_bytes, bytes);
    data += bytes;
    if (!scaled) continue;
    const auto moved = static_cast<size_t>(range.count / rows_a_scale * scale_bytes);
    std::memcpy(scales, matrix.scales + range.first / rows_a_scale * scale_bytes, moved);
    scales += moved;
  }
  return gathered;
}

}  // namespace weir
