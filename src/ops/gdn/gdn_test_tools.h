// For tests of the Gated DeltaNet mixer on a GPU: a random layer, rows, slots on the device, and what the recurrence in
// float64 and the CPU make of them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ops/gdn/gdn_cases.h"
#include "ops/gdn/gdn_chunks_gpu.h"
#include "ops/gdn/slot.h"
#include "ops/gpu/gpu_test.h"

namespace weir::gdn_test {

enum class Family { kRows, kChunks };

inline constexpr GdnRowsKernel kRowsKernels[] = {GdnRowsKernel::kFew, GdnRowsKernel::kMany};
inline std::string rows_name(const GdnShape& shape, GdnRowsKernel kernel) {
  return std::string(gdn_rows_name(kernel, shape.value_heads / shape.key_heads));
}

struct Piece {
  int64_t slot = 0;
  int64_t row_begin = 0;
  int64_t row_count = 0;
  int64_t position = 0;
};

inline constexpr int64_t kOffset = 256;  // the layer's part does not begin the slot

// A layer, rows and slots on the device.
class Mixer {
 public:
  std::optional<GdnRowsKernel> rows_kernel;  // else the one that gdn_rows takes
  Mixer(Gpu gpu, const Layer& layer, const Inputs& inputs, int64_t slots)
      : gpu_(gpu),
        shape_(layer.shape),
        slot_bytes_(kOffset + gdn_slot_bytes(layer.shape)),
        u_(gpu, inputs.u),
        z_(gpu, inputs.z),
        b_(gpu, inputs.b),
        a_(gpu, inputs.a),
        y_(gpu, std::vector<uint16_t>(static_cast<size_t>(inputs.rows * shape_.values()))),
        conv_(gpu, layer.parameters.conv),
        decay_(gpu, layer.parameters.decay),
        dt_bias_(gpu, layer.parameters.dt_bias),
        norm_(gpu, layer.parameters.norm),
        slots_(gpu, std::vector<uint8_t>(static_cast<size_t>(slot_bytes_ * slots))),
        scratch_(gpu, std::vector<uint8_t>(static_cast<size_t>(gdn_chunks_scratch_bytes(shape_, inputs.rows, slots)),
                                           0xff)) {
    set_shape(shape_, &args_);
    args_.u = u_.data();
    args_.z = z_.data();
    args_.b = b_.data();
    args_.a = a_.data();
    args_.y = y_.data();
    args_.conv = conv_.data();
    args_.decay = decay_.data();
    args_.dt_bias = dt_bias_.data();
    args_.norm = norm_.data();
    args_.scratch = scratch_.data();
    args_.u_stride = shape_.channels();
    args_.z_stride = shape_.values();
    args_.b_stride = args_.a_stride = shape_.value_heads;
    args_.y_stride = shape_.values();
    args_.slot_offset = kOffset;
  }

  void prepare(const std::vector<Piece>& pieces) {
    std::vector<GpuGdnSequence> table;
    chunks_ = 0;
    for (const Piece& p : pieces) {
      GpuGdnSequence s;
      s.slot = slots_.data() + p.slot * slot_bytes_;
      s.row_begin = static_cast<int32_t>(p.row_begin);
      s.row_count = static_cast<int32_t>(p.row_count);
      s.position = static_cast<int32_t>(p.position);
      s.base = static_cast<int32_t>(gdn_base_before(p.position));
      chunks_ += gdn_chunk_count(s.position, s.row_count, s.base);
      table.push_back(s);
    }
    table_ = OnDevice<GpuGdnSequence>(gpu_, table);
    args_.sequences = table_.data();
    args_.sequence_count = static_cast<int32_t>(pieces.size());
  }
  void launch(Family family) {
    if (family == Family::kRows) {
      if (rows_kernel) {
        gdn_rows_by(gpu_, args_, *rows_kernel);
      } else {
        gdn_rows(gpu_, args_);
      }
    } else {
      gdn_chunks(gpu_, args_, chunks_);
    }
  }
  void run(Family family, const std::vector<Piece>& pieces) {
    prepare(pieces);
    launch(family);
    y_.read();  // the next kernel may not start before this one has ended: they share slots
  }
  int64_t slot_bytes() const { return slot_bytes_; }
  const GpuGdnPackedArgs& args() const { return args_; }
  Floats y() const { return float_values(y_.read()); }
  std::vector<uint8_t> slot(int64_t i) const {
    const std::vector<uint8_t> all = slots_.read();
    return {all.begin() + i * slot_bytes_, all.begin() + (i + 1) * slot_bytes_};
  }

 private:
  Gpu gpu_;
  GdnShape shape_;
  int64_t slot_bytes_;
  OnDevice<float> u_;
  OnDevice<float> z_;
  OnDevice<float> b_;
  OnDevice<float> a_;
  OnDevice<uint16_t> y_;
  OnDevice<float> conv_;
  OnDevice<float> decay_;
  OnDevice<float> dt_bias_;
  OnDevice<float> norm_;
  OnDevice<uint8_t> slots_;
  OnDevice<uint8_t> scratch_;
  OnDevice<GpuGdnSequence> table_;
  GpuGdnPackedArgs args_;
  int64_t chunks_ = 0;
};

// The CPU's slot in the order of gdn_packed_args.h; parts of the ring behind `rows` are zeros in both.
struct SlotValues {
  Floats state;
  Floats keys;
  Floats update;
  Floats log_decay;
  Floats inputs;
};

// `rows`: that the ring holds. `packed`: the order of gdn_packed_args.h, else that of slot.h.
SlotValues slot_values(const GdnShape& shape, const uint8_t* layer, int64_t rows, bool packed);

// The CPU's slot after the first `count` rows.
SlotValues cpu_slot(const Layer& layer, const Inputs& inputs, int64_t count);

// Rows of the recurrence in double precision, rounded to bf16.
Floats expected_rows(const Layer& layer, const Inputs& s);

Floats head_of(const Floats& all, int64_t rows, int64_t width);

// Where two arrays of rows differ most.
std::string worst(const Floats& got, const Floats& expected, int64_t width);

}  // namespace weir::gdn_test
