// Brings stored weights from host memory (a mapped file, as a rule) to the device through page-locked memory, while the
// device works on what came before.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "ops/gpu/gpu.h"
#include "ops/linear/gpu_args.h"
#include "tensor/dtype.h"

namespace weir {

int64_t stored_row_bytes(const WeightMatrix& w);
int32_t gpu_format(WeightFormat format);
// The scales as the kernels read them, and how many elements their rows lie apart.
std::vector<std::byte> device_scales(const WeightMatrix& w, int64_t* stride);

class WeightStage {
 public:
  WeightStage() = default;
  // Room for two parts of `part_bytes` each.
  static Result<WeightStage> create(Gpu gpu, int64_t part_bytes);

  // Rows [first, first + count) of matrices of one shape and format, with their scales, in staging memory; `first` is a
  // multiple of 128. For work that is enqueued before done().
  Result<std::vector<GpuMatrix>> bring(std::span<const WeightMatrix* const> matrices, int64_t first, int64_t count);
  // What was brought last has its work enqueued: the memory is used again once that has run.
  void done();
  // Rows that bring() takes of so many matrices like `w` at once: a multiple of 128, or all.
  int64_t rows_at_once(const WeightMatrix& w, int64_t matrices) const;
  // Bytes to `to`, part by part.
  Status copy(std::byte* to, const void* from, int64_t bytes);

 private:
  struct Part {
    device::PinnedBytes host;
    device::Bytes device;
    device::Event used;
    bool in_use = false;
  };
  Result<Part*> next();

  Gpu gpu_;
  int64_t part_bytes_ = 0;
  std::vector<Part> parts_;
  size_t at_ = 0;
};

}  // namespace weir
