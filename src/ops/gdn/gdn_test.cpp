#include "ops/gdn/gdn.h"

#include <gtest/gtest.h>

#include <cstring>

#include "ops/gdn/gdn_cases.h"

namespace weir {
namespace {

using cases::Floats;
using gdn_test::Layer;
using Sequence = gdn_test::Inputs;

constexpr int64_t kOffset = 64;  // the layer's part does not begin the slot

class Slot {
 public:
  explicit Slot(const GdnShape& shape) : bytes_(kOffset + gdn_slot_bytes(shape)) {
    gdn_zero_slot(shape, bytes_.data() + kOffset);
  }
  std::byte* data() { return bytes_.data(); }
  AlignedBytes& bytes() { return bytes_; }

 private:
  AlignedBytes bytes_;
};

// Rows [position, position + count) of one sequence into y.
void step(Cpu& cpu, const Layer& layer, const Sequence& s, Slot& slot, int64_t position, int64_t count, Floats& y) {
  const GdnShape& shape = layer.shape;
  const GdnSequence sequence{position, count, position, slot.data()};
  GdnArgs args;
  args.parameters = &layer.parameters;
  args.u = s.u.data();
  args.u_stride = shape.channels();
  args.z = s.z.data();
  args.z_stride = shape.values();
  args.b = s.b.data();
  args.b_stride = shape.value_heads;
  args.a = s.a.data();
  args.a_stride = shape.value_heads;
  args.sequences = {&sequence, 1};
  args.slot_offset = kOffset;
  args.y = y.data();
  args.y_stride = shape.values();
  gdn(cpu, args);
}

Floats run(Cpu& cpu, const Layer& layer, const Sequence& s, int64_t chunk) {
  Slot slot(layer.shape);
  Floats y(static_cast<size_t>(s.rows * layer.shape.values()));
  for (int64_t t = 0; t < s.rows; t += chunk) step(cpu, layer, s, slot, t, std::min(chunk, s.rows - t), y);
  return y;
}

std::vector<GdnShape> shapes() {
  return {{2, 4, 16, 24, 1e-6F}, {1, 1, 32, 32, 1e-6F}, {2, 2, 24, 16, 1e-5F}};
}

TEST(Gdn, AgreesWithTheRecurrenceInDoublePrecision) {
  for (const GdnShape& shape : shapes()) {
    Cpu cpu;
    cpu.reserve_scratch(gdn_scratch_bytes(shape, cpu.threads()));
    const Layer layer(shape);
    const Sequence s(shape, 10, 330);
    const reference::GdnInputs inputs{cases::rows_of(s.u, shape.channels()), cases::rows_of(s.z, shape.values()),
                                      cases::rows_of(s.b, shape.value_heads), cases::rows_of(s.a, shape.value_heads)};
    const auto expected = reference::gdn(shape, layer.conv, layer.a_log, layer.dt_bias, layer.norm, inputs);
    EXPECT_LT(cases::row_error(run(cpu, layer, s, 330), expected), 2e-4) << shape.key_dim;
  }
}

TEST(Gdn, ARowsBitsDependOnItsPositionAndHistoryAlone) {
  for (const GdnShape& shape : shapes()) {
    const auto cpus = cases::all_cpus(gdn_scratch_bytes(shape, cases::kThreadsMax));
    const Layer layer(shape);
    const Sequence s(shape, 20, 200);
    const Floats all = run(*cpus[0], layer, s, 200);
    for (const auto& cpu : cpus) {
      for (const int64_t chunk : {1, 2, 7, 64, 100, 200}) {
        ASSERT_TRUE(cases::same_bits(run(*cpu, layer, s, chunk), all))
            << isa_name(cpu->isa()) << " " << cpu->threads() << " threads, chunk " << chunk;
      }
    }
  }
}

TEST(Gdn, SequencesSideBySideDoNotTouchEachOther) {
  const GdnShape shape = shapes()[0];
  const Layer layer(shape);
  Cpu cpu;
  cpu.reserve_scratch(gdn_scratch_bytes(shape, cpu.threads()));
  const Sequence both(shape, 30, 150);  // rows 0..99 are one sequence, 100..149 another
  Slot first(shape);
  Slot second(shape);
  Floats y(static_cast<size_t>(both.rows * shape.values()));
  const GdnSequence sequences[] = {{0, 100, 0, first.data()}, {100, 50, 0, second.data()}};
  GdnArgs args;
  args.parameters = &layer.parameters;
  args.u = both.u.data();
  args.u_stride = shape.channels();
  args.z = both.z.data();
  args.z_stride = shape.values();
  args.b = both.b.data();
  args.b_stride = shape.value_heads;
  args.a = both.a.data();
  args.a_stride = shape.value_heads;
  args.sequences = sequences;
  args.slot_offset = kOffset;
  args.y = y.data();
  args.y_stride = shape.values();
  gdn(cpu, args);
  const Floats alone = run(cpu, layer, both, 100);
  EXPECT_TRUE(cases::same_bits(std::span(y).first(static_cast<size_t>(100 * shape.values())),
                               std::span(alone).first(static_cast<size_t>(100 * shape.values()))));
  EXPECT_EQ(gdn_slot_base(first.data() + kOffset), 64);
  EXPECT_EQ(gdn_slot_base(second.data() + kOffset), 0);
}

TEST(Gdn, RowsAreTakenBackByContinuingEarlier) {
  const GdnShape shape = shapes()[0];
  const Layer layer(shape);
  Cpu cpu;
  cpu.reserve_scratch(gdn_scratch_bytes(shape, cpu.threads()));
  const Sequence s(shape, 40, 130);
  const Sequence wrong(shape, 50, 130);
  const Floats all = run(cpu, layer, s, 130);
  for (const int64_t position : {3, 20, 51, 64, 100, 115}) {
    Slot slot(shape);
    Floats y(all.size());
    step(cpu, layer, s, slot, 0, position, y);
    step(cpu, layer, wrong, slot, position, kGdnRollbackMax, y);
    step(cpu, layer, s, slot, position, 130 - position, y);
    ASSERT_TRUE(cases::same_bits(y, all)) << position;
  }
}

TEST(Gdn, ACopiedSlotContinuesWithTheSameBits) {
  const GdnShape shape = shapes()[1];
  const Layer layer(shape);
  Cpu cpu;
  cpu.reserve_scratch(gdn_scratch_bytes(shape, cpu.threads()));
  const Sequence s(shape, 60, 160);
  const Floats all = run(cpu, layer, s, 160);
  for (const int64_t position : {1, 63, 64, 65, 128, 150}) {
    Slot slot(shape);
    Slot copy(shape);
    Floats y(all.size());
    step(cpu, layer, s, slot, 0, position, y);
    std::memcpy(copy.data(), slot.data(), static_cast<size_t>(slot.bytes().size()));
    step(cpu, layer, s, copy, position, 160 - position, y);
    ASSERT_TRUE(cases::same_bits(y, all)) << position;
  }
}

}  // namespace
}  // namespace weir
