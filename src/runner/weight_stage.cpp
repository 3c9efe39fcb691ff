#include "runner/weight_stage.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "ops/cpu/aligned.h"
#include "tensor/weight_scales.h"

namespace weir {
namespace {

constexpr int64_t kAlign = 256;
constexpr int64_t kScaleRows = kFp8Block;  // rows that share a scale

}  // namespace

int32_t gpu_format(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return kGpuF32;
    case WeightFormat::kBf16:
      return kGpuBf16;
    case WeightFormat::kFp8Block:
      return kGpuFp8Block;
    case WeightFormat::kFp8Row:
      return kGpuFp8Row;
    case WeightFormat::kMxfp4:
      return kGpuMxfp4;
  }
  check_failed(__FILE__, __LINE__, "format", "unknown weight format");
}

int64_t stored_row_bytes(const WeightMatrix& w) {
  switch (w.format) {
    case WeightFormat::kF32:
      return w.k * 4;
    case WeightFormat::kBf16:
      return w.k * 2;
    case WeightFormat::kFp8Block:
    case WeightFormat::kFp8Row:
      return w.k;
    case WeightFormat::kMxfp4:
      return w.k / 2;
  }
  return 0;
}

std::vector<std::byte> device_scales(const WeightMatrix& w, int64_t* stride) {
  std::vector<float> values;
  *stride = 0;
  if (w.format == WeightFormat::kFp8Block) {
    const int64_t columns = (w.k + kFp8Block - 1) / kFp8Block;
    *stride = columns;
    for (int64_t n = 0; n < (w.n + kFp8Block - 1) / kFp8Block; ++n) {
      for (int64_t k = 0; k < columns; ++k) values.push_back(scale_at(w, n * w.scale_stride + k));
    }
  } else if (w.format == WeightFormat::kFp8Row) {
    *stride = w.scale_stride == 0 ? 0 : 1;
    const int64_t count = w.scale_stride == 0 ? 1 : w.n;
    for (int64_t n = 0; n < count; ++n) values.push_back(scale_at(w, n * w.scale_stride));
  } else if (w.format == WeightFormat::kMxfp4) {
    const int64_t columns = w.k / kMxfp4Group;
    *stride = columns;
    std::vector<std::byte> bytes(static_cast<size_t>(w.n * columns));
    for (int64_t n = 0; n < w.n; ++n) {
      std::memcpy(bytes.data() + n * columns, w.scales + n * w.scale_stride, static_cast<size_t>(columns));
    }
    return bytes;
  }
  std::vector<std::byte> bytes(values.size() * sizeof(float));
  if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

Result<WeightStage> WeightStage::create(Gpu gpu, int64_t part_bytes) {
  WeightStage stage;
  stage.gpu_ = gpu;
  stage.part_bytes_ = part_bytes;
  for (int i = 0; i < 2; ++i) {
    Part& part = stage.parts_.emplace_back();
    WEIR_ASSIGN_OR_RETURN(part.host, gpu.device->allocate_pinned(part_bytes, "loading weights"));
    WEIR_ASSIGN_OR_RETURN(part.device, gpu.device->allocate(part_bytes, "loading weights", "use a smaller model"));
    part.used = gpu.device->event();
  }
  return stage;
}

Result<WeightStage::Part*> WeightStage::next() {
  at_ = (at_ + 1) % parts_.size();
  Part& part = parts_[at_];
  if (part.in_use) WEIR_RETURN_IF_ERROR(part.used.wait());
  part.in_use = false;
  return &part;
}

void WeightStage::done() {
  Part& part = parts_[at_];
  gpu_.stream->record(&part.used);
  part.in_use = true;
}

int64_t WeightStage::rows_at_once(const WeightMatrix& w, int64_t matrices) const {
  // An eighth is room for scales.
  const int64_t rows = part_bytes_ / 8 * 7 / (matrices * stored_row_bytes(w));
  WEIR_CHECK(rows >= kScaleRows || rows >= w.n, "rows of {} bytes", stored_row_bytes(w));
  return rows >= w.n ? w.n : rows / kScaleRows * kScaleRows;
}

Result<std::vector<GpuMatrix>> WeightStage::bring(std::span<const WeightMatrix* const> matrices, int64_t first,
                                                  int64_t count) {
  WEIR_ASSIGN_OR_RETURN(Part * part, next());
  std::vector<GpuMatrix> out;
  int64_t used = 0;
  const auto put = [&](const std::byte* from, int64_t bytes) {
    WEIR_CHECK(used + bytes <= part_bytes_, "{} bytes of weights for a part of {}", used + bytes, part_bytes_);
    std::memcpy(part->host.data() + used, from, static_cast<size_t>(bytes));
    const auto* place = reinterpret_cast<const uint8_t*>(part->device.data() + used);
    used = round_up(used + bytes, kAlign);
    return place;
  };
  for (const WeightMatrix* whole : matrices) {
    const WeightMatrix w = whole->rows(first, count);
    GpuMatrix matrix;
    matrix.n = static_cast<int32_t>(count);
    matrix.k = static_cast<int32_t>(w.k);
    matrix.format = gpu_format(w.format);
    matrix.row_bytes = stored_row_bytes(w);
    if (w.row_bytes == matrix.row_bytes) {
      matrix.data = put(w.data, matrix.row_bytes * count);
    } else {
      // Rows that lie apart close up; the places of all but the first follow.
      for (int64_t n = 0; n < count; ++n) {
        std::memcpy(part->host.data() + used + n * matrix.row_bytes, w.data + n * w.row_bytes,
                    static_cast<size_t>(matrix.row_bytes));
      }
      matrix.data = reinterpret_cast<const uint8_t*>(part->device.data() + used);
      used = round_up(used + matrix.row_bytes * count, kAlign);
    }
    const std::vector<std::byte> scales = device_scales(w, &matrix.scale_stride);
    if (!scales.empty()) matrix.scales = put(scales.data(), static_cast<int64_t>(scales.size()));
    out.push_back(matrix);
  }
  gpu_.stream->copy_in(part->device.data(), part->host.data(), used);
  return out;
}

Status WeightStage::copy(std::byte* to, const void* from, int64_t bytes) {
  for (int64_t first = 0; first < bytes; first += part_bytes_) {
    const int64_t count = std::min(part_bytes_, bytes - first);
    WEIR_ASSIGN_OR_RETURN(Part * part, next());
    std::memcpy(part->host.data(), static_cast<const std::byte*>(from) + first, static_cast<size_t>(count));
    gpu_.stream->copy_in(to + first, part->host.data(), count);
    done();
  }
  return Ok{};
}

}  // namespace weir
