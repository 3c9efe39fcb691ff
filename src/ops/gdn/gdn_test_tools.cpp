#include "ops/gdn/gdn_test_tools.h"

#include <algorithm>
#include <cmath>

#include "ops/gdn/slot.h"

namespace weir::gdn_test {

SlotValues slot_values(const GdnShape& shape, const uint8_t* layer, int64_t rows, bool packed) {
  const GdnSlotParts parts = gdn_slot_parts(shape);
  const auto part = [layer](int64_t offset) { return reinterpret_cast<const float*>(layer + offset); };
  constexpr int64_t kDim = 128;
  SlotValues out;
  for (int64_t h = 0; h < shape.value_heads; ++h) {
    for (int64_t d = 0; d < kDim; ++d) {
      for (int64_t c = 0; c < kDim; ++c) {
        out.state.push_back(
            part(parts.state)[packed ? ((h * 4 + c / 32) * kDim + d) * 32 + c % 32 : (h * kDim + d) * kDim + c]);
      }
    }
    for (int64_t t = 0; t < rows; ++t) {
      out.log_decay.push_back(part(parts.log_decay)[h * 64 + t]);
      for (int64_t c = 0; c < kDim; ++c) {
        out.update.push_back(
            part(parts.update)[packed ? ((h * 4 + c / 32) * 64 + t) * 32 + c % 32 : (h * 64 + t) * kDim + c]);
      }
    }
  }
  for (int64_t h = 0; h < shape.key_heads; ++h) {
    for (int64_t t = 0; t < rows; ++t) {
      for (int64_t d = 0; d < kDim; ++d) {
        out.keys.push_back(part(parts.keys)[packed ? (h * 64 + t) * kDim + d : (h * kDim + d) * 64 + t]);
      }
    }
  }
  out.inputs.assign(part(parts.inputs), part(parts.inputs) + kGdnInputRing * shape.channels());
  return out;
}

SlotValues cpu_slot(const Layer& layer, const Inputs& inputs, int64_t count) {
  const GdnShape& shape = layer.shape;
  Cpu cpu;
  cpu.reserve_scratch(gdn_scratch_bytes(shape, cpu.threads()));
  AlignedBytes slot(gdn_slot_bytes(shape));
  gdn_zero_slot(shape, slot.data());
  Floats y(static_cast<size_t>(count * shape.values()));
  const GdnSequence sequence{0, count, 0, slot.data()};
  GdnArgs args;
  args.parameters = &layer.parameters;
  args.u = inputs.u.data();
  args.u_stride = shape.channels();
  args.z = inputs.z.data();
  args.z_stride = shape.values();
  args.b = inputs.b.data();
  args.b_stride = args.a_stride = shape.value_heads;
  args.a = inputs.a.data();
  args.sequences = {&sequence, 1};
  args.y = y.data();
  args.y_stride = shape.values();
  gdn(cpu, args);
  return slot_values(shape, reinterpret_cast<const uint8_t*>(slot.data()), count - gdn_base_before(count), false);
}

Floats expected_rows(const Layer& layer, const Inputs& s) {
  const GdnShape& shape = layer.shape;
  const reference::GdnInputs inputs{cases::rows_of(s.u, shape.channels()), cases::rows_of(s.z, shape.values()),
                                    cases::rows_of(s.b, shape.value_heads), cases::rows_of(s.a, shape.value_heads)};
  Floats out;
  for (const auto& row : reference::gdn(shape, layer.conv, layer.a_log, layer.dt_bias, layer.norm, inputs)) {
    for (const double x : row) out.push_back(bf16_to_float(float_to_bf16(static_cast<float>(x))));
  }
  return out;
}

Floats head_of(const Floats& all, int64_t rows, int64_t width) {
  return {all.begin(), all.begin() + rows * width};
}

std::string worst(const Floats& got, const Floats& expected, int64_t width) {
  size_t at = 0;
  double most = -1;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double d = std::abs(static_cast<double>(got[i]) - static_cast<double>(expected[i]));
    if (!(d <= most)) {
      at = i;
      most = d;
      if (std::isnan(d)) break;
    }
  }
  const auto i = static_cast<int64_t>(at);
  return "row " + std::to_string(i / width) + " column " + std::to_string(i % width) + ": " + std::to_string(got[at]) +
         " for " + std::to_string(expected[at]);
}

}  // namespace weir::gdn_test
